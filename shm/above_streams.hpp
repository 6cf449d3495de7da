// Descriptors that are not taken for a standard stream. Where a program was started with one closed
// the system gives its number to whatever is opened next: what is printed would be written into
// that, and what is read from the stream would be read from it.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace millrace::shm {

/// `fd`, or in its place the same thing with a number above `last`. -1 stays -1; and where no
/// number is left `fd` is closed, and errno says so.
inline int above(int last, int fd) noexcept {
  if (fd < 0 || fd > last) return fd;
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, last + 1);
  const int error = errno == EINVAL ? EMFILE : errno;  // the limit is below what is asked for
  ::close(fd);
  if (moved < 0) errno = error;
  return moved;
}

/// The same, above the standard streams' numbers.
inline int above_streams(int fd) noexcept { return above(STDERR_FILENO, fd); }

}  // namespace millrace::shm
