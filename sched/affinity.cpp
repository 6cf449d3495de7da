// <millrace/affinity.hpp> over the scheduler's own types.
#include <millrace/affinity.hpp>
#include <millrace/errors.hpp>

#include "sched/binding.hpp"
#include "sched/binding_spec.hpp"

namespace millrace::affinity {
namespace {

int count(const std::vector<sched::CpuSet>& objects) { return static_cast<int>(objects.size()); }

}  // namespace

Binding::Binding(std::string_view text, std::string source)
    : text_(sched::parse_binding(text).text), source_(std::move(source)) {}
Binding::Binding(std::string_view text) : Binding(text, "bind option") {}
Binding::Binding(const std::string& text) : Binding(std::string_view(text)) {}
Binding::Binding(const char* text)
    : Binding(text == nullptr ? std::string_view() : std::string_view(text)) {}

Binding Binding::parse(std::string_view text) { return Binding(text); }

int Topology::packages() const { return count(sched::Topology::system().packages()); }
int Topology::nodes() const { return static_cast<int>(sched::Topology::system().nodes().size()); }
int Topology::l3_groups() const { return count(sched::Topology::system().l3_groups()); }
int Topology::cores() const { return count(sched::Topology::system().cores()); }
int Topology::pus() const { return count(sched::Topology::system().pus()); }

int Topology::distance(int a, int b) const {
  const sched::Topology& system = sched::Topology::system();
  for (const int node : {a, b}) {
    if (!system.has_node(node)) {
      throw IndexError("there is no NUMA node " + std::to_string(node) + ", only " +
                       std::to_string(nodes()) + " in all");
    }
  }
  return system.distance(a, b);
}

std::vector<int> Topology::allowed_cpus() const {
  return sched::Topology::system().current_allowed();
}

Topology topology() {
  sched::Topology::system();
  return {};
}

std::vector<PlannedWorker> plan(const Binding& binding, int workers) {
  return sched::plan(binding, workers);
}

}  // namespace millrace::affinity
