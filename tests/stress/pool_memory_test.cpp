// A worker that takes more memory than its cgroup has: the kernel ends it, and the error says so.
// Registered where a memory cgroup can be made.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <millrace/errors.hpp>
#include <millrace/pool.hpp>
#include <string>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace {
namespace {

/// The folder of this process's memory cgroup, "" if there is none of version 1.
std::string own_cgroup() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t at = line.find(":memory:");
    if (at != std::string::npos) return "/sys/fs/cgroup/memory" + line.substr(at + 8);
  }
  return {};
}

/// A cgroup below it, with so much memory.
class MemoryCgroup {
 public:
  explicit MemoryCgroup(std::size_t bytes)
      : path_(own_cgroup() + "/pool-test-" + std::to_string(::getpid())) {
    EXPECT_EQ(::mkdir(path_.c_str(), 0700), 0) << path_;
    write("memory.limit_in_bytes", bytes);
  }
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;
  ~MemoryCgroup() { EXPECT_EQ(::rmdir(path_.c_str()), 0) << path_; }
  /// Moves this process there.
  void enter() const { write("cgroup.procs", static_cast<std::size_t>(::getpid())); }

 private:
  void write(const std::string& name, std::size_t value) const {
    std::ofstream file(path_ + "/" + name);
    file << value << std::flush;
    if (!file) std::abort();
  }
  std::string path_;
};

int greedy_at_three(int x) {
  std::vector<std::string> all;
  while (x == 3) all.emplace_back(std::size_t{4} << 20, 'x');
  return x;
}

TEST(PoolMemory, AWorkerKilledForLackOfMemoryIsReportedAsSuch) {
  const MemoryCgroup group(std::size_t{96} << 20);
  const auto program = test::run_program([&group] {
    ::alarm(100);
    group.enter();
    Pool pool(2);
    const auto all =
        pool.map(greedy_at_three, {0, 1, 2, 3, 4, 5, 6, 7}, {.chunksize = 1, .on_error = collect});
    int good = 0;
    for (const auto& one : all) good += one ? 1 : 0;
    std::printf("%d of %zu, signal %d, oom %d; ", good, all.size(), all[3].signal(), all[3].oom());
    try {
      (void)pool.map(greedy_at_three, {1, 2, 3}, {.chunksize = 1});
    } catch (const WorkerLost& lost) {
      std::printf("item %d, oom %d; ", static_cast<int>(lost.first()), lost.oom());
    }
    try {
      pool.apply([] { ::raise(SIGKILL); });
    } catch (const WorkerLost& lost) {
      std::printf("oom %d; ", lost.oom());
    }
    std::printf("%d", pool.apply(greedy_at_three, 5));
  });
  EXPECT_EQ(program.out, "7 of 8, signal 9, oom 1; item 2, oom 1; oom 0; 5") << program.err;
  EXPECT_EQ(program.exitcode, 0);
}

}  // namespace
}  // namespace millrace
