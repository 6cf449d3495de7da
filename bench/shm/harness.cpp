#include "harness.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <set>

namespace bench {
namespace {

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Gate {
  alignas(64) std::atomic<int> ready{0};
  alignas(64) std::atomic<int> open{0};
  alignas(64) std::atomic<int> done{0};
};

// A process that waits for its start must not keep others from theirs.
void await(const std::atomic<int>& word, int value) {
  for (int looks = 0; word.load(std::memory_order_acquire) != value; ++looks) {
    if (looks % 64 == 63) sched_yield();
  }
}

pid_t start(const std::function<void()>& body) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    body();
    _exit(0);
  }
  return child;
}

void reap(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) fail("waitpid");
  if (status != 0) {
    std::fprintf(stderr, "a measuring process ended with status %d\n", status);
    std::exit(1);
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

const std::vector<int>& allowed_cpus() {
  static const std::vector<int> cpus = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) fail("sched_getaffinity");
    std::vector<int> found;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) found.push_back(cpu);
    }
    return found;
  }();
  return cpus;
}

}  // namespace

void* shared_memory(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  std::memset(memory, 0, bytes);
  return memory;
}

void free_shared_memory(void* memory, std::size_t bytes) {
  if (munmap(memory, bytes) != 0) fail("munmap");
}

void pin(int index) {
  const std::vector<int>& cpus = allowed_cpus();
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[static_cast<std::size_t>(index) % cpus.size()], &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) fail("sched_setaffinity");
}

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000ULL +
         static_cast<std::uint64_t>(now.tv_nsec);
}

double pair_ns(const std::function<void()>& left, const std::function<void()>& right) {
  SharedBlock block(sizeof(Gate));
  auto* gate = new (block.get()) Gate;
  allowed_cpus();
  const pid_t child = start([&] {
    pin(1);
    gate->ready.store(1, std::memory_order_release);
    await(gate->open, 1);
    right();
  });
  cpu_set_t before;
  CPU_ZERO(&before);
  if (sched_getaffinity(0, sizeof before, &before) != 0) fail("sched_getaffinity");
  pin(0);
  await(gate->ready, 1);
  gate->open.store(1, std::memory_order_release);
  const std::uint64_t begin = now_ns();
  left();
  const std::uint64_t end = now_ns();
  reap(child);
  // Peers that make threads of their own size themselves by this thread's affinity.
  if (sched_setaffinity(0, sizeof before, &before) != 0) fail("sched_setaffinity");
  return static_cast<double>(end - begin);
}

double crew_ns(int count, const std::function<void(int)>& body) {
  SharedBlock block(sizeof(Gate));
  auto* gate = new (block.get()) Gate;
  allowed_cpus();
  std::vector<pid_t> children;
  for (int i = 0; i < count; ++i) {
    children.push_back(start([&, i] {
      pin(i);
      gate->ready.fetch_add(1, std::memory_order_acq_rel);
      await(gate->open, 1);
      body(i);
    }));
  }
  await(gate->ready, count);
  const std::uint64_t begin = now_ns();
  gate->open.store(1, std::memory_order_release);
  for (const pid_t child : children) reap(child);
  return static_cast<double>(now_ns() - begin);
}

double placement_probe() {
  constexpr int kRounds = 20000;
  struct Lines {
    alignas(128) std::atomic<int> ping{0};
    alignas(128) std::atomic<int> pong{0};
  };
  SharedBlock block(sizeof(Lines));
  auto* lines = new (block.get()) Lines;
  const auto bounce = [](std::atomic<int>& mine, const std::atomic<int>& other, bool first) {
    for (int i = 1; i <= kRounds; ++i) {
      if (first) mine.store(i, std::memory_order_release);
      while (other.load(std::memory_order_acquire) != i) {
      }
      if (!first) mine.store(i, std::memory_order_release);
    }
  };
  return pair_ns([&] { bounce(lines->ping, lines->pong, true); },
                 [&] { bounce(lines->pong, lines->ping, false); }) /
         kRounds;
}

// A repetition counts only if the two cpus were as far apart as they usually are, before and after.
bool Suite::disturbed(double before, double after) {
  probes_.push_back(before);
  probes_.push_back(after);
  const double usual = median(probes_);
  return std::max(before, after) > 1.6 * usual || std::min(before, after) < 0.6 * usual;
}

void Suite::print(const Row& row) const {
  const std::vector<double>& ours = samples_.at(row.ours);
  const std::vector<double>& peer = samples_.at(row.peer);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / peer[i]);
  std::printf(
      "{\"bench\":\"%s\",\"row\":\"%s\",\"unit\":\"%s\",\"ours\":%.4g,\"peer\":%.4g,"
      "\"peer_name\":\"%s\",\"ratio\":%.3f,\"target\":%.3g,\"better\":\"%s\",\"runs\":%zu}\n",
      name_.c_str(), row.name.c_str(), row.unit.c_str(), median(ours), median(peer),
      row.peer.c_str(), median(ratios), row.target,
      row.better == Better::lower ? "lower" : "higher", ratios.size());
}

int Suite::run(int argc, char** argv) {
  int reps = 20;
  std::string only;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--reps") == 0) reps = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
  }
  if (allowed_cpus().size() < 2) {
    std::fprintf(stderr, "these benchmarks need two cpus\n");
    return 1;
  }
  std::vector<std::string> wanted;
  for (const Row& row : rows_) {
    if (row.name.find(only) == std::string::npos) continue;
    for (const std::string& name : {row.ours, row.peer}) {
      if (std::find(wanted.begin(), wanted.end(), name) == wanted.end()) wanted.push_back(name);
    }
  }
  int discarded = 0;
  double before = placement_probe();
  for (int rep = 0; rep < reps;) {
    std::map<std::string, double> values;
    for (const std::string& name : wanted) values[name] = runs_.at(name)();
    const double after = placement_probe();
    if (disturbed(before, after) && discarded < reps) {
      ++discarded;
    } else {
      for (const auto& [name, value] : values) samples_[name].push_back(value);
      ++rep;
    }
    before = after;
  }
  for (const Row& row : rows_) {
    if (row.name.find(only) != std::string::npos) print(row);
  }
  std::fprintf(stderr, "%s: %d repetitions, %d discarded, two-line round trip %.0f ns\n",
               name_.c_str(), reps, discarded, median(probes_));
  return 0;
}

}  // namespace bench
