#include "sched/plan.hpp"

#include <algorithm>
#include <map>
#include <millrace/errors.hpp>
#include <numeric>
#include <utility>

#include "sched/binding_spec.hpp"

namespace millrace::sched {
namespace {

// A core, or a group of them, that a worker can be bound to. Domains are places in lists, -1: none.
struct Unit {
  CpuSet cpus;
  int package = -1;
  int node = -1;
  int l3 = -1;
  int order = 0;  // among all units
};

int find_place(const std::vector<CpuSet>& sets, int cpu) {
  for (std::size_t i = 0; i < sets.size(); ++i) {
    if (std::binary_search(sets[i].begin(), sets[i].end(), cpu)) return static_cast<int>(i);
  }
  return -1;
}

// Cores that have allowed cpus, those of one node together, and within it those of one L3 group.
std::vector<Unit> usable_cores(const Topology& topology, const CpuSet& allowed) {
  std::vector<Unit> cores;
  for (const CpuSet& core : topology.cores()) {
    Unit unit;
    unit.cpus = cpu_intersection(core, allowed);
    if (unit.cpus.empty()) continue;
    unit.package = find_place(topology.packages(), core.front());
    unit.node = find_place(topology.objects(Level::numa), core.front());
    unit.l3 = find_place(topology.l3_groups(), core.front());
    cores.push_back(std::move(unit));
  }
  const auto key = [](const Unit& unit) {  // cpus of no node come last
    return std::pair(static_cast<unsigned>(unit.node), static_cast<unsigned>(unit.l3));
  };
  std::stable_sort(cores.begin(), cores.end(),
                   [&](const Unit& a, const Unit& b) { return key(a) < key(b); });
  return cores;
}

// Groups of `size` neighbouring cores that do not cross a node, unless no node has so many.
std::vector<Unit> group_cores(const std::vector<Unit>& cores, std::size_t size) {
  std::vector<Unit> units;
  const auto take = [&](std::size_t first, std::size_t count) {
    Unit unit = cores[first];
    for (std::size_t i = 1; i < count; ++i) {
      unit.cpus = cpu_union(unit.cpus, cores[first + i].cpus);
    }
    units.push_back(std::move(unit));
  };
  for (std::size_t first = 0; first < cores.size();) {
    std::size_t last = first;
    while (last < cores.size() && cores[last].node == cores[first].node) ++last;
    for (; first + size <= last; first += size) take(first, size);
    first = last;
  }
  if (!units.empty()) return units;
  size = std::min(size, cores.size());
  for (std::size_t first = 0; first + size <= cores.size(); first += size) take(first, size);
  return units;
}

// One list of units for each hardware thread of a core: all first ones, all second ones...
std::vector<std::vector<Unit>> thread_levels(const std::vector<Unit>& cores, std::size_t size) {
  std::vector<std::vector<Unit>> levels;
  for (std::size_t thread = 0;; ++thread) {
    std::vector<Unit> single;
    for (const Unit& core : cores) {
      if (core.cpus.size() <= thread) continue;
      single.push_back(core);
      single.back().cpus = {core.cpus[thread]};
    }
    if (single.empty()) return levels;
    levels.push_back(group_cores(single, size));
  }
}

// Hands out `seats` by greatest quotient capacity / (seats + 1); of equals the one with the fewest
// seats is first, then the first.
std::vector<int> apportion(int seats, const std::vector<std::size_t>& capacities) {
  std::vector<int> given(capacities.size(), 0);
  for (; seats > 0; --seats) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < capacities.size(); ++i) {
      const auto mine = static_cast<std::size_t>(given[best] + 1);
      const auto its = static_cast<std::size_t>(given[i] + 1);
      const std::size_t its_quotient = capacities[i] * mine;
      const std::size_t best_quotient = capacities[best] * its;
      const bool fewer = its_quotient == best_quotient && its < mine;
      if (its_quotient > best_quotient || fewer) best = i;
    }
    ++given[best];
  }
  return given;
}

// Units of one domain, in order of the domain's first unit.
std::vector<std::vector<Unit>> split_by(const std::vector<Unit>& units, int Unit::*domain) {
  std::vector<std::vector<Unit>> groups;
  for (const Unit& unit : units) {
    const auto same = [&](const auto& group) { return group.front().*domain == unit.*domain; };
    auto at = std::find_if(groups.begin(), groups.end(), same);
    if (at == groups.end()) at = groups.insert(groups.end(), std::vector<Unit>());
    at->push_back(unit);
  }
  return groups;
}

// The domains below each other through which workers are apportioned or interleaved.
using Domains = std::vector<int Unit::*>;

// `seats` <= units.size() units, apportioned through `domains`.
std::vector<Unit> choose(const std::vector<Unit>& units, int seats, const Domains& domains,
                         std::size_t depth = 0) {
  if (depth == domains.size()) return {units.begin(), units.begin() + seats};
  const auto groups = split_by(units, domains[depth]);
  std::vector<std::size_t> capacities;
  for (const auto& group : groups) capacities.push_back(group.size());
  const std::vector<int> given = apportion(seats, capacities);
  std::vector<Unit> chosen;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    for (Unit& unit : choose(groups[i], given[i], domains, depth + 1)) {
      chosen.push_back(std::move(unit));
    }
  }
  return chosen;
}

// All units, one of each group in turn.
std::vector<Unit> interleave(const std::vector<Unit>& units, const Domains& domains,
                             std::size_t depth = 0) {
  if (depth == domains.size()) return units;
  auto groups = split_by(units, domains[depth]);
  for (auto& group : groups) group = interleave(group, domains, depth + 1);
  std::vector<Unit> result;
  for (std::size_t i = 0; result.size() < units.size(); ++i) {
    for (const auto& group : groups) {
      if (i < group.size()) result.push_back(group[i]);
    }
  }
  return result;
}

using Sets = std::vector<CpuSet>;

// Rule 3: levels are filled one after the other, and all again when they are full.
Sets fill_levels(std::vector<std::vector<Unit>> levels, int workers) {
  int order = 0;
  for (auto& level : levels) {
    for (Unit& unit : level) unit.order = order++;
  }
  const Domains domains = {&Unit::package, &Unit::node, &Unit::l3};
  std::vector<Unit> chosen;
  while (workers > 0) {
    for (const auto& level : levels) {
      const int seats = std::min(workers, static_cast<int>(level.size()));
      for (Unit& unit : choose(level, seats, domains)) chosen.push_back(std::move(unit));
      workers -= seats;
    }
  }
  std::stable_sort(chosen.begin(), chosen.end(), [](const Unit& a, const Unit& b) {
    return std::pair(static_cast<unsigned>(a.node), a.order) <
           std::pair(static_cast<unsigned>(b.node), b.order);
  });
  Sets sets;
  for (Unit& unit : chosen) sets.push_back(std::move(unit.cpus));
  return sets;
}

Sets take_in_turn(const std::vector<Unit>& units, int workers) {
  Sets sets;
  for (int i = 0; i < workers; ++i) {
    sets.push_back(units[static_cast<std::size_t>(i) % units.size()].cpus);
  }
  return sets;
}

// numa and l3: whole domains, workers in proportion to their cpus.
Sets whole_domains(const std::vector<Unit>& cores, int Unit::*domain, int workers) {
  struct Whole {
    CpuSet cpus;
    int package;
  };
  std::map<int, std::vector<Whole>> by_package;
  for (const auto& group : split_by(cores, domain)) {
    Whole whole{{}, group.front().package};
    for (const Unit& core : group) whole.cpus = cpu_union(whole.cpus, core.cpus);
    by_package[whole.package].push_back(std::move(whole));
  }
  std::vector<std::size_t> package_cpus;
  for (const auto& [package, wholes] : by_package) {
    std::size_t sum = 0;
    for (const Whole& whole : wholes) sum += whole.cpus.size();
    package_cpus.push_back(sum);
  }
  const std::vector<int> of_package = apportion(workers, package_cpus);
  Sets sets;
  std::size_t at = 0;
  for (const auto& [package, wholes] : by_package) {
    std::vector<std::size_t> cpus;
    for (const Whole& whole : wholes) cpus.push_back(whole.cpus.size());
    const std::vector<int> given = apportion(of_package[at++], cpus);
    for (std::size_t i = 0; i < wholes.size(); ++i) {
      sets.insert(sets.end(), static_cast<std::size_t>(given[i]), wholes[i].cpus);
    }
  }
  return sets;
}

// Lists and locations: the cores named, in the order named, divided evenly; hardware threads when
// there are more workers than cores.
Sets divide(const BindingSpec& spec, PlanRequest request, const Topology& topology,
            const CpuSet& allowed) {
  std::vector<Unit> cores;
  CpuSet seen;
  for (const CpuSet& object : evaluate_locations(spec, topology, allowed)) {
    for (Unit& core : usable_cores(topology, cpu_difference(object, seen))) {
      cores.push_back(std::move(core));
    }
    seen = cpu_union(seen, object);
  }
  const auto workers = static_cast<std::size_t>(request.workers);
  if (request.cores_per_worker > 1) {
    return take_in_turn(group_cores(cores, static_cast<std::size_t>(request.cores_per_worker)),
                        request.workers);
  }
  if (workers <= cores.size()) {
    Sets sets(workers);
    for (std::size_t i = 0; i < workers; ++i) {
      for (std::size_t j = i * cores.size() / workers; j < (i + 1) * cores.size() / workers; ++j) {
        sets[i] = cpu_union(sets[i], cores[j].cpus);
      }
    }
    return sets;
  }
  std::vector<Unit> threads;
  for (const auto& level : thread_levels(cores, 1)) {
    threads.insert(threads.end(), level.begin(), level.end());
  }
  return take_in_turn(threads, request.workers);
}

Sets take_places(const BindingSpec& spec, int workers, const Topology& topology,
                 const CpuSet& allowed) {
  const Sets places = evaluate_places(spec, topology, allowed);
  const auto count = static_cast<std::size_t>(workers);
  const bool apart = spec.sparse || count > places.size();
  Sets sets;
  for (std::size_t i = 0; i < count; ++i) {
    sets.push_back(places[apart ? i * places.size() / count : i]);
  }
  return sets;
}

Sets plan_sets(const BindingSpec& spec, PlanRequest request, const Topology& topology,
               const CpuSet& allowed) {
  const int workers = request.workers;
  if (spec.policy == Policy::none) return Sets(static_cast<std::size_t>(workers));
  if (spec.policy == Policy::divided) return divide(spec, request, topology, allowed);
  if (spec.policy == Policy::places) return take_places(spec, workers, topology, allowed);
  const std::vector<Unit> cores = usable_cores(topology, allowed);
  const auto size = static_cast<std::size_t>(request.cores_per_worker);
  switch (spec.policy) {
    case Policy::compact:
      return take_in_turn(group_cores(cores, size), workers);
    case Policy::spread:
      return take_in_turn(
          interleave(group_cores(cores, size), {&Unit::package, &Unit::node, &Unit::l3}), workers);
    case Policy::core:
      return fill_levels({group_cores(cores, size)}, workers);
    case Policy::thread:
      return fill_levels(thread_levels(cores, size), workers);
    case Policy::l3:
      return whole_domains(cores, &Unit::l3, workers);
    default:
      return whole_domains(cores, &Unit::node, workers);
  }
}

int place_count(const BindingSpec& spec, const Topology& topology, const CpuSet& allowed) {
  switch (spec.policy) {
    case Policy::none:
    case Policy::divided:
      return 1;
    case Policy::places:
      return static_cast<int>(evaluate_places(spec, topology, allowed).size());
    case Policy::thread:
      return static_cast<int>(allowed.size());
    default:
      break;
  }
  const std::vector<Unit> cores = usable_cores(topology, allowed);
  if (spec.policy == Policy::numa) return static_cast<int>(split_by(cores, &Unit::node).size());
  if (spec.policy == Policy::l3) return static_cast<int>(split_by(cores, &Unit::l3).size());
  return static_cast<int>(cores.size());
}

}  // namespace

std::vector<PlannedWorker> plan(const Binding& binding, PlanRequest request,
                                const Topology& topology, const CpuSet& allowed) {
  if (request.workers < 1 || request.cores_per_worker < 1) {
    throw ValueError("plan for " + std::to_string(request.workers) + " workers of " +
                     std::to_string(request.cores_per_worker) + " cores: at least 1 of each");
  }
  const CpuSet usable = cpu_intersection(allowed, topology.cpus());
  if (usable.empty()) throw ValueError("no cpu of the topology is allowed");
  std::string source = binding.text() + " (" + binding.source() + ")";
  if (!topology.is_thissystem()) source += ", not applied: not this machine's topology";
  std::vector<PlannedWorker> workers;
  for (CpuSet& cpus : plan_sets(parse_binding(binding.text()), request, topology, usable)) {
    const int node = topology.node_of(cpus);
    workers.push_back({std::move(cpus), node, source});
  }
  return workers;
}

std::vector<PlannedWorker> plan(const Binding& binding, int workers, int cores_per_worker,
                                const Topology& topology) {
  return plan(binding, {workers, cores_per_worker}, topology, topology.current_allowed());
}

PlannedWorker plan_process(const Binding& binding, int ordinal, const Topology& topology) {
  const CpuSet allowed = cpu_intersection(topology.current_allowed(), topology.cpus());
  const int places = place_count(parse_binding(binding.text()), topology, allowed);
  auto workers = plan(binding, {std::max(places, 1), 1}, topology, allowed);
  return std::move(workers[static_cast<std::size_t>(std::max(ordinal, 0)) % workers.size()]);
}

WorkerNodes group_by_node(const std::vector<PlannedWorker>& workers, const Topology& topology) {
  WorkerNodes result;
  for (const PlannedWorker& worker : workers) {
    auto at = std::find(result.nodes.begin(), result.nodes.end(), worker.node);
    const auto index = at - result.nodes.begin();
    if (at == result.nodes.end()) {
      result.nodes.push_back(worker.node);
      result.shares.push_back(0);
    }
    ++result.shares[static_cast<std::size_t>(index)];
    result.index_of_worker.push_back(static_cast<int>(index));
  }
  const int count = static_cast<int>(result.nodes.size());
  for (int self = 0; self < count; ++self) {
    const int home = result.nodes[static_cast<std::size_t>(self)];
    const std::vector<int> by_distance = topology.steal_order(home);
    // Rank in the topology's own order; workers of no one node come last, those of self first.
    const auto rank = [&](int index) {
      if (index == self) return -1;
      const int node = result.nodes[static_cast<std::size_t>(index)];
      const auto at = std::find(by_distance.begin(), by_distance.end(), node);
      return static_cast<int>(at - by_distance.begin());
    };
    std::vector<int> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rank(a) < rank(b); });
    result.steal_order.push_back(std::move(order));
  }
  return result;
}

}  // namespace millrace::sched
