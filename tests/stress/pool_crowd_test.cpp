// Pools among many: more workers than the machine has processors, and a program whose threads are
// busy with oneTBB and OpenMP.
#include <gtest/gtest.h>
#include <oneapi/tbb/parallel_for.h>

#include <atomic>
#include <cmath>
#include <millrace/arena.hpp>
#include <millrace/pool.hpp>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/stress/pool_rig.hpp"

namespace millrace {
namespace {

using Index = std::uint64_t;

Index doubled(Index i) { return 2 * i; }

std::vector<Index> numbers(Index count) {
  std::vector<Index> all(count);
  std::iota(all.begin(), all.end(), Index{0});
  return all;
}

class PoolCrowd : public testing::Test {
 protected:
  void SetUp() override {
    stress::watchdog(200);
    { Pool(2).apply(doubled, Index{1}); }
    before_ = stress::Remains::now();
  }
  void TearDown() override {
    stress::expect_nothing_left(before_);
    stress::watchdog(0);
  }

 private:
  stress::Remains before_;
};

/// Every kind of call once.
void use(Pool& pool, Index items) {
  const auto all = numbers(items);
  const auto results = pool.map(doubled, all, {.chunksize = 7});
  for (Index i = 0; i < items; ++i) ASSERT_EQ(results[i], 2 * i);
  Index next = 0;
  for (const auto& text : pool.imap([](Index i) { return std::to_string(i); }, all)) {
    ASSERT_EQ(text, std::to_string(next++));
  }
  ASSERT_EQ(next, items);
  const shared_array<Index> out(items);
  pool.parallel_for(items, [out](std::size_t i) { out[i] = i + 1; }, {.chunksize = 3});
  for (Index i = 0; i < items; ++i) ASSERT_EQ(out[i], i + 1);
  std::vector<AsyncResult<Index>> calls;
  for (Index i = 0; i < 200; ++i) calls.push_back(pool.apply_async(doubled, i));
  for (Index i = 0; i < 200; ++i) ASSERT_EQ(calls[i].get(), 2 * i);
  ASSERT_EQ(pool.reduce(doubled, std::plus<>{}, Index{0}, all), items * (items - 1));
}

TEST_F(PoolCrowd, SixtyFourWorkersOnThisMachine) {
  const int rounds = static_cast<int>(stress::scaled(2, 20));
  for (int round = 0; round < rounds; ++round) {
    Pool pool(64);
    std::set<pid_t> pids;
    for (const auto& worker : pool.bindings()) pids.insert(worker.pid);
    EXPECT_EQ(pids.size(), 64U);
    use(pool, 5000);
    if (round % 2 == 0) {
      pool.close();
      pool.join();
    }
  }
}

TEST_F(PoolCrowd, SixtyFourWorkersThatAreKilled) {
  std::mt19937_64 random(stress::seed());
  Pool pool(64);
  stress::Killer killer(random(), stress::scaled(60, 600), std::chrono::microseconds(2000));
  while (!killer.done()) {
    const auto results = pool.map(doubled, numbers(3000), {.chunksize = 5, .retries = 1000});
    for (Index i = 0; i < 3000; ++i) ASSERT_EQ(results[i], 2 * i);
  }
  killer.stop();
  use(pool, 1000);
}

double busy(int n) {
  double sum = 0;
  for (int i = 1; i < n; ++i) sum += std::sqrt(i);
  return sum;
}

// Made while other threads hold locks of malloc and of their runtimes.
TEST_F(PoolCrowd, BesideThreadsOfOneTbbAndOpenMp) {
  std::atomic<bool> stop{false};
  std::atomic<double> sink{0};
  std::thread tbb([&] {
    while (!stop.load()) {
      oneapi::tbb::parallel_for(0, 64, [&](int i) {
        const std::vector<double> some(100, busy(100 + i));
        sink.store(some[50]);
      });
    }
  });
  std::thread openmp([&] {
    while (!stop.load()) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(3)
#endif
      for (int i = 0; i < 64; ++i) {
        const std::vector<double> some(100, busy(100 + i));
        sink.store(some[50]);
      }
    }
  });
  for (long round = 0; round < stress::scaled(10, 100); ++round) {
    Pool pool(1 + static_cast<int>(round % 4), [] {
      if (busy(10) < 1) std::abort();
    });
    use(pool, 300);
  }
  stop.store(true);
  tbb.join();
  openmp.join();
  EXPECT_GT(sink.load(), 0);
}

}  // namespace
}  // namespace millrace
