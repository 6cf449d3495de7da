#include "runtime/process/spawn.hpp"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/logging.hpp>
#include <mutex>
#include <new>
#include <system_error>
#include <typeinfo>
#include <utility>

#include "runtime/base/affinity_mask.hpp"
#include "runtime/base/exceptions.hpp"
#include "runtime/base/fd_bag.hpp"
#include "runtime/process/child_binding.hpp"
#include "runtime/process/context_state.hpp"
#include "runtime/process/process_record.hpp"
#include "runtime/process/shared_topology.hpp"
#include "shm/arena.hpp"
#include "shm/reaper.hpp"
#include "shm/ref_table.hpp"

extern char** environ;  // NOLINT(readability-redundant-declaration): not in every <unistd.h>

namespace millrace::runtime {
namespace {

// A message of this level is written wherever there is a handler.
constexpr auto kHighest = static_cast<logging::Level>(INT_MAX);

// The classes that MILLRACE_PROCESS has named. Static initialisers and dlopen() add to it while
// other threads may look: PUBLISH class (release) pairs with OBSERVE class (acquire).
std::atomic<ProcessClass*> g_classes{nullptr};

const ProcessClass& class_of(const std::type_info& type) {
  // OBSERVE class: acquire
  const ProcessClass* entry = g_classes.load(std::memory_order_acquire);
  while (entry != nullptr && *entry->type != type) entry = entry->next;
  if (entry != nullptr) return *entry;
  const std::string name = demangle(type);
  throw TypeError("the start method spawn cannot send a " + name +
                  " to its process: write MILLRACE_PROCESS(" + name + "); at namespace scope");
}

// The file this program was started from. The link of a program whose file is gone, or was
// replaced, has a suffix and names nothing; the kernel still executes what it stands for.
std::string program_file() {
  if (std::string named = executable(); !named.empty()) return named;
  const char* const link = "/proc/self/exe";
  std::array<char, PATH_MAX> path{};
  const ssize_t length = ::readlink(link, path.data(), path.size());
  if (length <= 0 || static_cast<std::size_t>(length) == path.size()) return link;
  std::string file(path.data(), static_cast<std::size_t>(length));
  return ::access(file.c_str(), X_OK) == 0 ? file : link;
}

// What posix_spawn() does in the child before it executes the program.
class Preparations {
 public:
  Preparations(int arena_fd, int inherited) {
    check(::posix_spawn_file_actions_init(&actions_));
    if (const int error = ::posix_spawnattr_init(&attributes_); error != 0) {
      ::posix_spawn_file_actions_destroy(&actions_);
      check(error);
    }
    check(::posix_spawn_file_actions_adddup2(&actions_, arena_fd, kArenaDescriptor));
    give(inherited, kInheritedDescriptor);
    const BagEnds bag = open_fd_bag();
    give(bag.in, kBagDescriptors.in);
    give(bag.out, kBagDescriptors.out);
    check(::posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0));
    check(::posix_spawn_file_actions_addclosefrom_np(&actions_, kBagDescriptors.out + 1));
    // The signals by which a process is ended or fails are let through, as in a forked child.
    sigset_t mask;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    let_endings_through(mask);
    check(::posix_spawnattr_setsigmask(&attributes_, &mask));
    check(::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK));
  }
  ~Preparations() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  Preparations(const Preparations&) = delete;
  Preparations& operator=(const Preparations&) = delete;

  // 0, or why not.
  int execute(pid_t& pid, const std::string& file, char* const* arguments) const noexcept {
    return ::posix_spawn(&pid, file.c_str(), &actions_, &attributes_, arguments, environ);
  }

 private:
  // Puts `fd` where the child looks for it; nothing if there is none.
  void give(int fd, int place) {
    check(fd >= 0 ? ::posix_spawn_file_actions_adddup2(&actions_, fd, place)
                  : ::posix_spawn_file_actions_addclose(&actions_, place));
  }
  static void check(int error) {
    if (error != 0) throw start_error(error, "posix_spawn");
  }

  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

// Executes the program with the affinity mask that this one was given, whatever binds this thread.
pid_t execute(const Preparations& prepared, std::string file, std::string argument) {
  std::string name = executable().empty() ? program_invocation_name : file;
  const std::array<char*, 3> arguments{name.data(), argument.data(), nullptr};
  const AffinityMask before = AffinityMask::of_this_thread();
  const bool widened = AffinityMask::initial().apply_if_wider(before);
  pid_t pid = -1;
  const int error = prepared.execute(pid, file, arguments.data());
  if (widened) before.apply();
  if (error != 0) throw start_error(error, "posix_spawn of " + file);
  return pid;
}

}  // namespace

void add_process_class(ProcessClass& entry) noexcept {
  entry.next = g_classes.load(std::memory_order_relaxed);  // relaxed: only its address is used
  // PUBLISH class: release
  while (!g_classes.compare_exchange_weak(entry.next, &entry, std::memory_order_release,
                                          std::memory_order_relaxed)) {
  }
}

std::system_error start_error(int error, std::string what) {
  rlimit limit{};
  const bool known = ::getrlimit(RLIMIT_NOFILE, &limit) == 0;
  // Of a number beyond the limit it is said that it is none; all are open that a child is given.
  if (error == EBADF) error = EMFILE;
  if (known && error == EMFILE) {
    what += " (RLIMIT_NOFILE is " + std::to_string(limit.rlim_cur) +
            "; raise it, as with ulimit -n, or close descriptors)";
  }
  return {error, std::generic_category(), what};
}

void throw_no_serialize(const std::type_info& type) {
  throw TypeError("the start method spawn cannot send a " + demangle(type) +
                  " to its process: it has members, so it needs a public serialize(), or save() "
                  "and load()");
}

SpawnMessage::SpawnMessage() : id_(shm::ProcessTable::instance().reserve()), creator_(::getpid()) {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  shm::Arena& arena = shm::Arena::instance();
  void* block = nullptr;
  try {
    block = arena.allocate(sizeof(StartBlock));
  } catch (...) {
    table.cancel(id_);
    throw;
  }
  start_ = ::new (block) StartBlock{StartBlock::kMagic, id_, {}, nullptr, 0, 0, {}, id_};
  arena.give(block, id_);
  table.set_heir(id_, shm::self());
  table.note_messages();
  // MESSAGE of a process: release, to the acquire of its reaper
  table.message_of(id_).store(reinterpret_cast<std::uint64_t>(block), std::memory_order_release);
}

SpawnMessage::~SpawnMessage() {
  if (id_ == shm::kNobody || ::getpid() != creator_) return;
  take_back();
  {
    const shm::InMessage counted = encoding();
    content_.revert(0);
  }
  shm::reap(id_);
}

StartBlock* SpawnMessage::place(StartKind kind) {
  if (start_->payload != nullptr) return start_;
  offer_topology();
  std::vector<KeptReference> kept;
  kept.reserve(content_.kept_count());
  content_.each_kept([&](std::size_t offset, wire::Writer::Drop drop, wire::Writer::Holds holds) {
    kept.push_back({offset, function_id(reinterpret_cast<AnyFunction>(drop)),
                    holds == wire::Writer::Holds::block ? block_bytes_at(offset) : 0});
  });
  const std::size_t list = list_offset(content_.size());
  const std::size_t list_bytes = kept.size() * sizeof(KeptReference);
  auto* const payload = static_cast<std::byte*>(shm::allocate(list + list_bytes));
  std::memcpy(payload, content_.data(), content_.size());
  if (!kept.empty()) std::memcpy(payload + list, kept.data(), list_bytes);
  start_->kind = kind;
  start_->content_bytes = content_.size();
  start_->kept_count = kept.size();
  give_parts(shm::self(), id_);
  shm::Arena::instance().give(payload, id_);
  // PAYLOAD message: release, to the acquire of a reaper (spawn_child.cpp), who drops what it lists
  std::atomic_ref<void*>(start_->payload).store(payload, std::memory_order_release);
  return start_;
}

// At every step one of the two, or none, finds its id in the block and the block in the arena.
void SpawnMessage::readdress() {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  const shm::ProcessId before = id_;
  const shm::ProcessId id = table.reserve();
  try {
    // The former child's go with it; what that had inherited besides, the next one has as well.
    shm::RefTable::of(id).copy(shm::RefTable::of(before), id);
  } catch (...) {
    shm::reap(id);
    throw;
  }
  table.set_heir(id, shm::self());
  give_parts(before, shm::kNobody);
  shm::Arena::instance().give(start_->payload, before, shm::kNobody);
  // MESSAGE of a process: release, as in place()
  table.message_of(id).store(reinterpret_cast<std::uint64_t>(start_), std::memory_order_release);
  // MESSAGE of a process: release, the other word before
  start_->id.store(id, std::memory_order_release);
  // relaxed: from here on the former child's reaper leaves the message alone
  table.message_of(before).store(0, std::memory_order_relaxed);
  give_parts(shm::kNobody, id);
  shm::Arena::instance().give(start_->payload, shm::kNobody, id);
  id_ = id;
  shm::reap(before);
}

// Undoes place(): there is no such child, and its id is not reaped yet.
void SpawnMessage::take_back() noexcept {
  StartBlock* const start = std::exchange(start_, nullptr);
  if (start == nullptr) return;
  // relaxed: nobody else looks while this process, the heir, lives
  shm::ProcessTable::instance().message_of(id_).store(0, std::memory_order_relaxed);
  if (start->payload != nullptr) shm::deallocate(start->payload);
  shm::deallocate(start);
}

void SpawnMessage::hand_over() noexcept {
  start_ = nullptr;
  id_ = shm::kNobody;
  content_.clear();
}

std::uint32_t SpawnMessage::block_bytes_at(std::size_t offset) const noexcept {
  const void* block = nullptr;
  std::memcpy(&block, content_.data() + offset, sizeof block);
  for (const shm::MessageBlock& one : blocks_) {
    if (one.begin == block) return static_cast<std::uint32_t>(one.bytes);
  }
  return 0;
}

// What was there before the payload.
void SpawnMessage::give_parts(shm::ProcessId from, shm::ProcessId to) noexcept {
  shm::Arena& arena = shm::Arena::instance();
  arena.give(start_, from, to);
  for (const shm::MessageBlock& one : blocks_) arena.give(const_cast<void*>(one.begin), from, to);
}

pid_t SpawnMessage::send(StartKind kind, int inherited) {
  const Preparations prepared(shm::Arena::instance().fd(), inherited);
  place(kind);
  flush_std_streams();
  const pid_t pid = execute(prepared, program_file(), spawn_argument(start_));
  shm::ProcessTable::instance().entrust(id_, pid);
  hand_over();
  return pid;
}

std::unique_ptr<SpawnMessage> describe_child(const ProcessRecord& record, const std::string& method,
                                             const ParentIdentity& parent,
                                             const ChildBinding& binding) {
  ChildDescription child;
  {
    const std::lock_guard guard(process_mutex());
    child.name = record.name;
    child.class_name = record.class_name;
    child.identity = record.identity;
    child.daemon = record.daemon;
    child.may_have_children = record.may_have_children;
    child.authkey = record.authkey->view();
  }
  child.method = method;
  child.executable = executable();
  child.log_level = static_cast<int>(get_logger().level());
  child.log_to_stderr = get_logger().enabled(kHighest);
  child.parent_pid = parent.pid;
  child.parent_id = parent.id;
  child.parent_name = parent.name;
  child.place = binding.place();
  child.parent_mask = AffinityMask::of_this_thread().words();
  auto message = std::make_unique<SpawnMessage>();
  wire::encode(message->writer(), child);
  return message;
}

void SpawnedProcess::encode(wire::Writer& out, const Process& process) {
  constexpr FunctionId kNone = 0;
  if (typeid(process) == typeid(Process)) {
    out.put(kNone);
  } else {
    const ProcessClass& entry = class_of(typeid(process));
    out.put(entry.loader());
    entry.save(out, process);
  }
  const std::size_t place = out.size();
  out.put(kNone);
  if (process.target_ == nullptr) return;
  const FunctionId decode = process.target_->encode(out);
  std::memcpy(out.data() + place, &decode, sizeof decode);
}

std::unique_ptr<Process> SpawnedProcess::decode(wire::Reader& in,
                                                std::shared_ptr<ProcessRecord> record) {
  std::unique_ptr<Process> process;
  if (const auto load = in.take<FunctionId>(); load != 0) {
    process = reinterpret_cast<ProcessClass::Load>(resolve_function(load))(in);
  } else {
    process = std::make_unique<Process>();
  }
  process->record_ = std::move(record);
  if (const auto decode = in.take<FunctionId>(); decode != 0) {
    process->target_ = reinterpret_cast<ProcessTarget::Decode>(resolve_function(decode))(in);
  }
  return process;
}

}  // namespace millrace::runtime
