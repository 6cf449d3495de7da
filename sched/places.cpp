// What a binding text means on a topology: its objects, looked up.
#include <algorithm>
#include <array>
#include <millrace/errors.hpp>

#include "sched/binding_spec.hpp"

namespace millrace::sched {
namespace {

constexpr std::array<const char*, 7> kLevelNames = {"machine", "package", "numa", "l3",
                                                    "l2",      "core",    "pu"};

[[noreturn]] void fail(const BindingSpec& spec, const std::string& what) {
  throw ValueError("binding '" + spec.text + "': " + what);
}

void check_allowed(const BindingSpec& spec, const CpuSet& cpus, const CpuSet& allowed) {
  const CpuSet outside = cpu_difference(cpus, allowed);
  if (outside.empty()) return;
  fail(spec, "cpus " + format_cpu_list(outside) +
                 " are absent or not allowed (allowed: " + format_cpu_list(allowed) + ")");
}

// The objects of a step that have cpus of `inside`, in logical order.
std::vector<CpuSet> objects_inside(const Topology& topology, Level level, const CpuSet& inside) {
  std::vector<CpuSet> found;
  for (const CpuSet& object : topology.objects(level)) {
    CpuSet part = cpu_intersection(object, inside);
    if (!part.empty()) found.push_back(std::move(part));
  }
  return found;
}

// One location: steps narrow down from the machine; the objects of the last step, in order.
std::vector<CpuSet> evaluate_location(const BindingSpec& spec,
                                      const std::vector<LocationStep>& steps,
                                      const Topology& topology) {
  std::vector<CpuSet> current = {topology.cpus()};
  for (const LocationStep& step : steps) {
    std::vector<CpuSet> next;
    for (const CpuSet& parent : current) {
      // At the top a node is counted even when it has no cpus, so that its number is the usual one.
      const bool top = current.size() == 1 && parent == topology.cpus();
      const std::vector<CpuSet> objects =
          top ? topology.objects(step.level) : objects_inside(topology, step.level, parent);
      const auto have = static_cast<int>(objects.size());
      const IndexRange& range = step.index;
      const int count =
          range.count >= 0 ? range.count : (have - range.first + range.stride - 1) / range.stride;
      for (int i = 0; i < count; ++i) {
        const int at = range.first + i * range.stride;
        if (at >= have) {
          fail(spec, std::string("there is no ") +
                         kLevelNames[static_cast<std::size_t>(step.level)] + ":" +
                         std::to_string(at) + ", only " + std::to_string(have) + " there");
        }
        next.push_back(objects[static_cast<std::size_t>(at)]);
      }
    }
    if (next.empty()) fail(spec, "names nothing on this machine");
    current = std::move(next);
  }
  return current;
}

}  // namespace

std::vector<CpuSet> evaluate_locations(const BindingSpec& spec, const Topology& topology,
                                       const CpuSet& allowed) {
  if (spec.locations.empty()) {
    check_allowed(spec, spec.cpus, allowed);
    return {spec.cpus};
  }
  std::vector<CpuSet> result;
  CpuSet named;
  for (const auto& steps : spec.locations) {
    for (const CpuSet& object : evaluate_location(spec, steps, topology)) {
      named = cpu_union(named, object);
      CpuSet usable = cpu_intersection(object, allowed);
      if (!usable.empty()) result.push_back(std::move(usable));
    }
  }
  if (named.empty()) fail(spec, "what it names has no cpus");
  if (result.empty()) check_allowed(spec, named, allowed);
  return result;
}

std::vector<CpuSet> evaluate_places(const BindingSpec& spec, const Topology& topology,
                                    const CpuSet& allowed) {
  if (!spec.abstract) {
    for (const CpuSet& place : spec.places) check_allowed(spec, place, allowed);
    return spec.places;
  }
  std::vector<CpuSet> places = objects_inside(topology, spec.level, allowed);
  if (places.empty()) fail(spec, "no such place has an allowed cpu");
  const auto limit = static_cast<std::size_t>(spec.limit);
  if (spec.limit >= 0 && places.size() > limit) places.resize(limit);
  return places;
}

}  // namespace millrace::sched
