#include "runtime/base/own_pid.hpp"

#include <unistd.h>

#include <atomic>

#include "runtime/base/fork_mutex.hpp"

namespace millrace::runtime {
namespace {

// relaxed throughout: every thread would store the same number, and after a fork there is one.
std::atomic<pid_t> remembered{0};

void forget() noexcept { remembered.store(0, std::memory_order_relaxed); }

// While the program loads: a first call beside another thread's fork() would leave the child a
// guard that somebody holds for ever.
[[maybe_unused]] const bool watched = (run_after_fork_in_child(&forget), true);

pid_t remember() noexcept {
  const pid_t pid = ::getpid();
  remembered.store(pid, std::memory_order_relaxed);
  return pid;
}

}  // namespace

pid_t own_pid() noexcept {
  const pid_t pid = remembered.load(std::memory_order_relaxed);
  return pid != 0 ? pid : remember();
}

}  // namespace millrace::runtime
