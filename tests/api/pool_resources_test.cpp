// What a pool takes of the machine: memory and, while idle, cpu. In limits that a reader can check;
// bench/ has the figures.
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <millrace/pool.hpp>
#include <ranges>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::PoolTest;
using millrace::test::square;

constexpr std::int64_t kMiB = 1 << 20;

std::string field(pid_t pid, const char* file, const std::string& key) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/" + file);
  std::string word;
  while (in >> word) {
    if (word == key && in >> word) return word;
  }
  return "0";
}

/// Bytes of memory that are this process's, its share of what it shares with others included.
std::int64_t memory_of(pid_t pid) { return std::stoll(field(pid, "smaps_rollup", "Pss:")) * 1024; }

/// Nanoseconds of cpu that a process has used.
std::int64_t cpu_of(pid_t pid) {
  std::int64_t ns = 0;
  std::ifstream("/proc/" + std::to_string(pid) + "/schedstat") >> ns;
  return ns;
}

/// This process, the pool's zygote and its workers.
std::vector<pid_t> processes_of(const mp::Pool& pool) {
  std::vector<pid_t> all{::getpid()};
  for (const auto& worker : pool.bindings()) all.push_back(worker.pid);
  all.push_back(static_cast<pid_t>(std::stol(field(all.back(), "status", "PPid:"))));
  return all;
}

template <class Measure>
std::int64_t sum_over(const std::vector<pid_t>& processes, Measure measure) {
  std::int64_t sum = 0;
  for (const pid_t pid : processes) sum += measure(pid);
  return sum;
}

using PoolResources = PoolTest;

TEST_F(PoolResources, APoolOfTwoAddsAtMostEightMebibytes) {
  const std::int64_t before = memory_of(::getpid());
  mp::Pool pool(2);
  EXPECT_EQ(pool.map(square, millrace::test::numbers(100), 1).size(), 100U);
  const std::int64_t after = sum_over(processes_of(pool), memory_of);
  RecordProperty("bytes", std::to_string(after - before));
  EXPECT_LE(after - before, 8 * kMiB);
}

TEST_F(PoolResources, MapTakesItsOutputAndAtMost64MebibytesMore) {
  const std::vector<double> in(std::size_t{1} << 24, 3.0);  // 128 MiB
  const std::int64_t before = memory_of(::getpid());
  mp::Pool pool(2);
  const std::vector<double> out = pool.map([](double x) { return x * x; }, in);
  EXPECT_EQ(out.back(), 9.0);
  // Nothing is given back in steady state: what is there now is the most there was.
  const std::int64_t after = sum_over(processes_of(pool), memory_of);
  const auto output = static_cast<std::int64_t>(out.size() * sizeof(double));
  RecordProperty("bytes", std::to_string(after - before - output));
  EXPECT_LE(after - before, output + 64 * kMiB);
}

TEST_F(PoolResources, AnEndlessGeneratorRunsInConstantMemory) {
  mp::Pool pool(2);
  auto results = pool.imap([](long x) { return std::vector<long>(10, x); }, std::views::iota(0L));
  const auto read = [&](int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(results.next());
  };
  read(20'000);
  const auto processes = processes_of(pool);
  const std::int64_t before = sum_over(processes, memory_of);
  read(200'000);
  const std::int64_t grown = sum_over(processes, memory_of) - before;
  RecordProperty("bytes", std::to_string(grown));
  EXPECT_LE(grown, 4 * kMiB);  // the items read meanwhile would be 22
}

TEST_F(PoolResources, AnIdlePoolUsesNoCpu) {
  mp::Pool pool(2);
  EXPECT_EQ(pool.map(square, millrace::test::numbers(100), 1).size(), 100U);
  const auto processes = processes_of(pool);
  std::this_thread::sleep_for(50ms);  // they go to sleep
  const std::int64_t before = sum_over(processes, cpu_of);
  const auto start = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(2s);
  const std::int64_t used = sum_over(processes, cpu_of) - before;
  const auto elapsed = std::chrono::steady_clock::now() - start;
  RecordProperty("ns", std::to_string(used));
  EXPECT_LE(used, std::chrono::nanoseconds(elapsed).count() / 1000);  // 10 ms in 10 s
}

// Whatever came before: replies that were collected must not look like new ones.
TEST_F(PoolResources, ACallerThatWaitsForALongCallSleeps) {
  mp::Pool pool(2);
  const auto nap = [](int ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    return ms;
  };
  for (const int calls : {1, 5}) {
    for (int i = 0; i < calls; ++i) EXPECT_EQ(pool.apply(nap, 0), 0);
    pool.parallel_for(2, [](std::size_t) {});
    const std::int64_t before = cpu_of(::getpid());
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(pool.apply(nap, 500), 500);
    const std::int64_t used = cpu_of(::getpid()) - before;
    const auto elapsed = std::chrono::steady_clock::now() - start;
    EXPECT_LE(used, std::chrono::nanoseconds(elapsed).count() / 10) << calls;
  }
}

}  // namespace
