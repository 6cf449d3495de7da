// AsyncResult and callbacks: PYTHON.md O03, O05, O09, O15-O18, and CPython's _TestPool.test_async*,
// test_map_async_callbacks, test_starmap_async.
#include <memory>
#include <millrace/pool.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::add;
using millrace::test::apply_here;
using millrace::test::Countdown;
using millrace::test::Gate;
using millrace::test::numbers;
using millrace::test::PoolTest;
using millrace::test::square;

class PoolAsync : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolAsync);

int fail(int) { throw std::out_of_range("no such item"); }
int fail_on_odd(int x) {
  if (x % 2 != 0) throw mp::KeyError("odd");
  return x;
}
int pass(const Gate& gate, int x) {
  gate.pass();
  return x;
}

// O03, _TestPool.test_async
TEST_P(PoolAsync, GetWaitsForTheResult) {
  mp::Pool pool(workers());
  auto result = pool.apply_async(square, 7);
  EXPECT_EQ(result.get(), 49);
  EXPECT_EQ(pool.apply_async([](const std::string& s) { return s + "!"; }, "text").get(), "text!");
  auto nothing = pool.apply_async([] {});
  nothing.get();
  static_assert(std::is_void_v<decltype(nothing.get())>);
}

// O15, _TestPool.test_async_timeout: the result is still obtainable
TEST_P(PoolAsync, GetTimesOutAndCanBeRepeated) {
  mp::Pool pool(workers());
  const Gate gate;
  auto result = pool.apply_async(pass, gate, 3);
  EXPECT_THROW(result.get(0s), mp::TimeoutError);
  EXPECT_THROW(result.get(-1s), mp::TimeoutError);
  EXPECT_THROW(result.get(20ms), mp::TimeoutError);
  EXPECT_FALSE(result.wait(1ms));
  gate.open();
  EXPECT_TRUE(result.wait());
  EXPECT_EQ(result.get(), 3);
  EXPECT_EQ(result.get(0s), 3);
  const int& same = result.get();
  EXPECT_EQ(&same, &result.get());
}

// O17, O18: ready and successful
TEST_P(PoolAsync, SuccessfulIsAskedOnlyWhenReady) {
  mp::Pool pool(workers());
  const Gate gate;
  auto result = pool.apply_async(pass, gate, 3);
  EXPECT_FALSE(result.ready());
  EXPECT_THROW((void)result.successful(), mp::ValueError);
  gate.open();
  result.wait();
  EXPECT_TRUE(result.ready());
  EXPECT_TRUE(result.successful());
  auto failed = pool.apply_async(fail, 1);
  failed.wait();
  EXPECT_FALSE(failed.successful());
  EXPECT_THROW(failed.get(), std::out_of_range);
  EXPECT_THROW(failed.get(), std::out_of_range);
}

// ready() becomes true although nobody waits
TEST_P(PoolAsync, ResultsArriveWhenNobodyWaits) {
  mp::Pool pool(workers());
  const Gate called;
  auto result = pool.apply_async({.callback = [called](int) { called.arrive(); }}, square, 3);
  called.await(1);
  while (!result.ready()) std::this_thread::yield();
  auto other = pool.map_async(square, numbers(100), 1);
  while (!other.ready()) std::this_thread::yield();
  EXPECT_TRUE(other.successful());
}

// O05, _TestPool.test_map_async
TEST_P(PoolAsync, MapAsyncGivesEverythingInOrder) {
  mp::Pool pool(workers());
  const auto items = numbers(50);
  for (const int chunk : {1, 3, 50, 60}) {
    EXPECT_EQ(pool.map_async(square, items, chunk).get(), apply_here(square, items));
  }
  EXPECT_EQ(pool.map_async(square, {1, 2, 3}).get(), (std::vector<int>{1, 4, 9}));
  EXPECT_EQ(pool.map_async(square, Countdown(3)).get(), (std::vector<int>{9, 4, 1}));
  auto words = pool.map_async([](const std::string& s) { return s + s; }, {"a", "b"});
  EXPECT_EQ(words.get(), (std::vector<std::string>{"aa", "bb"}));
  auto result = pool.map_async(square, items);
  const std::vector<int>& view = result.get();
  EXPECT_EQ(view, apply_here(square, items));
  pool.map_async([](int) {}, items).get();
}

// O09, _TestPool.test_starmap_async
TEST_P(PoolAsync, StarmapAsyncUnpacks) {
  mp::Pool pool(workers());
  std::vector<std::pair<int, int>> pairs{{1, 2}, {3, 4}};
  EXPECT_EQ(pool.starmap_async(add, pairs).get(), (std::vector<int>{3, 7}));
  EXPECT_EQ(pool.starmap_async(add, {{1, 2}, {3, 4}}).get(), (std::vector<int>{3, 7}));
  EXPECT_EQ(pool.starmap_async(add, pairs, 1).get(1min), (std::vector<int>{3, 7}));
  EXPECT_EQ(pool.starmap_async(add, {{1, 2}, {3, 4}}, 2).get(), (std::vector<int>{3, 7}));
  const auto outcomes = pool.starmap_async(add, {{1, 2}}, {.on_error = mp::collect}).get();
  EXPECT_EQ(outcomes.at(0).value(), 3);
}

// O05: the input was read when the call returns
TEST_P(PoolAsync, MapAsyncHasReadItsInputWhenItReturns) {
  mp::Pool pool(workers());
  const Gate gate;
  std::vector<mp::AsyncResult<int>> holding;
  for (int i = 0; i < workers(); ++i) holding.push_back(pool.apply_async(pass, gate, i));
  std::optional<mp::AsyncResult<std::vector<int>>> from_vector;
  std::optional<mp::AsyncResult<std::vector<std::string>>> from_texts;
  int taken = 0;
  std::optional<mp::AsyncResult<std::vector<int>>> from_generator;
  {
    std::vector<int> items = numbers(10'000);
    std::vector<std::string> texts(3000, "text");
    from_vector = pool.map_async(square, items, 7);
    from_texts = pool.map_async([](const std::string& s) { return s; }, texts, 7);
    from_generator = pool.map_async(square, Countdown(5000, &taken), 7);
    items.assign(items.size(), -1);
    texts.assign(texts.size(), "overwritten");
  }
  EXPECT_EQ(taken, 5000);
  gate.open();
  EXPECT_EQ(from_vector->get(), apply_here(square, numbers(10'000)));
  EXPECT_EQ(from_texts->get(), std::vector<std::string>(3000, "text"));
  EXPECT_EQ(from_generator->get().front(), square(5000));
}

// O03: exactly one of the two callbacks, before get() returns; _TestPool.test_async callbacks,
// test_map_async_callbacks
TEST_P(PoolAsync, ExactlyOneCallbackRunsBeforeGetReturns) {
  mp::Pool pool(workers());
  int good = 0;
  int bad = 0;
  const auto count_bad = [&](const std::exception_ptr& error) {
    EXPECT_TRUE(error);
    ++bad;
  };
  for (int round = 0; round < 50; ++round) {
    auto result = pool.apply_async(
        {.callback = [&](int x) { good += x; }, .error_callback = count_bad}, square, 1);
    result.get();
    ASSERT_EQ(std::pair(good, bad), std::pair(round + 1, round));
    auto failed =
        pool.apply_async({.callback = [&](int) { ++good; }, .error_callback = count_bad}, fail, 1);
    EXPECT_THROW(failed.get(), std::out_of_range);
    ASSERT_EQ(std::pair(good, bad), std::pair(round + 1, round + 1));
  }
}

TEST_P(PoolAsync, MapCallbacksGetTheWholeResult) {
  mp::Pool pool(workers());
  std::vector<int> seen;
  int errors = 0;
  auto result = pool.map_async(square, numbers(20),
                               {.chunksize = 3,
                                .callback = [&](const std::vector<int>& all) { seen = all; },
                                .error_callback = [&](const std::exception_ptr&) { ++errors; }});
  result.wait();
  EXPECT_EQ(seen, apply_here(square, numbers(20)));
  auto failed = pool.map_async(fail_on_odd, numbers(20),
                               {.callback = [&](const std::vector<int>&) { seen.clear(); },
                                .error_callback = [&](const std::exception_ptr&) { ++errors; }});
  EXPECT_THROW(failed.get(), mp::KeyError);
  EXPECT_EQ(errors, 1);
  EXPECT_EQ(seen.size(), 20U);
  int called = 0;
  pool.map_async([](int) {}, numbers(3), {.callback = [&] { ++called; }}).get();
  pool.apply_async({.callback = [&] { ++called; }}, [] {}).get();
  pool.map_async(square, std::vector<int>{}, {.callback = [&](auto&&) { ++called; }}).get();
  pool.starmap_async(add, {{1, 2}}, {.callback = [&](auto&&) { ++called; }}).get();
  EXPECT_EQ(called, 4);
}

// callbacks may use the pool: they run without its lock (Python's result thread would hang)
TEST_P(PoolAsync, CallbacksMayUseThePool) {
  mp::Pool pool(workers());
  int inner = 0;
  auto result = pool.apply_async({.callback =
                                      [&](int x) {
                                        inner = pool.apply(square, x) + pool.map(square, {1, 2})[1];
                                      }},
                                 square, 2);
  EXPECT_EQ(result.get(), 4);
  EXPECT_EQ(inner, 20);
}

TEST_P(PoolAsync, CallbacksMayCloseAndTerminateThePool) {
  {
    mp::Pool pool(workers());
    auto result = pool.apply_async({.callback = [&](int) { pool.close(); }}, square, 2);
    result.wait();
    EXPECT_THROW(pool.apply(square, 1), mp::ValueError);
    pool.join();
  }
  mp::Pool pool(workers());
  const Gate gate;
  auto held = pool.apply_async(pass, gate, 1);
  auto result = pool.map_async([](int) {}, numbers(1), {.callback = [&] { pool.terminate(); }});
  if (workers() > 1) {
    result.wait();
    EXPECT_THROW(held.get(), mp::PoolTerminated);
  }
}

// a dropped AsyncResult neither waits nor cancels
TEST_P(PoolAsync, DroppedResultsAreStillComputed) {
  mp::Pool pool(workers());
  const Gate gate;
  pool.apply_async(pass, gate, 1);
  (void)pool.map_async(
      [gate](int x) {
        gate.pass();
        return x;
      },
      numbers(5), 1);
  gate.open();
  pool.close();
  pool.join();
  EXPECT_EQ(gate.arrived(), 6);
}

// O10, _TestPoolWorkerLifetime.test_pool_worker_lifetime_early_close: what was submitted is done
TEST_P(PoolAsync, CloseFinishesWhatWasSubmitted) {
  mp::Pool pool(workers());
  std::vector<mp::AsyncResult<int>> results;
  for (int i = 0; i < 300; ++i) results.push_back(pool.apply_async(square, i));
  auto all = pool.map_async(square, numbers(3000), 1);
  pool.close();
  EXPECT_THROW((void)pool.apply_async(square, 1), mp::ValueError);
  pool.join();
  for (int i = 0; i < 300; ++i) {
    auto& result = results[static_cast<std::size_t>(i)];
    EXPECT_TRUE(result.ready());
    EXPECT_EQ(result.get(), i * i);
  }
  EXPECT_EQ(all.get(), apply_here(square, numbers(3000)));
}

// O11: pending results fail instead of never coming; they outlive the pool
TEST_P(PoolAsync, ResultsOfADestroyedPoolFail) {
  const Gate gate;
  std::vector<mp::AsyncResult<int>> pending;
  std::vector<mp::AsyncResult<int>> finished;
  int errors = 0;
  {
    mp::Pool pool(workers());
    finished.push_back(pool.apply_async(square, 3));
    finished[0].wait();
    const auto count = [&](const std::exception_ptr&) { ++errors; };
    for (int i = 0; i < 20; ++i) {
      pending.push_back(pool.apply_async({.error_callback = count}, pass, gate, i));
    }
    gate.await(1);
  }
  EXPECT_EQ(errors, 20);
  EXPECT_EQ(finished[0].get(), 9);
  for (auto& result : pending) {
    EXPECT_TRUE(result.ready());
    EXPECT_THROW(result.get(), mp::PoolTerminated);
    EXPECT_FALSE(result.cancel());
  }
}

// O15: what was handed on has no result
TEST_P(PoolAsync, MovedFromTheyAreValueErrors) {
  mp::Pool pool(workers());
  auto given = pool.apply_async(square, 3);
  auto kept = std::move(given);
  // NOLINTBEGIN(bugprone-use-after-move): what is tested
  EXPECT_THROW(given.get(), mp::ValueError);
  EXPECT_THROW(given.wait(), mp::ValueError);
  EXPECT_THROW(static_cast<void>(given.ready()), mp::ValueError);
  EXPECT_THROW(static_cast<void>(given.successful()), mp::ValueError);
  EXPECT_THROW(given.cancel(), mp::ValueError);
  auto items = pool.imap(square, numbers(3));
  auto rest = std::move(items);
  EXPECT_THROW(items.next(), mp::ValueError);
  // NOLINTEND(bugprone-use-after-move)
  EXPECT_EQ(kept.get(), 9);
  EXPECT_EQ(rest.next(), 0);
}

// many results at a time, of several threads
TEST_P(PoolAsync, ManyResultsOfManyThreadsArrive) {
  mp::Pool pool(workers());
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  std::atomic<int> called{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<mp::AsyncResult<int>> results;
      for (int i = 0; i < 500; ++i) {
        results.push_back(pool.apply_async({.callback = [&](int) { ++called; }}, add, i, t));
      }
      for (int i = 0; i < 500; ++i) {
        right += results[static_cast<std::size_t>(i)].get() == i + t ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 2000);
  EXPECT_EQ(called, 2000);
}

}  // namespace
