#include "shm/signals.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace millrace::shm {

bool send_signal(pid_t pid, int sig) noexcept {
  if (pid <= 1 || pid == ::getpid()) {
    errno = EINVAL;
    return false;
  }
  return ::kill(pid, sig) == 0;
}

bool send_signal_fd(int pidfd, int sig) noexcept {
  if (pidfd < 0) {
    errno = EINVAL;
    return false;
  }
  return ::syscall(SYS_pidfd_send_signal, pidfd, sig, nullptr, 0U) == 0;
}

}  // namespace millrace::shm
