#include "runtime/child_binding.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "runtime/child.hpp"
#include "sched/binding.hpp"
#include "sched/topology.hpp"

namespace millrace::runtime {
namespace {

// How many bound processes this one has made: they take the places of a binding in turn. relaxed:
// a mere counter.
std::atomic<unsigned> g_bound{0};

bool reports_wanted() noexcept {
  const char* text = std::getenv("MILLRACE_REPORT_BINDINGS");
  return text != nullptr && *text != '\0' && std::strcmp(text, "0") != 0;
}

std::string list_of(const std::vector<int>& cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cpus[i]);
    if (last > i) text += "-" + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace

ChildBinding::ChildBinding(const std::optional<affinity::Binding>& option) {
  const affinity::Binding binding = sched::resolve(option, false);
  if (binding.text() == "none") return;
  const auto& topology = sched::Topology::system();
  const auto places = static_cast<unsigned>(topology.current_allowed().size());
  const unsigned place =
      g_bound.fetch_add(1, std::memory_order_relaxed) % (places > 0 ? places : 1);
  const auto plan = sched::plan(binding, static_cast<int>(place) + 1, 1, topology);
  cpus_ = plan.back().cpus;
  node_ = plan.back().node;
  source_ = plan.back().source;
}

void ChildBinding::apply(const std::string& process_name) const {
  if (cpus_.empty()) return restore_affinity();
  const bool real = sched::Topology::system().is_thissystem();
  std::vector<int> bound = cpus_;
  if (real) {
    bound = sched::bind_self(cpus_);
    if (node_ >= 0) sched::prefer_node(node_);
  } else {
    restore_affinity();
  }
  if (reports_wanted()) {
    print_error("[millrace] " + process_name + " pid " + std::to_string(::getpid()) + " cpus " +
                list_of(bound) + " node " + std::to_string(node_) + " by " + source_ +
                (real ? "\n" : " (not applied: MILLRACE_TOPOLOGY)\n"));
  }
}

}  // namespace millrace::runtime
