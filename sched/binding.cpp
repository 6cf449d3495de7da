#include "sched/binding.hpp"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <millrace/errors.hpp>
#include <system_error>
#include <vector>

#include "sched/binding_spec.hpp"

namespace millrace::sched {

Binding resolve(const std::optional<Binding>& option, Consumer consumer,
                const Environment& environment, const Topology& topology) {
  if (option) return *option;
  const char* setting = environment("MILLRACE_BIND");
  const CpuSet allowed = topology.current_allowed();
  if (setting != nullptr && *setting != '\0') {
    try {
      Binding binding(setting, "MILLRACE_BIND");
      plan(binding, PlanRequest{}, topology, allowed);  // what is absent here is named here
      return binding;
    } catch (const ValueError& error) {
      throw ValueError(std::string("MILLRACE_BIND: ") + error.what());
    }
  }
  std::string ignored;
  for (const Hint& hint : batch_hints(environment, topology, allowed)) {
    try {
      Binding binding(hint.text, hint.source + ignored);
      plan(binding, PlanRequest{}, topology, allowed);
      return binding;
    } catch (const ValueError& error) {
      ignored += "; " + hint.source + " ignored: " + error.what();
    }
  }
  return Binding(consumer == Consumer::pool ? "numa" : "none", "default" + ignored);
}

CpuSet bind_self(const CpuSet& cpus, const Topology& topology) {
  if (cpus.empty() || !topology.is_thissystem()) return thread_affinity();
  const auto count = static_cast<std::size_t>(cpus.back()) + 1;
  const std::size_t size = CPU_ALLOC_SIZE(count);
  const auto release = [](cpu_set_t* set) { CPU_FREE(set); };
  const std::unique_ptr<cpu_set_t, decltype(release)> mask(CPU_ALLOC(count), release);
  if (!mask) throw std::bad_alloc();
  CPU_ZERO_S(size, mask.get());
  for (const int cpu : cpus) CPU_SET_S(static_cast<std::size_t>(cpu), size, mask.get());
  if (sched_setaffinity(0, size, mask.get()) != 0) {
    throw std::system_error(errno, std::generic_category(),
                            "sched_setaffinity to cpus " + format_cpu_list(cpus));
  }
  return thread_affinity();
}

bool prefer_node(int node, const Topology& topology) {
  if (!topology.is_thissystem() || !topology.has_node(node)) return false;
  const int target = topology.memory_node(node);
  if (target < 0) return false;
  constexpr std::size_t kBits = 8 * sizeof(unsigned long);
  const auto bit = static_cast<std::size_t>(target);
  std::vector<unsigned long> mask(bit / kBits + 1, 0);
  mask[bit / kBits] |= 1UL << (bit % kBits);
  // The kernel reads one bit less than it is told.
  const unsigned long max_node = mask.size() * kBits + 1;
  return syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask.data(), max_node) == 0;
}

bool report_bindings(const Environment& environment) {
  const char* setting = environment("MILLRACE_REPORT_BINDINGS");
  return setting != nullptr && *setting != '\0' && std::string_view(setting) != "0";
}

std::string format_binding(const std::string& name, pid_t pid, const PlannedWorker& worker) {
  std::string line = "millrace: " + name + " (pid " + std::to_string(pid) + ") cpus ";
  line += worker.cpus.empty() ? "unbound" : format_cpu_list(worker.cpus);
  line += worker.node >= 0 ? " node " + std::to_string(worker.node) : std::string(" no one node");
  return line + ": " + worker.source;
}

}  // namespace millrace::sched
