// The executed child's side of spawn.hpp: it finds its message before the program's own static
// initialisers, and runs it in freeze_support().
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <millrace/context.hpp>
#include <millrace/errors.hpp>
#include <millrace/logging.hpp>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "runtime/base/affinity_mask.hpp"
#include "runtime/pool/zygote_start.hpp"
#include "runtime/process/child_binding.hpp"
#include "runtime/process/context_state.hpp"
#include "runtime/process/fork_server.hpp"
#include "runtime/process/process_record.hpp"
#include "runtime/process/shared_topology.hpp"
#include "runtime/process/spawn.hpp"
#include "sched/topology.hpp"
#include "shm/arena.hpp"
#include "shm/reaper.hpp"

namespace millrace {
namespace runtime {
namespace {

constexpr std::string_view kPrefix = "--millrace-spawn=";

constexpr const char* kIdiom =
    "main() of a program that uses the start methods spawn and forkserver has to begin with\n\n"
    "    int main(int argc, char** argv) {\n"
    "      mp::freeze_support(argc, argv);\n"
    "      ...\n";

// All written before main() or by freeze_support().
StartBlock* g_start = nullptr;  // null: this process was not spawned
bool g_arrived = false;         // at freeze_support()
pid_t g_spawned_pid = 0;        // the spawned process, not one that it forks

void report_missing_call() {
  if (g_arrived || ::getpid() != g_spawned_pid) return;
  flush_std_streams();
  print_error("a spawned process ended without having run its target: " + std::string(kIdiom));
  ::_exit(1);
}

bool readable(const void* payload, std::uint64_t bytes) noexcept {
  shm::Arena& arena = shm::Arena::instance();
  const auto* const at = static_cast<const std::byte*>(payload);
  return shm::Arena::contains(at) &&
         bytes <= static_cast<std::size_t>(arena.base() + arena.size() - at);
}

// The head of a message, that may have no payload yet.
bool is_start(const StartBlock* start) noexcept {
  return reinterpret_cast<std::uintptr_t>(start) % alignof(StartBlock) == 0 &&
         readable(start, sizeof *start) && start->magic == StartBlock::kMagic;
}

bool has_payload(const StartBlock& start) noexcept {
  // PAYLOAD message: acquire, what it lists; see spawn.cpp
  return std::atomic_ref<void*>(const_cast<void*&>(start.payload))
             .load(std::memory_order_acquire) != nullptr;
}

// "id-offset", both hexadecimal.
bool parse_argument(std::string_view text, shm::ProcessId& id, std::size_t& offset) {
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, id, 16);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return false;
  const auto second = std::from_chars(first.ptr + 1, end, offset, 16);
  return second.ec == std::errc() && second.ptr == end;
}

// Adopts this process's id: the message is its own from then on.
StartBlock* find_message(std::string_view text) {
  shm::Arena& arena = shm::Arena::attach(kArenaDescriptor);
  shm::ProcessId id = 0;
  std::size_t offset = 0;
  if (!parse_argument(text, id, offset) || offset >= arena.size()) {
    throw Corrupt("'" + std::string(text) + "' is no place in the arena");
  }
  shm::ProcessTable::instance().adopt(id);
  // relaxed: this thread has set it, or has not. Too late: its parent was killed, and the message
  // went with the reservation.
  if (shm::this_process_id.load(std::memory_order_relaxed) != id) ::_exit(1);
  auto* const start = reinterpret_cast<StartBlock*>(arena.base() + offset);
  // relaxed: written before this process was made
  if (!valid_start(start) || start->id.load(std::memory_order_relaxed) != id) {
    throw Corrupt("there is no message for this process at " + std::string(text));
  }
  return start;
}

// Runs with what main() will get, before the static initialisers of default priority: they may
// already use the library, which must then use the parent's arena, under the id that the parent
// knows.
[[gnu::constructor(101)]] void recognise_spawned_process(int argc, char** argv, char**) {
  if (argc != 2 || argv == nullptr || argv[1] == nullptr) return;
  const std::string_view argument(argv[1]);
  if (argument.substr(0, kPrefix.size()) != kPrefix) return;
  try {
    g_start = find_message(argument.substr(kPrefix.size()));
    adopt_fd_bag(kBagDescriptors);
    take_offered_topology();
    // Another copy of the library, in a plugin, must not take it for its own.
    *argv[1] = 0;
    g_spawned_pid = ::getpid();
    if (std::atexit(&report_missing_call) != 0) throw std::bad_alloc();
  } catch (const std::exception& e) {
    print_error(std::string("a spawned process cannot be connected to its parent: ") + e.what() +
                "\n");
    ::_exit(1);
  }
}

std::shared_ptr<ProcessRecord> record_of(ChildDescription& child) {
  auto record = std::make_shared<ProcessRecord>();
  record->creator = child.parent_pid;
  record->name = std::move(child.name);
  record->class_name = std::move(child.class_name);
  record->identity = std::move(child.identity);
  record->daemon = child.daemon;
  record->may_have_children = child.may_have_children;
  record->authkey = Bytes(std::move(child.authkey));
  return record;
}

// From here on this process is what the message says.
RecordPtr become_described(ChildDescription child, bool served) {
  const RecordPtr record = record_of(child);
  become(record, {child.parent_pid, child.parent_id, child.parent_name});
  set_parent_affinity(AffinityMask(std::move(child.parent_mask)));
  if (child.daemon && served) end_with_distant_parent(child.parent_pid, child.parent_id);
  if (child.daemon && !served) end_with_parent(child.parent_pid);
  if (child.log_to_stderr) log_to_stderr();
  get_logger().set_level(static_cast<logging::Level>(child.log_level));
  set_child_start_method(child.method);
  set_executable(std::move(child.executable));
  ChildBinding(std::move(child.place)).apply();
  return record;
}

// The child has its own references, or is dead. The message is forgotten before its memory is given
// back.
void drop_message(StartBlock& start, shm::ProcessId child) noexcept {
  const bool complete = start.payload != nullptr;  // else its maker was killed before
  if (complete) settle_message(start);
  // What was in hand when somebody died in there, or never came to be listed.
  if (child != shm::self()) discard_fds_of_message(start.first_id);
  // relaxed: read by the reaper of this process, or the next one of the child
  shm::ProcessTable::instance().message_of(child).store(0, std::memory_order_relaxed);
  if (complete) shm::deallocate(start.payload);
  shm::deallocate(&start);
}

// Of a reference that is the address of a block.
shm::MessageBlock block_of(const StartBlock& start, const KeptReference& kept) noexcept {
  shm::MessageBlock block;
  if (kept.block_bytes == 0) return block;
  std::memcpy(&block.begin, static_cast<std::byte*>(start.payload) + kept.offset,
              sizeof block.begin);
  block.bytes = kept.block_bytes;
  return block;
}

// What drops one of the message's references; null for what is no reference.
wire::Writer::Drop drop_of(const StartBlock& start, const KeptReference& kept) noexcept {
  try {
    if (kept.offset >= start.content_bytes) return nullptr;
    return reinterpret_cast<wire::Writer::Drop>(resolve_function(kept.drop));
  } catch (const std::exception&) {
    return nullptr;  // a library that is not to be had here: its reference stays
  }
}

// For the reaper of `dead`.
void drop_left_message(shm::ProcessId dead, void* message) noexcept {
  auto* const start = static_cast<StartBlock*>(message);
  const bool whole = is_start(start) && (!has_payload(*start) || valid_start(start));
  // MESSAGE of a process: acquire, see spawn.cpp; one that is put under another id is that one's
  if (!whole || start->id.load(std::memory_order_acquire) != dead) return;
  drop_message(*start, dead);
}

[[maybe_unused]] const bool g_settler_set = (shm::set_message_settler(&drop_left_message), true);

void run_message(void* argument) {
  auto& start = *static_cast<StartBlock*>(argument);
  wire::Reader in(start.payload, start.content_bytes, wire::References::borrow);
  if (start.kind == StartKind::fork_server) return become_fork_server(in);
  const RecordPtr record =
      become_described(wire::decode<ChildDescription>(in), start.kind == StartKind::served_process);
  if (start.kind == StartKind::zygote) {
    const ZygoteOrders orders = take_zygote_orders(in);
    finish_message(start);
    (void)AffinityMask::initial().apply();  // not its parent's: it binds its workers
    if (orders.plan.apply_binding) (void)sched::Topology::system();  // once for all of them
    run_zygote(*orders.shared, orders.plan, kPokeDescriptor);
  }
  // As under fork, the object lives until the process ends.
  Process& process = *SpawnedProcess::decode(in, record).release();
  restart_numbering();  // what the class's constructor made is not counted
  finish_message(start);
  get_logger().info("child process calling self.run()");
  process.run();
}

}  // namespace

bool valid_start(const StartBlock* start) noexcept {
  return is_start(start) && has_payload(*start) && start->content_bytes <= shm::kArenaLargest &&
         start->kept_count <= shm::kArenaLargest &&
         readable(start->payload,
                  list_offset(start->content_bytes) + start->kept_count * sizeof(KeptReference));
}

void settle_message(StartBlock& start) noexcept {
  auto* const payload = static_cast<std::byte*>(start.payload);
  const std::byte* const list = payload + list_offset(start.content_bytes);
  // DROP reference: acquire, what a reaper that died in here had done
  std::uint64_t next = start.dropped.load(std::memory_order_acquire);
  // relaxed: of a process that does not change any more
  const shm::ProcessId id = start.id.load(std::memory_order_relaxed);
  while (next < start.kept_count) {
    KeptReference kept{};
    std::memcpy(&kept, list + next * sizeof kept, sizeof kept);
    // DROP reference: release. Before it is given back, so that nobody does it again.
    start.dropped.store(++next, std::memory_order_release);
    if (const wire::Writer::Drop drop = drop_of(start, kept)) {
      const shm::InMessage counted(id, block_of(start, kept));
      drop(payload + kept.offset);
    }
  }
}

void finish_message(StartBlock& start) noexcept {
  const bool watched = start.kind == StartKind::served_process;  // its heir learns its status
  drop_message(start, shm::self());
  if (!watched) shm::ProcessTable::instance().set_heir(shm::self(), shm::kNobody);
}

void run_started(StartBlock* start) noexcept { exit_process(run_guarded(&run_message, start)); }

const char* freeze_support_idiom() noexcept { return kIdiom; }

std::string spawn_argument(const StartBlock* start) {
  std::array<char, 40> digits{};
  char* const limit = digits.data() + digits.size();
  const auto offset = static_cast<std::size_t>(reinterpret_cast<const std::byte*>(start) -
                                               shm::Arena::instance().base());
  char* at = std::to_chars(digits.data(), limit, start->id, 16).ptr;
  *at++ = '-';
  at = std::to_chars(at, limit, offset, 16).ptr;
  return std::string(kPrefix).append(digits.data(), at);
}

void check_freeze_support() {
  if (g_start == nullptr || g_arrived) return;
  throw std::runtime_error(
      "a spawned process cannot start processes before it has come to "
      "mp::freeze_support(argc, argv): " +
      std::string(kIdiom));
}

}  // namespace runtime

void freeze_support(int, char**) {
  if (runtime::g_start == nullptr || std::exchange(runtime::g_arrived, true)) return;
  runtime::run_started(runtime::g_start);
}

}  // namespace millrace
