// What the kernel knows about a process: whether it still exists, and when it started.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace millrace::shm {

/// Start time of a process in clock ticks since boot, field 22 of /proc/<pid>/stat; 0 when it
/// cannot be read. `pid` 0 is this process. Uses no heap: callable in a forked child.
std::uint64_t start_time_of(pid_t pid) noexcept;
/// The present on that clock: for a process that writes down, without asking /proc, when it was
/// there. Callable in a forked child.
std::uint64_t start_clock_now() noexcept;

/// True when the process that had `pid`, and at `start_time` had started, has ended, whether or not
/// its parent has waited for it: one that started later has been given its pid. A start time of 0
/// is not compared. A stopped process is not gone. In doubt
/// (no permission, no descriptors) it is taken to be alive.
bool process_gone(pid_t pid, std::uint64_t start_time) noexcept;

/// The raw wait status of a process that has ended and that nobody has waited for yet; -1 when that
/// cannot be said.
int zombie_status(pid_t pid, std::uint64_t start_time) noexcept;

}  // namespace millrace::shm
