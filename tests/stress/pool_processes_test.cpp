// The end, and the standing still, of a pool's processes: of its parent, its zygote, all at once.
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <millrace/arena.hpp>
#include <millrace/pool.hpp>
#include <numeric>

#include "tests/stress/pool_rig.hpp"

namespace millrace {
namespace {

using namespace std::chrono_literals;
using Index = std::uint64_t;
using Clock = std::chrono::steady_clock;

Index doubled(Index i) {
  volatile Index sink = 0;
  for (int k = 0; k < 2000; ++k) sink = sink + i;
  return 2 * i;
}

// A task that lasts until its worker is ended.
int forever() {
  for (;;) ::pause();
}

std::vector<Index> numbers(Index count) {
  std::vector<Index> all(count);
  std::iota(all.begin(), all.end(), Index{0});
  return all;
}

std::string percentiles(std::vector<double> ms) {
  std::ranges::sort(ms);
  char text[96];
  std::snprintf(text, sizeof text, "p50=%.2f ms p99=%.2f ms max=%.2f ms", ms[ms.size() / 2],
                ms[ms.size() * 99 / 100], ms.back());
  return text;
}

// Orphans of this process's descendants become its children, so it can wait for their end.
class Subreaper {
 public:
  Subreaper() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }
  ~Subreaper() { ::prctl(PR_SET_CHILD_SUBREAPER, 0); }
  // True when no child is left before `limit` is over.
  static bool all_gone(std::chrono::milliseconds limit) {
    const auto deadline = Clock::now() + limit;
    for (;;) {
      const pid_t ended = ::waitpid(-1, nullptr, WNOHANG);
      if (ended < 0) return true;
      if (ended == 0) {
        if (Clock::now() > deadline) return false;
        std::this_thread::sleep_for(200us);
      }
    }
  }
};

[[noreturn]] void be_a_program(unsigned kind) {
  Pool pool(3);
  std::vector<AsyncResult<int>> running;
  if (kind % 3 == 0) {
    for (int i = 0; i < 3; ++i) running.push_back(pool.apply_async(forever));
  }
  shared_array<Index> out(5000);
  shared_array<Index> in(5000);
  for (;;) {
    if (kind % 3 == 0) ::pause();
    (void)pool.map(doubled, numbers(5000), {.chunksize = 10});
    pool.map_into(doubled, in, out, {.chunksize = 10});
  }
}

TEST(PoolProcesses, NoneOutlivesTheirProgram) {
  std::mt19937_64 random(stress::seed());
  const Subreaper subreaper;
  const auto shm_before = test::own_segments();
  const long programs = stress::scaled(20, 200);
  std::vector<double> ms;
  for (long round = 0; round < programs; ++round) {
    stress::watchdog(60);
    const pid_t program = ::fork();
    ASSERT_GE(program, 0);
    if (program == 0) be_a_program(static_cast<unsigned>(round));
    // Half of them while they make their pool.
    const std::uint64_t longest = random() % 2 == 0 ? 4000 : 40000;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % longest));
    if (round % 5 == 0) {  // its zygote a moment before
      for (const pid_t zygote : stress::children_of(program)) stress::kill_one(zygote);
    }
    const auto killed = Clock::now();
    ASSERT_TRUE(stress::kill_one(program));
    ASSERT_TRUE(Subreaper::all_gone(20s)) << "round " << round;
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - killed).count());
  }
  EXPECT_EQ(test::own_segments(), shm_before);
  std::printf("programs=%ld until the last process had gone: %s\n", programs,
              percentiles(ms).c_str());
  stress::watchdog(0);
}

class PoolFixture : public testing::Test {
 protected:
  void SetUp() override {
    stress::watchdog(200);
    { Pool(2).apply(doubled, Index{1}); }
    before_ = stress::Remains::now();
  }
  void TearDown() override {
    // Workers of a killed zygote are nobody's children here; they are gone all the same.
    stress::expect_nothing_left(before_);
    stress::watchdog(0);
  }
  stress::Remains before_;
};

using PoolZygote = PoolFixture;

TEST_F(PoolZygote, KilledTakesItsWorkersAlongAndIsReplaced) {
  Pool pool(3);
  for (long round = 0; round < stress::scaled(5, 20); ++round) {
    std::vector<AsyncResult<int>> lost;
    for (int i = 0; i < 3; ++i) lost.push_back(pool.apply_async(forever));
    AsyncResult<Index> waiting = pool.apply_async(doubled, Index{21});
    while (stress::paused_workers().size() < 3) std::this_thread::yield();
    for (const pid_t zygote : stress::zygotes()) ASSERT_TRUE(stress::kill_one(zygote));
    for (auto& one : lost) {
      try {
        (void)one.get();
        ADD_FAILURE() << "a task that never ends has ended";
      } catch (const WorkerLost& error) {
        EXPECT_EQ(error.first(), 0U);
      }
    }
    EXPECT_EQ(waiting.get(), 42U);
    EXPECT_EQ(pool.map(doubled, {Index{1}, Index{2}, Index{3}}), (std::vector<Index>{2, 4, 6}));
  }
}

TEST_F(PoolZygote, KilledAtAnyInstantLosesNothingThatIsRetried) {
  std::mt19937_64 random(stress::seed());
  Pool pool(2);
  std::atomic<long> kills{0};
  std::jthread killer([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      // Most are killed after they have started, however long that takes on a busy machine.
      const bool patient = random() % 4 != 0;
      while (patient && stress::workers().empty() && !stop.stop_requested()) {
        std::this_thread::sleep_for(200us);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      for (const pid_t zygote : stress::zygotes()) kills += stress::kill_one(zygote) ? 1 : 0;
    }
  });
  const Index items = 2000;
  const auto input = numbers(items);
  while (kills.load() < stress::scaled(8, 40)) {
    const auto results = pool.map(doubled, input, {.chunksize = 20, .retries = 100});
    for (Index i = 0; i < items; ++i) ASSERT_EQ(results[i], 2 * i);
    auto lazily = pool.imap(doubled, input, {.chunksize = 7, .retries = 100});
    for (Index i = 0; i < items; ++i) ASSERT_EQ(lazily.next(), 2 * i);
  }
  killer.request_stop();
  killer.join();
  EXPECT_EQ(pool.apply(doubled, Index{4}), 8U);
}

using PoolStopped = PoolFixture;

void signal_all(int number) {
  for (const pid_t zygote : stress::zygotes()) stress::Target(zygote).signal(number);
  for (const pid_t worker : stress::workers()) stress::Target(worker).signal(number);
}

TEST_F(PoolStopped, IsNotTakenForDead) {
  Pool pool(2);
  for (int round = 0; round < 3; ++round) {
    auto results = pool.map_async(doubled, numbers(20000), {.chunksize = 50});
    signal_all(SIGSTOP);
    EXPECT_FALSE(results.wait(700ms) && results.get().size() != 20000);
    signal_all(SIGCONT);
    EXPECT_EQ(results.get()[19999], 39998U);
  }
}

TEST_F(PoolStopped, IsEndedByTerminate) {
  Pool pool(3);
  auto never = pool.apply_async(forever);
  signal_all(SIGSTOP);
  pool.terminate();
  EXPECT_THROW(never.get(), PoolTerminated);
  pool.join();
  EXPECT_TRUE(stress::zygotes().empty());
}

TEST_F(PoolStopped, WorkerIsReplacedWhenItsTimeIsUp) {
  Pool pool(1);
  auto slow = pool.apply_async({.timeout = 200ms}, forever);
  while (stress::paused_workers().empty()) std::this_thread::yield();
  for (const pid_t worker : stress::workers()) stress::Target(worker).signal(SIGSTOP);
  try {
    (void)slow.get();
    ADD_FAILURE() << "a task that never ends has ended";
  } catch (const TimeoutError&) {
    EXPECT_EQ(pool.apply(doubled, Index{5}), 10U);
  }
}

// What a task reads lives as long as its worker may read it, though nobody waits for the task.
TEST_F(PoolStopped, ContextOfACancelledJobStaysUntilItsWorkerIsDead) {
  Pool pool(1);
  (void)pool.map(doubled, numbers(10));
  const auto spans = [] { return stress::Remains::now().span_bytes; };
  const std::size_t before = spans();
  const auto pause_with = [](const std::vector<double>& table, Index i) {
    if (!table.empty()) ::pause();
    return i;
  };
  {
    const std::vector<double> table(1 << 20);
    auto job = pool.map_async(partial(pause_with, table), {1, 2}, {.chunksize = 2});
    while (stress::paused_workers().empty()) std::this_thread::yield();
    const stress::Target zygote(stress::zygotes().front());
    ASSERT_TRUE(zygote.signal(SIGSTOP));  // it is the one who ends the worker
    EXPECT_TRUE(job.cancel());
    EXPECT_THROW((void)job.get(), std::exception);
    EXPECT_GE(spans(), before + (std::size_t{8} << 20));
    ASSERT_TRUE(zygote.signal(SIGCONT));
  }
  EXPECT_EQ(pool.map(doubled, {Index{3}}), (std::vector<Index>{6}));  // by another worker
  EXPECT_EQ(spans(), before);
}

TEST_F(PoolFixture, DeathReachesTheCaller) {
  Pool pool(2);
  std::vector<double> ms;
  for (long round = 0; round < stress::scaled(20, 300); ++round) {
    auto lost = pool.apply_async(forever);
    while (stress::paused_workers().empty()) std::this_thread::yield();
    const stress::Target target(stress::paused_workers().front());
    const auto killed = Clock::now();
    ASSERT_TRUE(target.signal(SIGKILL));
    EXPECT_THROW((void)lost.get(), WorkerLost);
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - killed).count());
  }
  std::printf("kill of a worker to WorkerLost in its caller: %s\n", percentiles(ms).c_str());
}

}  // namespace
}  // namespace millrace
