// Ends of the kernel's pipes, which some of CPython's Connections are.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <span>

namespace millrace::runtime {

/// A descriptor of a new file description for the pipe behind `fd`, one that blocks or does not:
/// other holders of `fd` keep theirs as it is. Throws std::system_error naming /proc (EMFILE,
/// EACCES, ENOENT where there is none).
int open_pipe(int fd, bool to_read, bool blocking);

/// writev() to a pipe whose lack of readers is EPIPE, and no signal.
ssize_t write_quietly(int fd, std::span<const iovec> parts) noexcept;

}  // namespace millrace::runtime
