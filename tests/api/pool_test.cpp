// Pool: apply, map and starmap, as PYTHON.md O01-O14 and O22 and CPython's _TestPool have them.
#include <signal.h>

#include <array>
#include <deque>
#include <list>
#include <functional>
#include <map>
#include <memory>
#include <millrace/arena.hpp>
#include <millrace/context.hpp>
#include <millrace/pool.hpp>
#include <set>
#include <sstream>
#include <thread>
#include <tuple>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::add;
using millrace::test::apply_here;
using millrace::test::Countdown;
using millrace::test::Gate;
using millrace::test::numbers;
using millrace::test::Point;
using millrace::test::PoolTest;
using millrace::test::Rich;
using millrace::test::square;

class Pool : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(Pool);

std::size_t width(const std::string& text) { return text.size(); }
std::string twice(const std::string& text) { return text + text; }
bool even(int x) { return x % 2 == 0; }
bool negate_it(bool b) { return !b; }
Rich rich(int i) { return {std::string(static_cast<std::size_t>(i), 'r'), {0.5 * i, 1.0 * i}}; }
Rich richer(const Rich& r) {
  Rich more = r;
  more.name += "!";
  more.values.push_back(7);
  return more;
}
struct Counter {
  int base = 0;
  [[nodiscard]] int plus(int x) const { return base + x; }
  [[nodiscard]] std::string name() const { return "counter " + std::to_string(base); }
};

// O02, _TestPool.test_apply
TEST_P(Pool, ApplyReturnsWhatTheFunctionReturns) {
  mp::Pool pool(workers());
  EXPECT_EQ(pool.apply(square, 5), 25);
  EXPECT_EQ(pool.apply(add, 5, 7), 12);
  EXPECT_EQ(pool.apply([](int x) { return x + 0.5; }, 1), 1.5);
  EXPECT_EQ(pool.apply(twice, "ab"), "abab");
  EXPECT_EQ(pool.apply(&Counter::plus, Counter{3}, 4), 7);
  EXPECT_EQ(pool.apply(&Counter::name, Counter{3}), "counter 3");
  EXPECT_EQ(pool.apply(mp::partial(add, 10), 1), 11);
  EXPECT_EQ(pool.apply(rich, 3), rich(3));
  const Gate gate;
  pool.apply([](const Gate& g) { g.arrive(); }, gate);
  EXPECT_EQ(gate.arrived(), 1);
}

// O02: the work is done in another process, which is the pool's child in the user's eyes
TEST_P(Pool, ApplyRunsInAWorker) {
  mp::Pool pool(workers());
  EXPECT_NE(pool.apply([] { return ::getpid(); }), ::getpid());
  EXPECT_EQ(pool.apply([] { return mp::parent_process()->pid().value_or(0); }), ::getpid());
  EXPECT_TRUE(pool.apply([] { return mp::current_process().daemon(); }));
  const auto name = pool.apply([] { return mp::current_process().name(); });
  const std::string method = mp::get_start_method();
  const std::string kind = method == "fork" ? "Fork" : method == "spawn" ? "Spawn" : "ForkServer";
  EXPECT_EQ(name.substr(0, kind.size() + 11), kind + "PoolWorker-");
}

// O02: the callee owns its arguments
TEST_P(Pool, ApplyTakesEveryKindOfParameter) {
  mp::Pool pool(workers());
  std::string text = "abc";
  EXPECT_EQ(pool.apply([](std::string&& s) { return std::move(s) + "1"; }, text), "abc1");
  EXPECT_EQ(pool.apply([](std::string& s) { return s += "2"; }, text), "abc2");
  EXPECT_EQ(pool.apply([](const std::string& s) { return s; }, std::string_view("view")), "view");
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(*pool.apply([](std::unique_ptr<int> p) { return p; }, std::make_unique<int>(4)), 4);
}

// results are decayed; text travels as std::string
TEST_P(Pool, ResultsTravelAsValues) {
  mp::Pool pool(workers());
  static const std::string kept = "kept";
  const auto by_reference = pool.apply([]() -> const std::string& { return kept; });
  static_assert(std::same_as<decltype(by_reference), const std::string>);
  EXPECT_EQ(by_reference, "kept");
  const auto texts = pool.map([](int i) { return i == 0 ? "zero" : "more"; }, numbers(2));
  EXPECT_EQ(texts, (std::vector<std::string>{"zero", "more"}));
}

// O04, _TestPool.test_map
TEST_P(Pool, MapKeepsTheOrderOfItsInput) {
  mp::Pool pool(workers());
  EXPECT_EQ(pool.map(square, numbers(10)), apply_here(square, numbers(10)));
  EXPECT_EQ(pool.map(square, numbers(100), 20), apply_here(square, numbers(100)));
  EXPECT_EQ(pool.map(square, {3, 1, 2}), (std::vector<int>{9, 1, 4}));
}

// O04, _TestPool.test_map_chunksize
TEST_P(Pool, MapIsCompleteWithEveryChunksize) {
  mp::Pool pool(workers());
  for (const int n : {1, 2, 9, 40}) {
    const auto items = numbers(n);
    const auto texts = apply_here([](int i) { return std::to_string(i); }, items);
    for (int chunk = 1; chunk <= n + 2; ++chunk) {
      ASSERT_EQ(pool.map(square, items, chunk), apply_here(square, items)) << n << " " << chunk;
      ASSERT_EQ(pool.map(twice, texts, {.chunksize = chunk}), apply_here(twice, texts));
    }
    ASSERT_EQ(pool.map(square, items, {.chunksize = mp::automatic}), apply_here(square, items));
    ASSERT_EQ(pool.map(twice, texts, {.chunksize = mp::automatic}), apply_here(twice, texts));
    ASSERT_EQ(pool.map(square, items, std::numeric_limits<long>::max()), apply_here(square, items));
  }
}

// Items and results that share the line of a task with it, and those that just do not.
TEST_P(Pool, PiecesAroundTheLengthOfALineAreWhole) {
  using Wide = std::array<int, 11>;
  mp::Pool pool(workers());
  const std::vector<int> small = numbers(50);
  const auto widen = [](int x) { return Wide{x, 0, 0, 0, 0, 0, 0, 0, 0, 0, -x}; };
  const auto narrow = [](const Wide& w) { return w.front() + w.back() + w.front(); };
  const auto picky = [](int x) { return x == 40 ? throw mp::ValueError("not 40") : x; };
  const mp::shared_array<int> lives(1);
  const auto mortal = [lives](int x) {
    if (x == 17 && lives[0]-- > 0) ::raise(SIGKILL);
    return x * x;
  };
  const std::vector<Wide> wide = apply_here(widen, small);
  for (int chunk = 1; chunk <= 12; ++chunk) {
    EXPECT_EQ(pool.map(square, small, chunk), apply_here(square, small)) << chunk;
    EXPECT_EQ(pool.map(widen, small, chunk), wide) << chunk;
    EXPECT_EQ(pool.map(narrow, wide, chunk), small) << chunk;
    EXPECT_THROW(pool.map(picky, small, chunk), mp::ValueError) << chunk;
    std::vector<int> into(small.size());
    pool.map_into(square, small, into, {.chunksize = chunk});
    EXPECT_EQ(into, apply_here(square, small)) << chunk;
    lives[0] = 1;
    EXPECT_EQ(pool.map(mortal, small, {.chunksize = chunk, .retries = 1}),
              apply_here(square, small))
        << chunk;
  }
}

// O04, O08, _TestPool.test_empty_iterable
TEST_P(Pool, NothingGivesNothing) {
  mp::Pool pool(workers());
  const std::vector<int> none;
  EXPECT_TRUE(pool.map(square, none).empty());
  EXPECT_TRUE(pool.map(square, none, 3).empty());
  EXPECT_TRUE(pool.map(square, none, {.chunksize = mp::automatic}).empty());
  EXPECT_TRUE(pool.map(twice, std::vector<std::string>{}).empty());
  EXPECT_TRUE(pool.map(square, std::views::empty<int>).empty());
  EXPECT_TRUE(pool.map(square, Countdown(0)).empty());
  EXPECT_TRUE(pool.map(square, none, {.on_error = mp::collect}).empty());
  EXPECT_TRUE(pool.starmap(add, std::vector<std::pair<int, int>>{}).empty());
  EXPECT_TRUE(pool.map_async(square, none).get().empty());
  pool.map([](int) {}, none);
  EXPECT_FALSE(pool.imap(square, none).next());
  EXPECT_FALSE(pool.imap_unordered(square, Countdown(0), 4).next());
}

// O08, _TestPool.test_starmap
TEST_P(Pool, StarmapUnpacksItsItems) {
  mp::Pool pool(workers());
  const std::vector<std::pair<int, int>> pairs{{1, 2}, {3, 4}, {5, 6}};
  const std::vector<int> sums{3, 7, 11};
  EXPECT_EQ(pool.starmap(add, pairs), sums);
  EXPECT_EQ(pool.starmap(add, pairs, 2), sums);
  EXPECT_EQ(pool.starmap(add, {{1, 2}, {3, 4}, {5, 6}}), sums);
  EXPECT_EQ(pool.starmap(add, std::vector<std::tuple<int, int>>{{1, 2}}), std::vector<int>{3});
  EXPECT_EQ(pool.starmap(add, std::vector<std::array<int, 2>>{{1, 2}}), std::vector<int>{3});
  const auto join = [](const std::string& a, int n) { return a + std::to_string(n); };
  EXPECT_EQ(pool.starmap(join, {{"a", 1}, {"b", 2}}), (std::vector<std::string>{"a1", "b2"}));
  EXPECT_EQ(pool.starmap(join, std::map<std::string, int>{{"k", 1}}),
            std::vector<std::string>{"k1"});
  EXPECT_EQ(pool.starmap(std::plus<>(), {{1, 2}, {3, 4}, {5, 6}}), sums);
  EXPECT_EQ(pool.starmap(std::plus<>(), {{1, 2}, {3, 4}, {5, 6}}, 2), sums);
  EXPECT_EQ(pool.starmap(std::plus<>(), {std::pair{1, 2}, std::pair{3, 4}}, {.chunksize = 1}),
            (std::vector<int>{3, 7}));
  const auto tie = [](const auto& a, const auto& b) { return a + b; };
  EXPECT_EQ(pool.starmap(tie, {{"a", "b"}})[0], "ab");
  EXPECT_EQ(pool.starmap(tie, {{1, 2}}, {.on_error = mp::collect})[0].value(), 3);
  const auto zeros = pool.starmap(add, std::vector<std::pair<int, int>>(1000));
  EXPECT_EQ(zeros, std::vector<int>(1000));
}

// O04: any input range
TEST_P(Pool, MapTakesEveryKindOfRange) {
  mp::Pool pool(workers());
  const auto items = numbers(20);
  const auto squares = apply_here(square, items);
  EXPECT_EQ(pool.map(square, std::views::iota(0, 20)), squares);
  EXPECT_EQ(pool.map(square, std::deque<int>(items.begin(), items.end())), squares);
  EXPECT_EQ(pool.map(square, std::list<int>(items.begin(), items.end())), squares);
  EXPECT_EQ(pool.map(square, std::set<int>(items.begin(), items.end())), squares);
  EXPECT_EQ(pool.map(square, items | std::views::filter(even), 3),
            apply_here(square, std::vector<int>{0, 2, 4, 6, 8, 10, 12, 14, 16, 18}));
  EXPECT_EQ(pool.map(square, items | std::views::transform(square)).back(), square(square(19)));
  std::istringstream text("1 2 3");
  EXPECT_EQ(pool.map(square, std::views::istream<int>(text)), (std::vector<int>{1, 4, 9}));
  const std::array<int, 3> fixed{1, 2, 3};
  EXPECT_EQ(pool.map(square, fixed), (std::vector<int>{1, 4, 9}));
  EXPECT_EQ(pool.map(square, std::span(items).subspan(18)), (std::vector<int>{324, 361}));
  const mp::shared_array<int> shared(5);
  EXPECT_EQ(pool.map([](int x) { return x + 1; }, shared), std::vector<int>(5, 1));
  EXPECT_EQ(pool.map([](int x) { return x + 1; }, shared, 2), std::vector<int>(5, 1));
}

// O04: single-pass and move-only generators, lvalues too
TEST_P(Pool, MapReadsGeneratorsToTheirEnd) {
  mp::Pool pool(workers());
  EXPECT_EQ(pool.map(square, Countdown(4)), (std::vector<int>{16, 9, 4, 1}));
  int taken = 0;
  Countdown generator(5, &taken);
  EXPECT_EQ(pool.map(square, generator, 2), (std::vector<int>{25, 16, 9, 4, 1}));
  EXPECT_EQ(taken, 5);
  EXPECT_EQ(
      pool.starmap(add, numbers(3) | std::views::transform([](int i) { return std::pair(i, i); })),
      (std::vector<int>{0, 2, 4}));
}

// O04, _TestPool.test_map with objects
TEST_P(Pool, MapCarriesStringsAndAggregates) {
  mp::Pool pool(workers());
  std::vector<std::string> texts;
  for (std::size_t n : {0U, 1U, 39U, 40U, 41U, 4096U, 100'000U}) texts.emplace_back(n, 'x');
  EXPECT_EQ(pool.map(twice, texts), apply_here(twice, texts));
  EXPECT_EQ(pool.map(twice, texts, 1), apply_here(twice, texts));
  EXPECT_EQ(pool.map(width, {"a", "bb", ""}), (std::vector<std::size_t>{1, 2, 0}));
  const auto riches = pool.map(rich, numbers(30), 4);
  EXPECT_EQ(riches, apply_here(rich, numbers(30)));
  EXPECT_EQ(pool.map(richer, riches, 7), apply_here(richer, riches));
  const std::vector<Point> points{{3, 4}, {6, 8}};
  EXPECT_EQ(pool.map(&Point::norm, points), (std::vector<double>{5, 10}));
  EXPECT_EQ(pool.map(&Point::y, points), (std::vector<double>{4, 8}));
}

// _TestPool: functions without a result; R = bool
TEST_P(Pool, MapOfVoidAndOfBool) {
  mp::Pool pool(workers());
  const Gate gate;
  static_assert(std::is_void_v<decltype(pool.map([](int) {}, numbers(3)))>);
  pool.map([gate](int) { gate.arrive(); }, numbers(100), 3);
  EXPECT_EQ(gate.arrived(), 100);
  pool.map([gate](const std::string&) { gate.arrive(); }, {"a", "b"});
  EXPECT_EQ(gate.arrived(), 102);
  for (const int chunk : {1, 7, 100}) {
    const std::vector<bool> flags = pool.map(even, numbers(50), chunk);
    ASSERT_EQ(flags.size(), 50U);
    for (std::size_t i = 0; i < 50; ++i) EXPECT_EQ(flags[i], i % 2 == 0);
    const std::vector<bool> others = pool.map(negate_it, flags, chunk);
    for (std::size_t i = 0; i < 50; ++i) EXPECT_EQ(others[i], i % 2 != 0);
  }
}

// items and results of every size from a byte to more than what travels at once
TEST_P(Pool, MapCarriesLargeItems) {
  mp::Pool pool(workers());
  struct Big {
    char bytes[200'000];
  };
  std::vector<Big> bigs(5);
  for (int i = 0; i < 5; ++i)
    bigs[static_cast<std::size_t>(i)].bytes[199'999] = static_cast<char>(i);
  const auto same = pool.map([](const Big& b) { return b; }, bigs, 2);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(same[static_cast<std::size_t>(i)].bytes[199'999], i);
  std::vector<double> many(300'000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<double>(i);
  const auto squares = pool.map([](double x) { return x * x; }, many);
  ASSERT_EQ(squares.size(), many.size());
  for (std::size_t i = 0; i < many.size(); ++i) ASSERT_EQ(squares[i], many[i] * many[i]);
  const auto grown =
      pool.map([](char c) { return std::array<char, 1000>{c}; }, std::string(3000, 'q'), 1000);
  EXPECT_EQ(grown.size(), 3000U);
  EXPECT_EQ(grown[2999][0], 'q');
}

TEST_P(Pool, MapOfManySmallTasksIsComplete) {
  mp::Pool pool(workers());
  const auto items = numbers(20'000);
  EXPECT_EQ(pool.map(square, items | std::views::transform([](int i) { return i % 1000; }), 1),
            apply_here([](int i) { return square(i % 1000); }, items));
  EXPECT_EQ(pool.map(square, std::vector<int>(20'000, 2), 1), std::vector<int>(20'000, 4));
}

// captures: values and handles travel; addresses of private memory are refused
TEST_F(PoolTest, LambdasCarryValuesAndHandles) {
  mp::Pool pool(2);
  const double factor = 2.5;
  const mp::shared_array<int> out(4);
  EXPECT_EQ(pool.map([factor](int x) { return factor * x; }, {2, 4}), (std::vector<double>{5, 10}));
  pool.map([out](int i) { out[static_cast<std::size_t>(i)] = i + 1; }, numbers(4));
  EXPECT_EQ(std::vector<int>(out.begin(), out.end()), (std::vector<int>{1, 2, 3, 4}));
  struct Scale {
    std::string unit;
    double factor;
    std::string operator()(double x) const { return std::to_string(int(factor * x)) + unit; }
  };
  EXPECT_EQ(pool.map(Scale{"m", 2}, std::vector<double>{1.0, 2.0}),
            (std::vector<std::string>{"2m", "4m"}));
  EXPECT_EQ(pool.map(mp::partial(add, 10), {1, 2}), (std::vector<int>{11, 12}));
  const auto join = [](const std::string& a, int i) { return a + std::to_string(i); };
  EXPECT_EQ(pool.map(mp::partial(join, std::string(100, 'p')), {1}),
            std::vector<std::string>{std::string(100, 'p') + "1"});
}

template <class Call>
void expect_refused(Call call) {
  try {
    call();
    FAIL() << "a private address travelled";
  } catch (const mp::TypeError& error) {
    EXPECT_NE(std::string(error.what()).find("mp::partial"), std::string::npos) << error.what();
  }
}

TEST_F(PoolTest, CapturesOfPrivateMemoryAreTypeErrors) {
  mp::Pool pool(2);
  int local = 1;
  const std::string text(50, 'x');
  const std::vector<int> filled{1, 2};
  expect_refused([&] { pool.map([&local](int x) { return x + local; }, {1, 2}); });
  expect_refused([&] { pool.map([text](int) { return text; }, {1, 2}); });
  expect_refused([&] { pool.imap([filled](int i) { return filled[0] + i; }, {1, 2}); });
  expect_refused([&] { pool.apply([p = &local] { return *p; }); });
  expect_refused([&] { (void)pool.apply_async([&local] { return local; }); });
  expect_refused([&] { (void)pool.map_async([&local](int x) { return x + local; }, {1}); });
  expect_refused([&] { pool.parallel_for(2, [&local](std::size_t) { ++local; }); });
  expect_refused([&] { pool.reduce([&local](int x) { return x + local; }, add, 0, filled); });
  EXPECT_EQ(pool.map(square, {1, 2}), (std::vector<int>{1, 4}));  // it goes on
}

// a callable that changes itself starts afresh with every chunk, as one that is pickled does
TEST_F(PoolTest, MutableCallablesStartAfreshWithEveryChunk) {
  mp::Pool pool(1);
  const auto count = [n = 0](int) mutable { return ++n; };
  EXPECT_EQ(pool.map(count, numbers(6), 3), (std::vector<int>{1, 2, 3, 1, 2, 3}));
  EXPECT_EQ(pool.map(count, numbers(3), 1), (std::vector<int>{1, 1, 1}));
}

// O01: the default is the number of usable cpus; O22, _TestPoolWorkerLifetime, TestPool repr
TEST_F(PoolTest, ReprNamesStateAndSize) {
  mp::Pool pool(2);
  EXPECT_EQ(pool.repr(), "<multiprocessing.pool.Pool state=RUN pool_size=2>");
  std::ostringstream text;
  text << pool;
  EXPECT_EQ(text.str(), pool.repr());
  pool.close();
  EXPECT_EQ(pool.repr(), "<multiprocessing.pool.Pool state=CLOSE pool_size=2>");
  pool.join();
  pool.terminate();
  EXPECT_EQ(pool.repr(), "<multiprocessing.pool.Pool state=TERMINATE pool_size=2>");
  mp::Pool standard;
  EXPECT_EQ(standard.stats().size(), static_cast<std::size_t>(mp::usable_cpu_count()));
}

TEST_F(PoolTest, PoolsMove) {
  mp::Pool first(1);
  mp::Pool second(std::move(first));
  EXPECT_EQ(second.apply(square, 3), 9);
  EXPECT_THROW(first.apply(square, 3), mp::ValueError);  // NOLINT(bugprone-use-after-move)
  second = mp::Pool(2);
  EXPECT_EQ(second.map(square, {1, 2}), (std::vector<int>{1, 4}));
}

}  // namespace
