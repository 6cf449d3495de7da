// Who is bound where: a binding text, a number of workers and a topology make a plan. Pure.
//
// Rules
// 1. A unit is cores_per_worker cores of one node (or, when no node has so many, of the machine),
//    with all their allowed hardware threads; for `thread` one hardware thread of each.
// 2. compact takes units in order; spread takes them round-robin over packages, then nodes, then L3
//    groups. core and thread give each node workers in proportion to its units, numa and l3 each
//    node or group in proportion to its cpus (by greatest quotient, D'Hondt, packages first, so
//    that two workers on two packages of four nodes land on different packages); workers of one
//    node have neighbouring numbers.
// 3. Every unit gets its first worker before any gets a second; second hardware threads come after
//    all first ones.
// 4. Lists and locations are divided evenly; places are taken one after the other, or (spread) as
//    far apart as possible.
#pragma once

#include <millrace/affinity.hpp>
#include <vector>

#include "sched/topology.hpp"

namespace millrace::sched {

using affinity::Binding;
using affinity::PlannedWorker;

/// What a plan is made for.
struct PlanRequest {
  int workers = 1;
  int cores_per_worker = 1;  ///< ignored by none, numa, l3 and places
};

/// A plan inside `allowed`. ValueError for less than one worker or core, or for what is absent or
/// not allowed.
std::vector<PlannedWorker> plan(const Binding& binding, PlanRequest request,
                                const Topology& topology, const CpuSet& allowed);
/// The same inside what this process may use now.
std::vector<PlannedWorker> plan(const Binding& binding, int workers, int cores_per_worker = 1,
                                const Topology& topology = Topology::system());

/// Where the `ordinal`-th child process of a program goes that is bound one by one: a policy's or
/// place list's ordinal-th place, wrapping round; the whole of a list or location.
PlannedWorker plan_process(const Binding& binding, int ordinal,
                           const Topology& topology = Topology::system());

/// A plan's workers by node, as range jobs want them: nodes are numbered densely, in order of their
/// first appearance.
struct WorkerNodes {
  std::vector<int> nodes;                     ///< the system's numbers; -1: workers of no one node
  std::vector<int> shares;                    ///< workers of each
  std::vector<int> index_of_worker;           ///< for each worker, its place in `nodes`
  std::vector<std::vector<int>> steal_order;  ///< for each, all places in `nodes` by distance
};
WorkerNodes group_by_node(const std::vector<PlannedWorker>& workers,
                          const Topology& topology = Topology::system());

}  // namespace millrace::sched
