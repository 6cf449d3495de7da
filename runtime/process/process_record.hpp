// What this process knows about processes: itself, its parent, its children.
//
// Everything here is process-local: a fork copies it, and the child starts with an empty list of
// children. One lock guards all records; it is never held across a fork, a wait or a system call
// that may block. A death is established once, by whoever collects the wait status: in the record,
// then in the process table, and only then does anyone hear of it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <millrace/bytes.hpp>
#include <millrace/process.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/process/child.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {

/// One process. Fields are guarded by process_mutex() but for those that never change.
struct ProcessRecord {
  enum class Role : std::uint8_t { child, self, parent };
  enum class Stage : std::uint8_t { initial, starting, started, closed };

  Role role = Role::child;
  pid_t creator = 0;             // never changes: the process that made this record
  Stage stage = Stage::initial;  // apart from `role`: together a child would load them, one fault
  std::vector<int> identity;     // never changes: {1, 2} is named "Process-1:2"
  std::string class_name;        // "Process", "ForkProcess", or the subclass's name
  std::string context;           // start method, "" for the default context's
  std::optional<std::string> name;  // none: class_name and identity
  std::optional<affinity::Binding> bind;
  bool daemon = false;
  bool may_have_children = false;  // though daemonic: pool workers and what they start
  std::optional<Bytes> authkey;  // none: the main process's, until somebody needs it
  pid_t pid = 0;
  shm::ProcessId id = 0;
  bool served = false;  // made by the fork server: this process cannot wait for it
  int pidfd = -1;       // readable once the process has ended; closed with the record
  std::optional<int> exitcode;
  bool sets_method = false;  // `context` is not what the child has inherited
  // What become() needs, made before a fork; else nothing.
  std::shared_ptr<ProcessRecord> parent;
  std::unique_ptr<std::string> own_name;

  ProcessRecord() = default;
  ProcessRecord(const ProcessRecord&) = delete;
  ProcessRecord& operator=(const ProcessRecord&) = delete;
  ~ProcessRecord();

  /// The view that users get.
  static ProcessHandle handle(std::shared_ptr<ProcessRecord> record) {
    return ProcessHandle(std::move(record));
  }
};

using RecordPtr = std::shared_ptr<ProcessRecord>;

/// The lock of all records.
ForkMutex& process_mutex();

/// This process's own record.
RecordPtr current_record();
/// A record for a child that this process is about to make: its identity, daemon flag and key come
/// from this process.
RecordPtr new_child_record();
/// In a new process: the next child is its first.
void restart_numbering();
/// Throws AssertionError when `self` is daemonic and may not have children, std::runtime_error in a
/// spawned process that has not come to freeze_support(). Under process_mutex().
void check_may_have_children(const ProcessRecord& self);
/// The key of this process, made on first use in the main process.
Bytes own_authkey();
/// In a new child: makes `self` the record of this process, and `origin` its parent.
void become(const RecordPtr& self, const ParentIdentity& origin);
/// A process as its children see it.
RecordPtr record_of(const ParentIdentity& origin);
/// The parent's record; null in the main process.
RecordPtr parent_record();

/// The name as users see it.
std::string name_of(const ProcessRecord& record);
/// Python's repr of a process object.
std::string repr_of(const RecordPtr& record);

/// Collects the child's status if it has ended; true when it has.
bool reap(const RecordPtr& record);
/// Whether a wait is a user's call, which SIGINT may end by KeyboardInterrupt.
enum class Interruptible : bool { no, yes };
/// Waits for its end; false when the timeout came first.
bool wait_for_end(const RecordPtr& record, Timeout timeout,
                  Interruptible interruptible = Interruptible::no);
/// Adds a started child to the list of this process's children.
void add_child(const RecordPtr& record);
/// The children that have not ended, after collecting those that have.
std::vector<RecordPtr> living_children();

/// A descriptor that is readable once the parent has ended.
int parent_sentinel(const RecordPtr& record);
/// Waits for the parent's end; false when the timeout came first.
bool wait_for_parent(const RecordPtr& record, Timeout timeout);

/// The end of a process's children: daemonic ones are terminated, and killed if that does not help
/// within five seconds; the others are waited for.
void finish_children() noexcept;

}  // namespace millrace::runtime
