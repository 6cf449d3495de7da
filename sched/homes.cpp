#include "sched/homes.hpp"

#include <map>
#include <tuple>

namespace millrace::sched {
namespace {

// The place of every cpu among the hardware threads of its core.
std::map<int, int> thread_ranks(const Topology& topology) {
  std::map<int, int> ranks;
  for (const CpuSet& core : topology.cores()) {
    int rank = 0;
    for (const int cpu : core) ranks[cpu] = rank++;
  }
  return ranks;
}

}  // namespace

std::vector<int> home_cpus(const std::vector<PlannedWorker>& workers, const Topology& topology) {
  const std::map<int, int> ranks = thread_ranks(topology);
  const auto rank_of = [&ranks](int cpu) {
    const auto at = ranks.find(cpu);
    return at == ranks.end() ? 0 : at->second;
  };
  std::map<int, int> residents;
  std::vector<int> homes;
  for (const PlannedWorker& worker : workers) {
    int home = -1;
    std::tuple<int, int> best;
    for (const int cpu : worker.cpus) {
      const auto at = residents.find(cpu);
      const std::tuple cost(at == residents.end() ? 0 : at->second, rank_of(cpu));
      if (home >= 0 && cost >= best) continue;
      home = cpu;
      best = cost;
    }
    if (home >= 0) ++residents[home];
    homes.push_back(home);
  }
  return homes;
}

}  // namespace millrace::sched
