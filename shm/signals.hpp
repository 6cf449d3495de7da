// The one place from which the library sends signals. kill(2) reads 0 and negative numbers as
// groups, and -1 as everybody: a pid that came from a failed call must never get that far.
#pragma once

#include <sys/types.h>

namespace millrace::shm {

/// Sends `sig` to one process; false with errno set when it was refused here (EINVAL: pid below 2,
/// or this process itself) or by the kernel (ESRCH, EPERM). `sig` 0 only asks whether it exists.
bool send_signal(pid_t pid, int sig) noexcept;

/// The same by pidfd, which cannot hit another process that got the pid meanwhile.
bool send_signal_fd(int pidfd, int sig) noexcept;

}  // namespace millrace::shm
