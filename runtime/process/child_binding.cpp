#include "runtime/process/child_binding.hpp"

#include <unistd.h>

#include <atomic>
#include <cstring>

#include "runtime/process/child.hpp"
#include "sched/binding.hpp"

extern char** environ;  // NOLINT(readability-redundant-declaration): not in every <unistd.h>

namespace millrace::runtime {
namespace {

// How many bound processes this one has made: they take the places of a binding in turn. relaxed:
// a mere counter.
std::atomic<int> g_bound{0};

// Whether anything but the option may ask for a binding. A program that starts a plain Process need
// not read the machine's topology, which takes seconds on a large one.
bool environment_may_bind() noexcept {
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    if (**entry < 'G' || **entry > 'S') continue;  // most of them: each start looks at all
    for (const char* prefix : {"MILLRACE_BIND=", "OMP_P", "SLURM_", "OMPI_", "GOMP_CPU"}) {
      if (std::strncmp(*entry, prefix, std::strlen(prefix)) == 0) return true;
    }
  }
  return false;
}

}  // namespace

ChildBinding::ChildBinding(const std::optional<affinity::Binding>& option) {
  if (!option && !environment_may_bind()) return;
  const affinity::Binding binding = sched::resolve(option, sched::Consumer::process);
  if (binding.text() == "none") return;
  place_ = sched::plan_process(binding, g_bound.fetch_add(1, std::memory_order_relaxed));
}

[[gnu::hot]] void ChildBinding::apply() const {
  if (place_.cpus.empty()) return restore_affinity();
  affinity::PlannedWorker bound = place_;
  if (sched::Topology::system().is_thissystem()) {
    bound.cpus = sched::bind_self(place_.cpus);
    if (place_.node >= 0) (void)sched::prefer_node(place_.node);
  } else {
    restore_affinity();
    bound.source += " (not applied: MILLRACE_TOPOLOGY)";
  }
  if (sched::report_bindings()) {
    print_error(sched::format_binding(process_name(), ::getpid(), bound) + "\n");
  }
}

}  // namespace millrace::runtime
