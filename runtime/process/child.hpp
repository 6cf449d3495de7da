// Making a child process, and what it does from its first instruction to its last. Process and Pool
// (through its zygote) both start their processes here.
//
// What happens when a process dies between any two steps of a start:
//   parent, before fork: the reserved table entry stays reserved by a dead process; the next parent
//     that needs an entry takes it back. Parent, after fork: the child adopts its entry by itself
//     when it first uses the library and goes on (it gets another if its own was taken back by
//     then); if it is daemonic it ends with its parent.
//   child, before it adopts: the parent's waitid() tells it, and it marks the entry dead; without a
//     parent whoever asks learns it from the kernel, the entry names the child.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <memory>
#include <string>

#include "runtime/base/affinity_mask.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {

/// fork() as the runtime needs it. Flushes std streams before and drops their copied contents in
/// the child, so that nothing is printed twice. Widens this thread's affinity mask to what the
/// program was given, since a child that starts on the cpu of a pinned and spinning parent starves;
/// gives the mask back in the parent. In the child, before it returns 0: adopts `child_id`, at once
/// if it has inherited references, else when it first needs an id; unblocks the signals that end a
/// process, and reads stdin from /dev/null; the mask stays wide for the caller to bind or
/// restore_affinity(). In the parent: the child's pid. Throws
/// std::system_error when the system refuses (EAGAIN: too many processes); `child_id` is then given
/// back. Any thread; locks of the library are free in the child.
pid_t fork_process(shm::ProcessId child_id);

/// In a child: the affinity mask that the thread that forked it had. For children that nobody
/// binds.
void restore_affinity() noexcept;

/// In a child that is no copy of its parent: what restore_affinity() goes back to.
void set_parent_affinity(AffinityMask mask) noexcept;

/// Runs a process's body. Returns its exit code: 0 when it returns, SystemExit's code, 1 for any
/// other exception, which is described on stderr. Throws from the body are traced.
int run_guarded(void (*body)(void*), void* argument);

/// The orderly end of a child: exit finalizers from priority 0 up, daemonic children ended, others
/// joined, the remaining finalizers, std streams flushed, broken ones too; then _exit(code mod
/// 256).
[[noreturn]] void exit_process(int code) noexcept;

/// Flushes stdout, stderr and their C++ streams; what cannot be written is given up.
void flush_std_streams() noexcept;

/// The name of this process, "MainProcess" at first.
std::string process_name();
/// Names this process.
void set_process_name(std::string name);
/// The same for a new child, which neither copies nor frees.
void exchange_process_name(std::unique_ptr<std::string>& name) noexcept;

/// What a child knows of the process that made it.
struct ParentIdentity {
  pid_t pid = 0;
  shm::ProcessId id = 0;
  std::string name;
};

/// This process as its children will know it. Taken before the fork.
ParentIdentity as_parent();

/// In a child that is no Process object's: gives it its name and daemon flag and tells it whose
/// child it is in the eyes of the user (a pool's worker: the pool's owner, not the zygote).
void become_process(std::string name, bool daemon, const ParentIdentity& parent);

/// In a child: from now on it ends when process `parent_pid` has ended, by SIGKILL too. Safe
/// against the end of the mere thread that made the child, which is what the kernel reports.
void end_with_parent(pid_t parent_pid) noexcept;

/// The same in a child that a fork server has made, which is no child of `parent_pid` to the
/// kernel. The server reports the parent's end by SIGURG; when the server has ended before, a timer
/// looks.
void end_with_distant_parent(pid_t parent_pid, shm::ProcessId parent) noexcept;

/// Takes the signals by which a process is ended or fails out of a mask.
void let_endings_through(sigset_t& mask) noexcept;

/// The raw wait status that waitid() has taken apart.
int raw_status(const siginfo_t& info) noexcept;

/// Waits for the end of a child of this process and leaves its status where it is, since several
/// threads may wait. Returns earlier where there is nothing to collect: SIGCHLD is ignored, or
/// somebody waits for any child.
void wait_for_status(int pidfd) noexcept;

/// Writes text to stderr in one piece, errors ignored.
void print_error(const std::string& text) noexcept;

}  // namespace millrace::runtime
