// Where a worker rests. A worker bound to more than one cpu goes to sleep on a cpu of its own
// within its binding: the kernel wakes a process where it slept if it can, so workers that are
// woken together start on different cpus instead of queueing behind each other until the next
// balancing.
#pragma once

#include <vector>

#include "sched/plan.hpp"
#include "sched/topology.hpp"

namespace millrace::sched {

/// A cpu out of each worker's set: as few workers on one as can be, first hardware threads of cores
/// first; -1 for a worker bound to nothing.
std::vector<int> home_cpus(const std::vector<PlannedWorker>& workers, const Topology& topology);

}  // namespace millrace::sched
