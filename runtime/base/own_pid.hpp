// This process's id without a system call: read on every call of a pool, where getpid() would cost
// as much as the rest of the check.
#pragma once

#include <sys/types.h>

namespace millrace::runtime {

/// getpid(), remembered until the next fork(). A child made by a bare clone() that skips fork's
/// handlers still sees its parent's id; such a child cannot use this library.
[[nodiscard]] pid_t own_pid() noexcept;

}  // namespace millrace::runtime
