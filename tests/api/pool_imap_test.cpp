// imap and imap_unordered: PYTHON.md O06, O07, O14, and CPython's _TestPool.test_imap*,
// test_imap_handle_iterable_exception, test_imap_unordered*.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <millrace/pool.hpp>
#include <numeric>
#include <optional>
#include <sstream>
#include <thread>

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

class PoolImap : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolImap);

int fail_on_three(int x) {
  if (x == 3) throw mp::KeyError("three");
  return x;
}

template <class Results>
auto collected(Results results) {
  std::vector<std::decay_t<decltype(*results.next())>> all;
  while (auto item = results.next()) all.push_back(*std::move(item));
  return all;
}

/// How many items have been asked for.
struct Counted {
  int* taken;
  int operator()(int i) const {
    ++*taken;
    return i;
  }
};

// O06, _TestPool.test_imap
TEST_P(PoolImap, ResultsComeInInputOrder) {
  mp::Pool pool(workers());
  const auto items = numbers(1000);
  for (const int chunk : {1, 2, 7, 100, 999, 1000, 5000}) {
    ASSERT_EQ(collected(pool.imap(square, items, chunk)), apply_here(square, items)) << chunk;
    ASSERT_EQ(collected(pool.imap(square, items, {.chunksize = chunk, .window = 3})),
              apply_here(square, items));
  }
  int expected = 0;
  for (const int x : pool.imap(square, items)) EXPECT_EQ(x, square(expected++));
  EXPECT_EQ(expected, 1000);
  EXPECT_EQ(collected(pool.imap(square, {1, 2, 3}, {.chunksize = mp::automatic})),
            (std::vector<int>{1, 4, 9}));
}

// O07, _TestPool.test_imap_unordered
TEST_P(PoolImap, UnorderedIsComplete) {
  mp::Pool pool(workers());
  for (const int chunk : {1, 7, 300}) {
    auto all = collected(pool.imap_unordered(square, numbers(300), chunk));
    std::ranges::sort(all);
    ASSERT_EQ(all, apply_here(square, numbers(300)));
  }
}

// unordered results do not wait for one that takes long; ordered ones do
TEST_F(PoolTest, UnorderedResultsOvertakeASlowOne) {
  mp::Pool pool(2);
  const Gate gate;
  const auto slow = [gate](int x) {
    if (x == 0) gate.pass();
    return x;
  };
  auto results = pool.imap_unordered(slow, numbers(50));
  for (int i = 1; i < 50; ++i) EXPECT_NE(results.next(), 0);
  EXPECT_THROW((void)results.next(10ms), mp::TimeoutError);
  gate.open();
  EXPECT_EQ(results.next(), 0);
  EXPECT_EQ(results.next(), std::nullopt);
}

TEST_P(PoolImap, TakesEveryKindOfRangeAndItem) {
  mp::Pool pool(workers());
  EXPECT_EQ(collected(pool.imap(square, Countdown(4))), (std::vector<int>{16, 9, 4, 1}));
  Countdown generator(3);
  EXPECT_EQ(collected(pool.imap(square, generator, 2)), (std::vector<int>{9, 4, 1}));
  const auto join = [](const std::string& s) { return s + s; };
  const std::vector<std::string> texts{"a", std::string(5000, 'b'), ""};
  EXPECT_EQ(collected(pool.imap(join, texts)), apply_here(join, texts));
  EXPECT_EQ(collected(pool.imap(join, {"x", "y"}, 2)), (std::vector<std::string>{"xx", "yy"}));
  std::istringstream text("1 2 3");
  EXPECT_EQ(collected(pool.imap(square, std::views::istream<int>(text))),
            (std::vector<int>{1, 4, 9}));
  auto nothing = pool.imap([](int) {}, numbers(2));
  EXPECT_TRUE(nothing.next());
  EXPECT_TRUE(nothing.next());
  EXPECT_FALSE(nothing.next());
  int sum = 0;
  for (const int x : pool.imap(square, numbers(100)) | std::views::take(3)) sum += x;
  EXPECT_EQ(sum, 5);
  EXPECT_EQ(collected(pool.imap([](std::unique_ptr<int> p) { return *p; },
                                std::views::iota(0, 3) | std::views::transform([](int i) {
                                  return std::make_unique<int>(i);
                                }))),
            numbers(3));
}

// an rvalue range is kept, an lvalue one referred to
TEST_P(PoolImap, KeepsRvaluesAndRefersToLvalues) {
  mp::Pool pool(workers());
  auto kept = [&] {
    auto items = std::make_unique<std::vector<int>>(numbers(500));
    return pool.imap(square, std::move(*items), {.window = 4});
  }();
  EXPECT_EQ(collected(std::move(kept)), apply_here(square, numbers(500)));
  std::vector<int> items = numbers(500);
  auto referring = pool.imap(square, items, {.window = 4});
  items[499] = 7;  // not read yet
  EXPECT_EQ(collected(std::move(referring)).back(), 49);
}

// the input is read lazily, at most the window ahead of the reader
TEST_P(PoolImap, ReadsAtMostAWindowAhead) {
  mp::Pool pool(workers());
  int taken = 0;
  auto source = std::views::iota(0, 100'000) | std::views::transform(Counted{&taken});
  auto results = pool.imap(square, source, {.window = 10});
  EXPECT_LE(taken, 10);
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(results.next(), i * i);
    ASSERT_LE(taken, i + 1 + 10);
  }
  taken = 0;
  auto chunked = pool.imap(square, source, {.chunksize = 8, .window = 3});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(chunked.next(), i * i);
    ASSERT_LE(taken, i + 1 + 16);  // a chunk is read as a whole
  }
}

// a source that takes its time: what is ready is given out before more is read
TEST_F(PoolTest, ASlowSourceDoesNotHoldUpWhatIsReady) {
  mp::Pool pool(2);
  int taken = 0;
  auto slow = std::views::iota(0, 1000) | std::views::transform([&](int i) {
                ++taken;
                std::this_thread::sleep_for(3ms);
                return i;
              });
  auto results = pool.imap(square, slow, {.window = 500});
  EXPECT_LT(taken, 400);
  EXPECT_EQ(results.next(), 0);
  EXPECT_LT(taken, 400);
}

long resident_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmRSS:")) return std::stol(line.substr(6));
  }
  return 0;
}

// an endless generator in constant memory, of parent and arena
TEST_F(PoolTest, AnEndlessGeneratorNeedsConstantMemory) {
  mp::Pool pool(2);
  auto results = pool.imap([](std::uint64_t i) { return std::pair(i, std::string(100, 'x')); },
                           std::views::iota(std::uint64_t{0}), 16);
  long before = 0;
  std::size_t spans = 0;
  std::uint64_t expected = 0;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  constexpr std::uint64_t kItems = 100'000;
#else
  constexpr std::uint64_t kItems = 1'000'000;
#endif
  for (const auto& [i, text] : results) {
    ASSERT_EQ(i, expected++);
    if (i == kItems / 10) {
      before = resident_kib();
      spans = millrace::test::arena_spans();
    }
    if (i == kItems) break;
  }
  EXPECT_LT(resident_kib() - before, 4096);
  EXPECT_LE(millrace::test::arena_spans(), spans + (4U << 20));
}

// O06: an error takes its item's place and iteration goes on, at any chunksize (beyond Python)
TEST_P(PoolImap, AnErrorTakesItsItemsPlace) {
  mp::Pool pool(workers());
  for (const int chunk : {1, 2, 10}) {
    auto results = pool.imap(fail_on_three, numbers(6), chunk);
    for (int i = 0; i < 6; ++i) {
      if (i == 3) {
        EXPECT_THROW((void)results.next(), mp::KeyError);
      } else {
        EXPECT_EQ(results.next(), i);
      }
    }
    EXPECT_EQ(results.next(), std::nullopt);
    EXPECT_EQ(results.next(), std::nullopt);
  }
  auto results = pool.imap(fail_on_three, numbers(6), 2);
  std::vector<int> seen;
  EXPECT_THROW(
      {
        for (const int x : results) seen.push_back(x);
      },
      mp::KeyError);
  for (const int x : results) seen.push_back(x);  // a new loop goes on behind it
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 4, 5}));
}

TEST_P(PoolImap, UnorderedErrorsAreCountedOnce) {
  mp::Pool pool(workers());
  auto results = pool.imap_unordered(fail_on_three, numbers(20), 3);
  int good = 0;
  int bad = 0;
  for (;;) {
    try {
      if (!results.next()) break;
      ++good;
    } catch (const mp::KeyError&) {
      ++bad;
    }
  }
  EXPECT_EQ(std::pair(good, bad), std::pair(19, 1));
}

// O06, test_imap_handle_iterable_exception: what the source threw comes after the earlier results
TEST_P(PoolImap, ASourcesErrorComesInItsPlace) {
  mp::Pool pool(workers());
  auto source = std::views::iota(0, 100) | std::views::transform([](int i) {
                  if (i == 5) throw std::out_of_range("source");
                  return i;
                });
  for (const int chunk : {1, 2, 4, 10}) {
    auto results = pool.imap(square, source, chunk);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(results.next(), i * i);
    EXPECT_THROW((void)results.next(), std::out_of_range);
    EXPECT_EQ(results.next(), std::nullopt);
  }
  EXPECT_THROW(pool.map(square, source), std::out_of_range);
  EXPECT_THROW((void)pool.map_async(square, source).get(), std::out_of_range);
  EXPECT_EQ(pool.map(square, {1}), std::vector<int>{1});
}

// O14: next(timeout); the item is still obtainable
TEST_P(PoolImap, NextTimesOutAndTheItemStillComes) {
  mp::Pool pool(workers());
  const Gate gate;
  auto results = pool.imap(
      [gate](int x) {
        gate.pass();
        return x;
      },
      numbers(3));
  EXPECT_THROW((void)results.next(0s), mp::TimeoutError);
  EXPECT_THROW((void)results.next(20ms), mp::TimeoutError);
  gate.open();
  EXPECT_EQ(collected(std::move(results)), numbers(3));
}

// O10: the rest of a half read imap comes after close() and join()
TEST_P(PoolImap, CloseWithAnImapHalfReadLosesNothing) {
  for (const bool joined : {false, true}) {
    mp::Pool pool(workers());
    int taken = 0;
    auto source = std::views::iota(0, 2000) | std::views::transform(Counted{&taken});
    auto results = pool.imap(square, source, {.window = 5});
    EXPECT_EQ(results.next(), 0);
    pool.close();
    EXPECT_THROW((void)pool.imap(square, source), mp::ValueError);
    if (joined) {
      pool.join();
      EXPECT_EQ(taken, 2000);
    }
    for (int i = 1; i < 2000; ++i) ASSERT_EQ(results.next(), i * i);
    EXPECT_EQ(results.next(), std::nullopt);
    pool.join();
  }
}

// dropped half read: nothing more is read, the pool goes on
TEST_P(PoolImap, ADroppedIteratorReadsNoMore) {
  mp::Pool pool(workers());
  int taken = 0;
  auto source = std::views::iota(0, 100'000) | std::views::transform(Counted{&taken});
  {
    auto results = pool.imap(square, source, {.window = 20});
    EXPECT_EQ(results.next(), 0);
  }
  const int read = taken;
  EXPECT_LE(read, 21);
  EXPECT_EQ(pool.map(square, numbers(100), 1), apply_here(square, numbers(100)));
  EXPECT_EQ(taken, read);
  auto endless = pool.imap(square, std::views::iota(0));
  endless = pool.imap(square, std::views::iota(1));
  EXPECT_EQ(endless.next(), 1);
  { const auto gone = std::move(endless); }
  pool.close();
  pool.join();
}

// whoever calls next() reads the input
TEST_P(PoolImap, AnIteratorMayMoveToAnotherThread) {
  mp::Pool pool(workers());
  auto results = pool.imap(square, std::views::iota(0, 500), {.window = 3});
  EXPECT_EQ(results.next(), 0);
  std::vector<int> rest;
  std::thread([&, moved = std::move(results)]() mutable {
    rest = collected(std::move(moved));
  }).join();
  ASSERT_EQ(rest.size(), 499U);
  EXPECT_EQ(rest.back(), 499 * 499);
  std::optional<decltype(pool.imap(square, std::views::iota(0, 300)))> made;
  std::thread([&] {
    made.emplace(pool.imap(square, std::views::iota(0, 300), {.window = 3}));
  }).join();
  EXPECT_EQ(collected(*std::move(made)).size(), 300U);
}

TEST_P(PoolImap, SeveralIteratorsInTurn) {
  mp::Pool pool(workers());
  auto first = pool.imap(square, numbers(300), {.window = 4});
  auto second = pool.imap([](int i) { return i + 1; }, std::views::iota(0), {.chunksize = 3});
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(first.next(), i * i);
    ASSERT_EQ(second.next(), i + 1);
    if (i % 50 == 0) {
      EXPECT_EQ(pool.map(square, {i}), std::vector<int>{i * i});
    }
  }
  EXPECT_FALSE(first.next());
}

// O06: chunksize < 1 is ValueError; O11: after terminate() what is pending fails
TEST_P(PoolImap, TerminateEndsIterators) {
  mp::Pool pool(workers());
  const Gate gate;
  auto results = pool.imap(
      [gate](int x) {
        if (x > 2) gate.pass();
        return x;
      },
      std::views::iota(0));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(results.next(), i);
  pool.terminate();
  int errors = 0;
  for (bool more = true; more;) {
    try {
      more = results.next().has_value();
    } catch (const mp::PoolTerminated&) {
      ++errors;
    }
  }
  EXPECT_GE(errors, 1);
}

// handles as items: every reference is given back
TEST_P(PoolImap, HandlesTravelAsItemsAndResults) {
  const auto before = millrace::shm::Arena::instance().usage().small_blocks;
  const std::size_t spans = millrace::test::arena_spans();
  {
    mp::Pool pool(workers());
    auto arrays = std::views::iota(1, 40) | std::views::transform([](int i) {
                    mp::shared_array<int> array(100'000);
                    array[0] = i;
                    return array;
                  });
    const auto passed = [](const mp::shared_array<int>& array) {
      array[0] *= 2;
      return array;
    };
    int expected = 0;
    for (const auto& array : pool.imap(passed, arrays, 3)) EXPECT_EQ(array[0], expected += 2);
    EXPECT_EQ(pool.map(passed, arrays).back()[0], 78);
    EXPECT_EQ(pool.apply(passed, mp::shared_array<int>(50'000)).size(), 50'000U);
  }
  EXPECT_EQ(millrace::test::arena_spans(), spans);
  EXPECT_LE(millrace::shm::Arena::instance().usage().small_blocks, before + 64);
}

}  // namespace
