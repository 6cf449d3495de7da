// A rank of a batch job: a program that uses a pool and tells, or checks, where its workers are.
//   batch_pool_program check SOURCE [WORKERS]  every worker is bound, by SOURCE, to cpus that this
//                                              process was given; prints "RANK: CPUS"; status 1 if
//                                              not
//   batch_pool_program work                    prints "at work" once all workers are, and never
//   ends
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/affinity.hpp>
#include <millrace/pool.hpp>
#include <numeric>
#include <string>
#include <vector>

namespace {

namespace mp = millrace;

// The cpus a process may run on, as the kernel tells.
std::vector<int> cpus_of(pid_t pid) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(pid, sizeof set, &set) != 0) return {};
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::string text_of(const std::vector<int>& cpus) {
  std::string text;
  for (const int cpu : cpus) text += (text.empty() ? "" : ",") + std::to_string(cpu);
  return text;
}

const char* rank_of_this_process() {
  for (const char* name : {"SLURM_PROCID", "OMPI_COMM_WORLD_RANK"}) {
    if (const char* rank = std::getenv(name)) return rank;
  }
  return "?";
}

// What is wrong with a worker's binding; empty if nothing is.
std::string fault_of(const mp::WorkerBinding& worker, const std::vector<int>& given,
                     const std::string& source) {
  const std::vector<int> real = cpus_of(worker.pid);
  if (real.empty() || real != worker.cpus) return "is on cpus " + text_of(real);
  if (!std::includes(given.begin(), given.end(), real.begin(), real.end())) {
    return "is beyond the cpus given, " + text_of(given);
  }
  if (worker.source.find("(" + source + ")") == std::string::npos)
    return "was not bound by " + source;
  return "";
}

int check(const std::string& source, int workers) {
  const std::vector<int> given = cpus_of(0);
  mp::Pool pool(workers);
  std::vector<int> inputs(1000);
  std::iota(inputs.begin(), inputs.end(), 0);
  const std::vector<int> squares = pool.map([](int x) { return x * x; }, inputs);
  const bool right = std::accumulate(squares.begin(), squares.end(), 0) == 332833500;
  int status = right ? 0 : 1;
  std::vector<int> taken;
  for (const mp::WorkerBinding& worker : pool.bindings()) {
    taken.insert(taken.end(), worker.cpus.begin(), worker.cpus.end());
    const std::string fault = fault_of(worker, given, source);
    if (fault.empty()) continue;
    std::fprintf(stderr, "rank %s: worker %d, cpus %s by %s: %s\n", rank_of_this_process(),
                 static_cast<int>(worker.pid), text_of(worker.cpus).c_str(), worker.source.c_str(),
                 fault.c_str());
    status = 1;
  }
  std::sort(taken.begin(), taken.end());
  taken.erase(std::unique(taken.begin(), taken.end()), taken.end());
  std::printf("%s: %s\n", rank_of_this_process(), text_of(taken).c_str());
  return status;
}

int work() {
  mp::Pool pool(2);
  pool.map([](int x) { return x; }, std::vector<int>(100));
  std::puts("at work");
  std::fflush(stdout);
  pool.map([](int) { return ::pause(); }, std::vector<int>(2));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 3 && std::strcmp(argv[1], "check") == 0) {
    return check(argv[2], argc > 3 ? std::atoi(argv[3]) : 2);
  }
  if (argc == 2 && std::strcmp(argv[1], "work") == 0) return work();
  std::fprintf(stderr, "usage: %s check SOURCE [WORKERS] | work\n", argv[0]);
  return 2;
}
