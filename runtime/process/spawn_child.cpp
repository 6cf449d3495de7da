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
#include "runtime/process/spawn.hpp"
#include "shm/arena.hpp"

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

StartBlock* find_message(std::string_view text) {
  std::size_t offset = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), offset, 16);
  shm::Arena& arena = shm::Arena::attach(kArenaDescriptor);
  if (error != std::errc() || end != text.data() + text.size() || offset >= arena.size()) {
    throw Corrupt("'" + std::string(text) + "' is no place in the arena");
  }
  auto* const start = reinterpret_cast<StartBlock*>(arena.base() + offset);
  if (!valid_start(start)) {
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
    shm::ProcessTable::instance().adopt(g_start->id);
    adopt_fd_bag(kBagDescriptors);
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

// The child needs nothing of the message any more.
void drop_message(StartBlock& start) noexcept {
  shm::deallocate(start.payload);
  // TAKE message: release pairs with the acquire in spawn.cpp
  start.taken.store(1, std::memory_order_release);
}

void run_message(void* argument) {
  auto& start = *static_cast<StartBlock*>(argument);
  wire::Reader in(start.payload, start.payload_bytes, wire::References::borrow);
  if (start.kind == StartKind::fork_server) return become_fork_server(in);
  const RecordPtr record =
      become_described(wire::decode<ChildDescription>(in), start.kind == StartKind::served_process);
  if (start.kind == StartKind::zygote) {
    const ZygoteOrders orders = take_zygote_orders(in);
    drop_message(start);
    (void)AffinityMask::initial().apply();  // not its parent's: it binds its workers
    run_zygote(*orders.shared, orders.plan, kPokeDescriptor);
  }
  // As under fork, the object lives until the process ends.
  Process& process = *SpawnedProcess::decode(in, record).release();
  restart_numbering();  // what the class's constructor made is not counted
  drop_message(start);
  get_logger().info("child process calling self.run()");
  process.run();
}

}  // namespace

bool valid_start(const StartBlock* start) noexcept {
  return reinterpret_cast<std::uintptr_t>(start) % alignof(StartBlock) == 0 &&
         readable(start, sizeof *start) && start->magic == StartBlock::kMagic &&
         readable(start->payload, start->payload_bytes);
}

void run_started(StartBlock* start) noexcept { exit_process(run_guarded(&run_message, start)); }

const char* freeze_support_idiom() noexcept { return kIdiom; }

std::string spawn_argument(const StartBlock* start) {
  std::array<char, 17> digits{};
  const auto offset = static_cast<std::size_t>(reinterpret_cast<const std::byte*>(start) -
                                               shm::Arena::instance().base());
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), offset, 16).ptr;
  return std::string(kPrefix).append(digits.data(), end);
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
