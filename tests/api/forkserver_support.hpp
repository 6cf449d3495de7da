// What the tests of the fork server know of it: where it is, and how to end it.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/utsname.h>

#include <cstdio>
#include <millrace/context.hpp>
#include <string>

#include "runtime/process/fork_server.hpp"
#include "shm/liveness.hpp"
#include "shm/signals.hpp"

namespace millrace::test {

inline Context& forkserver() { return get_context("forkserver"); }

/// The pid of this program's server; 0 while there is none.
inline pid_t server_pid() {
  const runtime::ForkServerNote& note = runtime::ForkServerNote::instance();
  const auto word = note.word.load(std::memory_order_acquire);
  if ((word & 3) != runtime::kServerRuns) return 0;
  const auto pid = static_cast<pid_t>(word >> 2);
  return shm::process_gone(pid, 0) ? 0 : pid;
}

inline std::string server_socket() { return runtime::ForkServerNote::instance().get_path(); }

/// SIGKILL for the server, if there is one.
inline bool kill_server() {
  const pid_t pid = server_pid();
  return pid > 1 && shm::send_signal(pid, SIGKILL);
}

/// Kills it and waits until it is gone, so that the next start makes another.
inline void end_server() {
  kill_server();
  while (server_pid() != 0) ::usleep(200);
}

/// Since 6.15 the kernel tells by a pidfd how a process ended that others have reaped.
inline bool kernel_tells_of_the_reaped() {
  utsname name{};
  ::uname(&name);
  int major = 0;
  int minor = 0;
  return std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
         (major > 6 || (major == 6 && minor >= 15));
}

}  // namespace millrace::test
