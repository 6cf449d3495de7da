// ThreadPool: O19, and of the other calls of a pool what threads do in their own way.
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

MILLRACE_POOL_SIZES(ThreadPools);

struct MoveOnly {
  explicit MoveOnly(int n) : value(std::make_unique<int>(n)) {}
  int operator()(int x) const { return *value + x; }
  std::unique_ptr<int> value;
};

TEST_P(ThreadPools, MapGivesResultsInOrder) {  // O04
  mp::ThreadPool pool(workers());
  const auto items = numbers(10'000);
  EXPECT_EQ(pool.map(square, items), apply_here(square, items));
  EXPECT_EQ(pool.map(square, items, {.chunksize = 7}), apply_here(square, items));
  EXPECT_EQ(pool.map(square, items, {.chunksize = mp::automatic}), apply_here(square, items));
  EXPECT_EQ(pool.map(square, {1, 2, 3}), (std::vector<int>{1, 4, 9}));
  EXPECT_EQ(pool.map(square, Countdown(3)), (std::vector<int>{9, 4, 1}));
  EXPECT_EQ(pool.map([](int x) { return x % 2 == 0; }, {1, 2}), (std::vector<bool>{false, true}));
  EXPECT_TRUE(pool.map(square, std::vector<int>()).empty());
  EXPECT_THROW((void)pool.map(square, items, 0), mp::ValueError);
}

TEST_P(ThreadPools, EveryOtherCallWorksToo) {
  mp::ThreadPool pool(workers());
  EXPECT_EQ(pool.apply(add, 1, 2), 3);
  EXPECT_EQ(pool.apply_async(add, 3, 4).get(), 7);
  EXPECT_EQ(pool.starmap(add, {{1, 2}, {3, 4}}), (std::vector<int>{3, 7}));
  EXPECT_EQ(pool.starmap(std::plus<>(), {{1, 2}, {3, 4}}, 1), (std::vector<int>{3, 7}));
  EXPECT_EQ(pool.starmap_async(add, {{1, 2}, {3, 4}}, 1).get(), (std::vector<int>{3, 7}));
  const auto join = [](const std::string& a, const std::string& b) { return a + b; };
  using Words = std::array<const char*, 2>;
  EXPECT_EQ(pool.starmap(join, std::vector<Words>{{"a", "b"}}), std::vector<std::string>{"ab"});
  EXPECT_EQ(pool.starmap(join, {Words{"a", "b"}}), std::vector<std::string>{"ab"});
  EXPECT_EQ(pool.map_async(square, {1, 2, 3}).get(), (std::vector<int>{1, 4, 9}));
  EXPECT_EQ(pool.starmap_async(add, std::vector<std::pair<int, int>>{{1, 2}}).get(),
            std::vector<int>{3});
  std::vector<double> in(1000, 3.0);
  std::vector<double> out(1000);
  pool.map_into([](double x) { return x * x; }, in, out);
  EXPECT_EQ(out, std::vector<double>(1000, 9.0));
  EXPECT_THROW(pool.map_into([](double x) { return x; }, in, std::span(out).first(5)),
               mp::ValueError);
  std::vector<std::atomic<int>> seen(5000);
  pool.parallel_for(seen.size(), [&](std::size_t i) { ++seen[i]; });
  pool.parallel_for(10, 5000, [&](std::size_t a, std::size_t b) {
    for (; a < b; ++a) ++seen[a];
  });
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i < 10 ? 1 : 2);
  EXPECT_THROW(pool.parallel_for(static_cast<std::uint64_t>(-5), 5, [](std::size_t) {}),
               mp::ValueError);
  EXPECT_EQ(pool.reduce([](int x) { return std::to_string(x); }, std::plus<>(), std::string(":"),
                        numbers(12)),
            ":01234567891011");
}

TEST_P(ThreadPools, TasksRunOnThreadsOfThisProcess) {  // O19
  mp::ThreadPool pool(workers());
  EXPECT_EQ(pool.apply([] { return ::getpid(); }), ::getpid());
  EXPECT_NE(pool.apply([] { return ::gettid(); }), ::gettid());
  ThreadGate gate;
  auto all = pool.map_async(
      [&gate](int) {
        gate.pass();
        return ::gettid();
      },
      numbers(workers()), 1);
  gate.await(workers());  // as many at one time as there are workers
  gate.open();
  const auto& ids = all.get();
  EXPECT_EQ(std::set<pid_t>(ids.begin(), ids.end()).size(), static_cast<std::size_t>(workers()));
}

TEST_P(ThreadPools, AnyCallableAndAnyTypeWillDo) {  // O19
  mp::ThreadPool pool(workers());
  EXPECT_EQ(pool.apply(MoveOnly(5), 1), 6);
  EXPECT_EQ(pool.map(MoveOnly(5), {1, 2}), (std::vector<int>{6, 7}));
  int local = 3;
  EXPECT_EQ(pool.apply([&local] { return ++local; }), 4);
  EXPECT_EQ(local, 4);
  const std::function<int(int)> erased = [&local](int x) { return x * local; };
  EXPECT_EQ(pool.map(erased, {1, 2}), (std::vector<int>{4, 8}));
  auto owned = pool.map([](int x) { return std::make_unique<int>(x); }, {1, 2, 3});
  EXPECT_EQ(*owned[2], 3);
  const auto values = pool.map([](const std::unique_ptr<int>& x) { return *x; }, owned);
  EXPECT_EQ(values, (std::vector<int>{1, 2, 3}));  // referred to, not moved
  EXPECT_EQ(*owned[0], 1);
  EXPECT_EQ(pool.apply_async([](std::unique_ptr<int> x) { return *x; }, std::move(owned[1])).get(),
            2);
  std::vector<std::unique_ptr<int>> taken;
  for (auto& item : pool.imap([](int x) { return std::make_unique<int>(x); }, {4, 5})) {
    taken.push_back(std::move(item));
  }
  EXPECT_EQ(*taken[1], 5);
}

TEST_P(ThreadPools, ACallableThatChangesItselfStartsAfreshWithEveryChunk) {
  mp::ThreadPool pool(workers());
  const auto ordinals = pool.map([n = 0](int) mutable { return n++; }, numbers(12), 3);
  EXPECT_EQ(ordinals, (std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}));
}

TEST_P(ThreadPools, TheCalleeOwnsItsArguments) {
  mp::ThreadPool pool(workers());
  std::vector<std::string> names{"a", "b"};
  const auto grow = [](std::string& name) {
    name += "!";
    return name;
  };
  EXPECT_EQ(pool.map(grow, names), (std::vector<std::string>{"a!", "b!"}));
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));
}

struct Undeclared {
  explicit Undeclared(int* at) : where(at) {}
  Undeclared(const Undeclared&) = delete;
  Undeclared(Undeclared&&) = default;
  int* where;
};

TEST_P(ThreadPools, ExceptionsArriveAsTheyWereThrown) {  // O04, O15, O19
  mp::ThreadPool pool(workers());
  int here = 0;
  try {
    pool.apply([&here] { throw Undeclared(&here); });
    FAIL();
  } catch (const Undeclared& error) {
    EXPECT_EQ(error.where, &here);
  }
  EXPECT_THROW(pool.apply([] { throw mp::SystemExit(3); }), mp::SystemExit);
  std::atomic<int> ran{0};
  const auto half = [&ran](int x) {
    ++ran;
    if (x == 0) throw std::out_of_range("zero");
    return x;
  };
  EXPECT_THROW(pool.map(half, numbers(100), 1), std::out_of_range);
  EXPECT_EQ(ran, 100);  // ready once every chunk has ended
  auto result = pool.apply_async(half, 0);
  (void)result.wait();
  EXPECT_FALSE(result.successful());
  try {
    result.get();
    FAIL();
  } catch (const std::out_of_range& error) {
    EXPECT_EQ(mp::remote_traceback(error), "");
  }
}

TEST_P(ThreadPools, CollectRunsEveryItem) {
  mp::ThreadPool pool(workers());
  const auto odd = [](int x) {
    if (x % 2 == 0) throw std::runtime_error("even");
    return x;
  };
  const auto outcomes = pool.map(odd, numbers(50), {.chunksize = 8, .on_error = mp::collect});
  for (int i = 0; i < 50; ++i) {
    const auto& outcome = outcomes[static_cast<std::size_t>(i)];
    EXPECT_EQ(static_cast<bool>(outcome), i % 2 != 0);
    if (outcome) {
      EXPECT_EQ(outcome.value(), i);
    }
    EXPECT_NE(outcome.pid(), 0);
    EXPECT_GE(outcome.cpu(), 0);
  }
}

TEST_P(ThreadPools, ImapIsLazyOrderedAndGoesOnBehindErrors) {  // O06, O13
  mp::ThreadPool pool(workers());
  int taken = 0;
  auto results = pool.imap(
      [](int x) {
        if (x == 90) throw mp::KeyError("ninety");
        return x;
      },
      Countdown(100, &taken), {.chunksize = 3, .window = 12});
  for (int x = 100; x >= 1; --x) {
    if (x == 90) {
      EXPECT_THROW((void)results.next(), mp::KeyError);
    } else {
      EXPECT_EQ(results.next(), x);
    }
    EXPECT_LE(taken, 100 - x + 1 + 12 + 3);
  }
  EXPECT_EQ(results.next(), std::nullopt);
}

TEST_P(ThreadPools, ImapUnorderedGivesEachResultOnce) {  // O07
  mp::ThreadPool pool(workers());
  std::vector<int> all;
  for (const int x : pool.imap_unordered(square, numbers(1000), 10)) all.push_back(x);
  std::ranges::sort(all);
  EXPECT_EQ(all, apply_here(square, numbers(1000)));
}

TEST_P(ThreadPools, ASourceThatThrowsDoesSoBehindItsItems) {  // O06
  mp::ThreadPool pool(workers());
  const auto source = numbers(10) | std::views::transform([](int x) {
                        if (x == 7) throw std::out_of_range("source");
                        return x;
                      });
  auto results = pool.imap(square, source);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(results.next(), i * i);
  EXPECT_THROW((void)results.next(), std::out_of_range);
  EXPECT_EQ(results.next(), std::nullopt);
}

}  // namespace
