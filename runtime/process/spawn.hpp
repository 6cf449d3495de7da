// Processes that do not begin as a copy of their parent: the start method "spawn".
//
// The parent encodes what the child is and what it shall run, puts the bytes into the arena and
// executes the program anew (posix_spawn: its own memory is not copied). The child has the standard
// streams, the arena's descriptor and one argument that says where the bytes lie. Before any static
// initialiser of the program it maps the arena and takes its place in the process table;
// freeze_support() then decodes and runs. From there on it is a child like any other (child.hpp).
//
//     parent  reserve id -> StartBlock (given to the id), noted as the id's message -> encode ->
//             payload and copies of callables (given to the id), noted in the StartBlock ->
//             posix_spawn -> reservation entrusted to the pid
//     child   attach arena -> adopt id (too late: it ends) -> ... main -> freeze_support: decode,
//             give the references back one by one, forget the message, run
//
// Invariants
// 1. The message keeps the references inside (handles, copies of callables); the child borrows
//    them. Those to objects are counted for the child's id from the moment they are made
//    (shm/message_scope.hpp), so they count only while that is a reservation of a living process or
//    a living child, and are dropped with what else the id holds. The numbers of descriptors say
//    of which message they are. What else it keeps is the id's from the moment the payload is
//    noted: from then on the child gives all of it back when it has its own, or its reaper does
//    (reap() calls settle_message()), and the parent has nothing to do with it.
// 2. `dropped` goes up before a reference is given back, by the one process that has the right to:
//    the child, which nobody reaps while it lives, or the one reaper. So none is given back twice.
//    One that is in hand at a death in there is dropped with the id's others, but for the hold of a
//    proxy's parcel at its server: that stays until its maker ends.
// 3. StartBlock, payload and copies belong to the child's id from before it exists. Without an
//    adopted id the child reads nothing of them: adoption and the end of a reservation race for one
//    word of the process table.
// 4. A process that was started like this starts no other before it has come to freeze_support():
//    a main() without that call would start itself for ever.
//
// What happens when a process dies between any two steps:
//   parent, before the payload is noted: blocks are swept with it or the reservation, whose
//     references to objects are dropped, and its descriptors; holds of parcels that were encoded so
//     far (microseconds) stay until their makers end.
//   parent, behind that, before the child adopts its id: whoever looks first decides. A reaper
//     (below) that finds the reservation's maker dead gives the references back, and the child, if
//     there is one, ends at once. Once it is entrusted to the child's pid, and to a child that has
//     adopted, the parent's death means nothing: the child takes, gives back, runs (a daemonic one
//     ends).
//   child, at any time: the parent learns the status by waitid(), marks the id dead and reaps it:
//     what the child has not given back is given back, then its blocks are swept. While it lives
//     the parent is the child's heir (ProcessTable::set_heir) and nobody else does.
//   both, in any order: whoever reaps the child's id next, of these who comes first: a process that
//     waits for the end of a pipe and asks who holds it, the fork server for its children, whoever
//     finds the table or the arena full (shm::reap_messages(), shm::reap_all_dead()). With no
//     process left there is no arena.
//   the reaper, in the middle: the next one goes on behind `dropped`.
//   the fork server with its child to be, while the parent lives: that puts the message under the
//     next child's id. Meanwhile both count its references, blocks are nobody's and both ids name
//     the message; `id` in it says whose reaper may touch it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <millrace/affinity.hpp>
#include <millrace/function.hpp>
#include <millrace/process.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "runtime/base/fd_bag.hpp"
#include "runtime/process/child.hpp"
#include "shm/message_scope.hpp"
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
  std::atomic<shm::ProcessId> id;  // whose reaper gives the references back
  StartKind kind;
  void* payload;  // `kept_count` KeptReferences behind the content, 8-byte aligned; null: not yet
  std::uint64_t content_bytes;  // of the payload
  std::uint64_t kept_count;
  std::atomic<std::uint64_t> dropped;  // of the references, those given back or about to be
  shm::ProcessId first_id;             // as which its descriptors were put into the bag
};

/// A reference that a message owns.
struct KeptReference {
  std::uint64_t offset;       // in the content
  FunctionId drop;            // a wire::Writer::Drop
  std::uint32_t block_bytes;  // of the block that it is the address of, in which handles may lie
};

/// Where the list of references is in a payload.
constexpr std::size_t list_offset(std::size_t content_bytes) noexcept {
  return (content_bytes + alignof(KeptReference) - 1) / alignof(KeptReference) *
         alignof(KeptReference);
}

/// The parent's side of one message, while start() runs. Destroying one that was not handed over
/// gives the references and the id back; in a forked copy of the parent that does nothing.
class SpawnMessage {
 public:
  /// Takes an id for the child. Throws std::system_error: EAGAIN as ProcessTable::reserve(),
  /// ENOMEM.
  SpawnMessage();
  SpawnMessage(const SpawnMessage&) = delete;
  SpawnMessage& operator=(const SpawnMessage&) = delete;
  ~SpawnMessage();

  [[nodiscard]] shm::ProcessId id() const noexcept { return id_; }
  [[nodiscard]] wire::Writer& writer() noexcept { return content_; }
  /// While it lives this thread encodes what references are in, and nothing that goes elsewhere.
  [[nodiscard]] shm::InMessage encoding() noexcept { return {id_, blocks_}; }
  /// Starts the program with this message, and hands it over. Returns the child's pid. `inherited`,
  /// above 4, is its descriptor 4. Throws std::system_error naming the program when the system
  /// refuses.
  pid_t send(StartKind kind = StartKind::process, int inherited = -1);
  /// Puts what was encoded into the arena, unless it is there. Throws std::system_error when there
  /// is no room, std::runtime_error when a reference cannot be given back by other processes
  /// (function.hpp).
  StartBlock* place(StartKind kind);
  /// Of one that is placed: its child is dead, and reaped; it becomes another's. Throws as the
  /// constructor.
  void readdress();
  /// The child exists: it, or its reaper, sees to the references.
  void hand_over() noexcept;

 private:
  void take_back() noexcept;
  [[nodiscard]] std::uint32_t block_bytes_at(std::size_t offset) const noexcept;
  void give_parts(shm::ProcessId from, shm::ProcessId to) noexcept;

  shm::ProcessId id_;  // kNobody: handed over
  wire::Writer content_;
  std::vector<shm::MessageBlock> blocks_;  // copies of callables
  pid_t creator_;
  StartBlock* start_;  // in the arena
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
std::unique_ptr<SpawnMessage> describe_child(const ProcessRecord& record, const std::string& method,
                                             const ParentIdentity& parent,
                                             const ChildBinding& binding);

/// Why a process cannot be started. Names the limit on descriptors if that is why, also where the
/// kernel said EBADF of the numbers that an executed child is to have.
std::system_error start_error(int error, std::string what);

/// The argument by which the child recognises itself, and finds its id and its message.
std::string spawn_argument(const StartBlock* start);

/// True when `start` is the head of a message.
bool valid_start(const StartBlock* start) noexcept;

/// Gives the references back that a message still owns, each once. For the process it was sent to,
/// or its reaper.
void settle_message(StartBlock& start) noexcept;

/// In the process it was sent to, which has what it needs of it: gives the rest back and frees it.
void finish_message(StartBlock& start) noexcept;

/// Runs a message in this process, which has adopted its id and has come to freeze_support().
[[noreturn]] void run_started(StartBlock* start) noexcept;

/// What main() has to begin with, as a sentence with an example.
const char* freeze_support_idiom() noexcept;

/// Throws std::runtime_error in a spawned process that has not come to freeze_support().
void check_freeze_support();

}  // namespace millrace::runtime
