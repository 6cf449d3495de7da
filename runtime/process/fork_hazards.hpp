// What makes a fork of this process dangerous: other threads, whose locks the child has as they are
// at that moment, and MPI, whose connections and pinned memory no fork understands.
#pragma once

namespace millrace::runtime {

/// Before a fork that the start method asks for. Warns through the logger when other threads of the
/// program run. Throws std::runtime_error after MPI_Init and before MPI_Finalize, unless
/// MILLRACE_FORK_AFTER_MPI=1 insists. MPI is looked for in the program, not linked.
void check_fork();

/// While one lives, one thread is the library's own, which no fork need fear. Made before the
/// thread, destroyed by it.
class OwnThread {
 public:
  OwnThread() noexcept;
  ~OwnThread();
  OwnThread(const OwnThread&) = delete;
  OwnThread& operator=(const OwnThread&) = delete;
};

}  // namespace millrace::runtime
