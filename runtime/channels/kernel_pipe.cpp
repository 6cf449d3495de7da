#include "runtime/channels/kernel_pipe.hpp"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <ctime>
#include <string>
#include <system_error>

#include "runtime/base/descriptor.hpp"

namespace millrace::runtime {

int open_pipe(int fd, bool to_read, bool blocking) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  // Not even a named one without a peer is waited for.
  const int flags = (to_read ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_CLOEXEC;
  Descriptor opened(::open(path.c_str(), flags));
  if (opened.get() < 0 || (blocking && ::fcntl(opened.get(), F_SETFL, 0) != 0)) {
    throw std::system_error(errno, std::generic_category(),
                            "opening the pipe of a connection anew, by " + path);
  }
  return opened.release();
}

ssize_t write_quietly(int fd, std::span<const iovec> parts) noexcept {
  sigset_t pipe;
  sigset_t before;
  sigset_t pending;
  ::sigemptyset(&pipe);
  ::sigaddset(&pipe, SIGPIPE);
  ::sigpending(&pending);
  ::pthread_sigmask(SIG_BLOCK, &pipe, &before);
  const std::size_t count = std::min<std::size_t>(parts.size(), IOV_MAX);
  const ssize_t written = ::writev(fd, parts.data(), static_cast<int>(count));
  const int error = errno;
  // It is this thread's own, unless one was waiting already.
  if (written < 0 && error == EPIPE && ::sigismember(&pending, SIGPIPE) == 0) {
    const timespec now{};
    while (::sigtimedwait(&pipe, nullptr, &now) < 0 && errno == EINTR) {
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

}  // namespace millrace::runtime
