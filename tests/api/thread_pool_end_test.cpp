// ThreadPool: how its jobs and it end, and what it is made with.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <millrace/thread_pool.hpp>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/thread_pool_fixture.hpp"

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::add;
using millrace::test::apply_here;
using millrace::test::Countdown;
using millrace::test::numbers;
using millrace::test::square;
using millrace::test::ThreadGate;
using millrace::test::ThreadPools;
using millrace::test::ThreadPoolsAlone;

class ThreadPoolEnds : public ThreadPools {};
MILLRACE_POOL_SIZES(ThreadPoolEnds);

TEST_P(ThreadPoolEnds, CallbacksRunOnceBeforeGetReturns) {  // O03
  mp::ThreadPool pool(workers());
  int sum = 0;
  pool.apply_async({.callback = [&](int x) { sum += x; }}, square, 3).get();
  EXPECT_EQ(sum, 9);
  std::string text;
  auto failed = pool.apply_async({.error_callback =
                                      [&](const std::exception_ptr& error) {
                                        try {
                                          std::rethrow_exception(error);
                                        } catch (const std::exception& e) {
                                          text = e.what();
                                        }
                                      }},
                                 []() -> int { throw std::runtime_error("why"); });
  EXPECT_THROW(failed.get(), std::runtime_error);
  EXPECT_EQ(text, "why");
  EXPECT_EQ(pool.apply_async({.callback = [](int) { throw 1; }}, square, 2).get(), 4);
}

TEST_P(ThreadPoolEnds, CloseLetsWorkFinishAndJoinWaits) {  // O10, O12
  mp::ThreadPool pool(workers());
  EXPECT_THROW(pool.join(), mp::ValueError);
  ThreadGate gate;
  auto result = pool.map_async(
      [&gate](int x) {
        gate.pass();
        return x;
      },
      numbers(20), 1);
  auto rest = pool.imap(square, Countdown(50));
  pool.close();
  EXPECT_THROW((void)pool.map(square, {1}), mp::ValueError);
  EXPECT_EQ(pool.repr(), "<multiprocessing.pool.ThreadPool state=CLOSE pool_size=" +
                             std::to_string(workers()) + ">");
  gate.open();
  pool.join();
  EXPECT_EQ(result.get(), numbers(20));
  EXPECT_EQ(rest.next(), 2500);
}

TEST_P(ThreadPoolEnds, TerminateDropsWhatHasNotBegun) {  // O11
  ThreadGate gate;
  std::atomic<int> ran{0};
  mp::ThreadPool pool(workers());
  std::vector<mp::AsyncResult<void>> results;
  for (int i = 0; i < 20; ++i) {
    results.push_back(pool.apply_async([&] {
      gate.pass();
      ++ran;
    }));
  }
  gate.await(workers());
  pool.terminate();
  for (auto& result : results) EXPECT_THROW(result.get(), mp::PoolTerminated);
  EXPECT_THROW((void)pool.apply(add, 1, 2), mp::ValueError);
  gate.open();
  pool.join();
  EXPECT_EQ(ran, workers());
}

TEST_P(ThreadPoolEnds, DroppingAnIteratorWaitsForWhatRuns) {
  mp::ThreadPool pool(workers());
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> inside{0};
    {
      auto results = pool.imap(
          [&inside](int x) {
            ++inside;
            std::this_thread::yield();
            --inside;
            return x;
          },
          Countdown(1000));
      EXPECT_EQ(results.next(), 1000);
    }
    EXPECT_EQ(inside, 0);
  }
}

TEST_P(ThreadPoolEnds, CancelEndsTheCallNow) {
  ThreadGate gate;
  mp::ThreadPool pool(workers());
  auto result = pool.map_async([&gate](int) { gate.pass(); }, numbers(100), 1);
  gate.await(1);
  EXPECT_TRUE(result.cancel());
  EXPECT_FALSE(result.cancel());
  EXPECT_THROW(result.get(), mp::ProcessError);
  gate.open();
  EXPECT_EQ(pool.apply(add, 1, 2), 3);
}

TEST_P(ThreadPoolEnds, ATimeoutFailsTheTask) {
  ThreadGate gate;
  mp::ThreadPool pool(workers());
  EXPECT_THROW(pool.apply({.timeout = 5ms}, [&gate] { gate.pass(); }), mp::TimeoutError);
  gate.open();
  EXPECT_EQ(pool.apply({.timeout = 1h}, add, 1, 2), 3);
  EXPECT_EQ(pool.map(square, numbers(100), {.chunksize = 1, .timeout = 1h}),
            apply_here(square, numbers(100)));
}

TEST_P(ThreadPoolEnds, AnInitializerRunsInEveryThread) {  // O01
  std::mutex mutex;
  std::set<pid_t> threads;
  std::atomic<int> calls{0};
  {
    mp::ThreadPool pool(
        workers(),
        [&](const std::string& text) {
          const std::lock_guard lock(mutex);
          threads.insert(::gettid());
          calls += static_cast<int>(text.size());
        },
        "x");
    pool.close();
    pool.join();
  }
  EXPECT_EQ(calls, workers());
  EXPECT_EQ(threads.size(), static_cast<std::size_t>(workers()));
}

TEST_P(ThreadPoolEnds, WhatTheInitializerThrowsEveryCallThrows) {
  mp::ThreadPool pool(workers(), [] { throw std::out_of_range("no start"); });
  EXPECT_THROW((void)pool.map(square, numbers(10)), std::out_of_range);
}

TEST_P(ThreadPoolEnds, ThreadsAreReplacedAfterSoManyTasks) {  // O01: maxtasksperchild
  mp::ThreadPool pool({.processes = workers(), .maxtasksperchild = 1});
  std::mutex mutex;
  std::set<std::thread::id> threads;
  for (int i = 0; i < 20; ++i) {
    pool.apply([&] {
      static thread_local const bool first = [&] {
        const std::lock_guard lock(mutex);
        threads.insert(std::this_thread::get_id());
        return true;
      }();
      EXPECT_TRUE(first);
    });
  }
  EXPECT_EQ(pool.map(square, numbers(50), 1), apply_here(square, numbers(50)));
}

TEST_P(ThreadPoolEnds, ATaskMayWaitForOthersOfItsPool) {
  mp::ThreadPool pool(workers());
  const auto inner = [&pool](int x) {
    const auto squares = pool.map(square, numbers(x));
    return std::accumulate(squares.begin(), squares.end(), 0);
  };
  EXPECT_EQ(pool.map(inner, {3, 4, 5, 6}, 1), (std::vector<int>{5, 14, 30, 55}));
}

TEST_P(ThreadPoolEnds, CallsComeFromManyThreads) {
  mp::ThreadPool pool(workers());
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&pool, c] {
      for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(pool.map(square, numbers(c + i)), apply_here(square, numbers(c + i)));
        EXPECT_EQ(pool.apply(add, c, i), c + i);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST_P(ThreadPoolEnds, HigherPrioritiesGoFirst) {
  ThreadGate gate;
  mp::ThreadPool pool(workers());
  auto blockers = pool.map_async([&gate](int) { gate.pass(); }, numbers(workers()), 1);
  gate.await(workers());
  std::mutex mutex;
  std::vector<int> order;
  const auto note = [&](int x) {
    const std::lock_guard lock(mutex);
    order.push_back(x);
  };
  auto low = pool.apply_async({.priority = -1}, note, 1);
  auto high = pool.apply_async({.priority = 1}, note, 2);
  gate.open();
  low.get();
  high.get();
  if (workers() == 1) {
    EXPECT_EQ(order, (std::vector<int>{2, 1}));
  }
}

TEST_P(ThreadPoolEnds, ProgressReachesTheEnd) {
  mp::ThreadPool pool(workers());
  std::vector<mp::Progress> seen;
  pool.map(square, numbers(100),
           {.progress = [&](const mp::Progress& now) { seen.push_back(now); }});
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back().done, 100U);
  EXPECT_EQ(seen.back().total, 100U);
}

TEST_P(ThreadPoolEnds, BindingsAndStatsNameTheThreads) {
  mp::ThreadPool pool({.processes = workers(), .bind = "none"});
  pool.map(square, numbers(100), 1);
  const auto bindings = pool.bindings();
  const auto stats = pool.stats();
  ASSERT_EQ(bindings.size(), static_cast<std::size_t>(workers()));
  std::uint64_t tasks = 0;
  for (std::size_t i = 0; i < bindings.size(); ++i) {
    EXPECT_EQ(bindings[i].pid, stats[i].pid);
    EXPECT_FALSE(bindings[i].cpus.empty());
    tasks += stats[i].tasks;
  }
  EXPECT_EQ(tasks, 100U);
}

TEST_F(ThreadPoolsAlone, AForkedChildGetsForkedError) {
  mp::ThreadPool pool(2);
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 1;
    try {
      (void)pool.apply(add, 1, 2);
    } catch (const mp::ForkedError&) {
      code = 0;
    }
    { const mp::ThreadPool gone(std::move(pool)); }
    ::_exit(code);
  }
  int status = 1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(ThreadPoolsAlone, BadOptionsAreRefused) {  // O01
  EXPECT_THROW(mp::ThreadPool(0), mp::ValueError);
  EXPECT_THROW(mp::ThreadPool({.maxtasksperchild = 0}), mp::ValueError);
  EXPECT_THROW(mp::ThreadPool({.cores_per_worker = 0}), mp::ValueError);
  mp::ThreadPool pool(1);
  EXPECT_THROW((void)pool.map(square, {1}, {.joblog = "log"}), mp::ValueError);
}

}  // namespace
