// Processes that do not begin as a copy of their parent: the start method "spawn".
//
// The parent encodes what the child is and what it shall run, puts the bytes into the arena and
// executes the program anew (posix_spawn: its own memory is not copied). The child has the standard
// streams, the arena's descriptor and one argument that says where the bytes lie. Before any static
// initialiser of the program it maps the arena and takes its place in the process table;
// freeze_support() then decodes and runs. From there on it is a child like any other (child.hpp).
//
//     parent  encode -> reserve id -> StartBlock, payload (given to the id) -> posix_spawn
//     child   attach arena -> adopt id -> ... main -> freeze_support: decode, taken = 1, run
//
// Invariants
// 1. The message keeps the references inside (handles, copies of callables); the child borrows
//    them. The parent gives them back once the child says `taken`, or has ended.
// 2. StartBlock and payload belong to the child's id from before it exists.
// 3. A process that was started like this starts no other before it has come to freeze_support():
//    a main() without that call would start itself for ever.
//
// What happens when a process dies between any two steps:
//   parent, before posix_spawn: the blocks belong to a reservation of a dead process and are swept
//     with it; the references of handles in the message stay until the program ends.
//   parent, after it: the child decodes and runs (a daemonic one ends); the same holds for the
//     references. A copied callable in the arena is the parent's until the child has it: one that
//     was swept in those milliseconds is noticed as Corrupt or not at all, and harms the child
//     only.
//   child, at any time: the parent learns the status by waitid(), marks the id dead, sweeps its
//     blocks and gives the references back.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <millrace/affinity.hpp>
#include <millrace/process.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/fd_bag.hpp"
#include "runtime/process/child.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {

/// What makes a process this child: all that a forked one has from its parent's memory.
struct ChildDescription {
  std::optional<std::string> name;
  std::string class_name;
  std::vector<int> identity;
  bool daemon = false;
  bool may_have_children = false;
  std::string authkey;
  std::string method;      // its default start method
  std::string executable;  // what set_executable() was given
  int log_level = 0;
  bool log_to_stderr = false;
  pid_t parent_pid = 0;
  shm::ProcessId parent_id = 0;
  std::string parent_name;
  affinity::PlannedWorker place;
  std::vector<unsigned long> parent_mask;  // of the thread that started it
};

/// Where an executed child finds the arena.
inline constexpr int kArenaDescriptor = 3;
/// What else its parent gives it, and the descriptors on their way (fd_bag.hpp).
inline constexpr int kInheritedDescriptor = kArenaDescriptor + 1;
inline constexpr BagEnds kBagDescriptors{5, 6};

/// What a message is for.
enum class StartKind : std::uint32_t { process, served_process, fork_server, zygote };

/// The head of a message, in the arena. Written by the parent before posix_spawn, or the request to
/// the fork server, which orders it before everything the child does.
struct StartBlock {
  static constexpr std::uint64_t kMagic = 0x6d72'7370'6177'6e31;

  std::uint64_t magic;
  shm::ProcessId id;
  StartKind kind;
  void* payload;  // freed by the child once it is decoded
  std::uint64_t payload_bytes;
  std::atomic<std::uint32_t> taken;  // 1: the child needs nothing of the message any more
};

/// The parent's side of one message, from start() until the child has it. Destroying it gives the
/// references back; in a forked copy of the parent that does nothing.
class SpawnMessage {
 public:
  SpawnMessage();
  SpawnMessage(const SpawnMessage&) = delete;
  SpawnMessage& operator=(const SpawnMessage&) = delete;
  ~SpawnMessage();

  [[nodiscard]] wire::Writer& writer() noexcept { return content_; }
  /// Starts the program with this message as child `id`. Returns its pid. `inherited`, above 4, is
  /// its descriptor 4. Throws std::system_error naming the program when the system refuses, and
  /// gives `id` back.
  pid_t send(shm::ProcessId id, StartKind kind = StartKind::process, int inherited = -1);
  /// Puts it into the arena, as child `id`'s. Throws std::system_error when there is no room.
  StartBlock* place(shm::ProcessId id, StartKind kind);
  /// Undoes place(): there is no such child.
  void take_back() noexcept;
  /// True once the child has decoded it.
  [[nodiscard]] bool taken() const noexcept;

 private:
  wire::Writer content_;
  pid_t creator_;
  StartBlock* start_ = nullptr;  // the child's; recycled, it tells nothing wrong: the child is dead
};

/// What of a Process goes to its child, and back.
struct SpawnedProcess {
  /// Appends class and members, then the target. Throws TypeError when they cannot be sent.
  static void encode(wire::Writer& out, const Process& process);
  /// The process object in the child; its record is `record`.
  static std::unique_ptr<Process> decode(wire::Reader& in, std::shared_ptr<ProcessRecord> record);
};

/// A message for the child that `record` will be: what it is. What it shall run is yet to be
/// encoded.
std::shared_ptr<SpawnMessage> describe_child(const ProcessRecord& record, const std::string& method,
                                             const ParentIdentity& parent,
                                             const ChildBinding& binding);

/// The argument by which the child recognises itself and finds its message.
std::string spawn_argument(const StartBlock* start);

/// True when `start` is the head of a message.
bool valid_start(const StartBlock* start) noexcept;

/// Runs a message in this process, which has adopted its id and has come to freeze_support().
[[noreturn]] void run_started(StartBlock* start) noexcept;

/// What main() has to begin with, as a sentence with an example.
const char* freeze_support_idiom() noexcept;

/// Throws std::runtime_error in a spawned process that has not come to freeze_support().
void check_freeze_support();

}  // namespace millrace::runtime
