// How many cpus there are, and how many are worth using: the affinity mask says where, a cgroup's
// quota says how much of it. Nothing here is cached: quotas change while a job runs.
#pragma once

#include <optional>
#include <string>

namespace millrace::sched {

/// The smallest cpu quota, in cpus, of this process's cgroup and all above it that can be seen, v1
/// (cpu.cfs_quota_us) or v2 (cpu.max); nothing when there is none. `root` holds proc and the cgroup
/// mounts (for tests).
std::optional<double> cpu_quota(const std::string& root = "");

/// Online cpus of the system, usable or not. NotImplementedError when unknown. Python: cpu_count().
int cpu_count();

/// Cpus that this process can make use of: min(affinity, quota rounded up), at least 1.
/// Python: os.process_cpu_count() (3.13), which does not know of quotas.
int usable_cpu_count();

}  // namespace millrace::sched
