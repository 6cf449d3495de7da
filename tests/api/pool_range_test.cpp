// map_into, parallel_for and reduce, which Python has not: API.md "beyond".
#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <millrace/pool.hpp>
#include <numeric>
#include <thread>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::add;
using millrace::test::Countdown;
using millrace::test::Gate;
using millrace::test::numbers;
using millrace::test::Point;
using millrace::test::PoolTest;
using millrace::test::square;

class PoolRange : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolRange);

constexpr auto kTwice = [](double x) { return 2 * x; };

template <class In, class Out>
void fill_and_map(mp::Pool& pool, In& in, Out& out, const mp::MapOptions& options) {
  const std::size_t n = std::ranges::size(in);
  for (std::size_t i = 0; i < n; ++i) in[i] = static_cast<double>(i);
  pool.map_into(kTwice, in, out, options);
  for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], 2 * static_cast<double>(i)) << i;
}

TEST_P(PoolRange, MapIntoFillsEveryElementAtEveryChunksize) {
  mp::Pool pool(workers());
  for (const std::size_t n : {0U, 1U, 7U, 100U, 10'000U}) {
    const mp::shared_array<double> in(n);
    const mp::shared_array<double> out(n);
    std::vector<double> private_in(n);
    std::vector<double> private_out(n);
    for (const int chunk : {0, 1, 3, 100, 20'000}) {
      mp::MapOptions options;
      if (chunk != 0) options.chunksize = chunk;
      fill_and_map(pool, in, out, options);
      fill_and_map(pool, private_in, private_out, options);
      fill_and_map(pool, in, private_out, options);
      fill_and_map(pool, private_in, out, options);
    }
    fill_and_map(pool, in, out, {.chunksize = mp::automatic});
    fill_and_map(pool, private_in, private_out, {.chunksize = mp::automatic});
  }
}

TEST_P(PoolRange, MapIntoWorksInPlaceOnSpansAndOtherTypes) {
  mp::Pool pool(workers());
  const mp::shared_array<double> array(1000, {.placement = mp::interleave});
  pool.map_into([](double) { return 1.0; }, array, array);
  pool.map_into(kTwice, array.span().first(10), array.span().first(10), {.chunksize = 3});
  EXPECT_EQ(std::accumulate(array.begin(), array.end(), 0.0), 1010);
  std::array<int, 5> small{1, 2, 3, 4, 5};
  std::array<char, 5> chars{};
  pool.map_into([](int x) { return static_cast<char>('a' + x); }, small, chars);
  EXPECT_EQ(std::string(chars.begin(), chars.end()), "bcdef");
  const std::vector<Point> points(300, Point{3, 4});
  std::vector<float> norms(300);
  pool.map_into([](const Point& p) { return static_cast<float>(p.norm()); }, points, norms);
  EXPECT_EQ(norms, std::vector<float>(300, 5));
  const std::vector<std::string> texts{"a", "bb"};
  std::vector<std::size_t> widths(2);
  pool.map_into([](const std::string& s) { return s.size(); }, texts, widths);
  EXPECT_EQ(widths, (std::vector<std::size_t>{1, 2}));
  std::vector<std::string> out(2);
  pool.map_into([](std::size_t n) { return std::string(n, 'z'); }, widths, out);
  EXPECT_EQ(out, (std::vector<std::string>{"z", "zz"}));
  std::array<bool, 3> flags{};
  pool.map_into([](int x) { return x > 1; }, std::array{1, 2, 3}, flags);
  EXPECT_EQ(flags, (std::array{false, true, true}));
}

// Beyond the caches bytes take another way than within: both ends of it, whatever their alignment.
TEST_F(PoolTest, MapIntoOfLargePrivateArraysFillsEveryElement) {
  mp::Pool pool(2);
  const std::size_t n = 1'500'007;
  std::vector<double> in(n + 1);
  std::vector<double> doubles(n + 1, -1);
  std::vector<float> floats(n + 1, -1);
  for (std::size_t i = 0; i <= n; ++i) in[i] = static_cast<double>(i);
  const std::span<const double> from(in.data() + 1, n);
  pool.map_into(kTwice, from, std::span(doubles.data() + 1, n));
  pool.map_into([](double x) { return static_cast<float>(x); }, from,
                std::span(floats.data() + 1, n), {.chunksize = 100'001});
  for (std::size_t i = 1; i <= n; ++i) {
    ASSERT_EQ(doubles[i], 2 * in[i]) << i;
    ASSERT_EQ(floats[i], static_cast<float>(in[i])) << i;
  }
  EXPECT_EQ(doubles[0], -1);
  EXPECT_EQ(floats[0], -1);
}

// The rest is done, nothing is written afterwards, and the pool goes on.
TEST_F(PoolTest, MapIntoOfLargePrivateArraysReportsWhatFails) {
  mp::Pool pool(2);
  constexpr std::size_t kCount = 1'500'000;
  std::vector<double> in(kCount, 1);
  in[kCount / 2] = -1;
  const auto fails = [&]<class Error>(auto f, Error*, const mp::MapOptions& options) {
    std::vector<double> out(kCount);
    EXPECT_THROW(pool.map_into(f, in, out, options), Error);
    const auto after = out;
    EXPECT_GE(std::ranges::count(out, 2.0), static_cast<std::ptrdiff_t>(kCount - 20'000));
    pool.map_into(kTwice, std::span(in).first(100), std::span(in).first(100));
    EXPECT_EQ(in[0], 2);
    std::fill_n(in.begin(), 100, 1);
    EXPECT_EQ(out, after);
  };
  constexpr auto kThrows = [](double x) { return x < 0 ? throw mp::KeyError("k") : 2 * x; };
  fails(kThrows, static_cast<mp::KeyError*>(nullptr), {.chunksize = 20'000});
  constexpr auto kEnds = [](double x) { return x < 0 ? ::_exit(3), x : 2 * x; };
  fails(kEnds, static_cast<mp::WorkerLost*>(nullptr), {.chunksize = 20'000});
  constexpr auto kHangs = [](double x) { return x < 0 ? ::pause(), x : 2 * x; };
  fails(kHangs, static_cast<mp::TimeoutError*>(nullptr), {.chunksize = 20'000, .timeout = 2s});
}

TEST_P(PoolRange, MapIntoOfTwoSizesIsValueError) {
  mp::Pool pool(workers());
  const std::vector<double> in(3);
  std::vector<double> out(4);
  EXPECT_THROW(pool.map_into(kTwice, in, out), mp::ValueError);
  out.resize(3);
  EXPECT_THROW(pool.map_into(kTwice, in, out, {.chunksize = 0}), mp::ValueError);
  EXPECT_THROW(pool.parallel_for(3, [](std::size_t) {}, {.joblog = "none"}), mp::ValueError);
  EXPECT_THROW(pool.map_into(kTwice, out, out, {.retries = 1}), mp::ValueError);
}

TEST_P(PoolRange, ParallelForCallsEveryIndexOnce) {
  mp::Pool pool(workers());
  for (const std::size_t n : {0U, 1U, 2U, 63U, 5000U}) {
    const mp::shared_array<int> hits(n);
    for (const int chunk : {0, 1, 7, 10'000}) {
      mp::MapOptions options;
      if (chunk != 0) options.chunksize = chunk;
      pool.parallel_for(
          n, [hits](std::size_t i) { ++hits[i]; }, options);
    }
    pool.parallel_for(n, [hits](std::size_t i) { ++hits[i]; }, {.chunksize = mp::automatic});
    EXPECT_EQ(std::vector<int>(hits.begin(), hits.end()), std::vector<int>(n, 5));
  }
  const mp::shared_array<int> hits(10);
  pool.parallel_for(4, 8, [s = hits.span()](std::size_t i) { ++s[i]; });
  pool.parallel_for(8, 4, [s = hits.span()](std::size_t i) { ++s[i]; });
  EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), 4);
  EXPECT_EQ(hits[3] + hits[8], 0);
}

// f(first, last) once per chunk, never longer than the chunk
TEST_P(PoolRange, ParallelForOverChunksCoversTheRange) {
  mp::Pool pool(workers());
  const mp::shared_array<int> hits(1003);
  const Gate calls;
  pool.parallel_for(3, 1003,
                    [hits, calls](std::size_t first, std::size_t last) {
                      calls.arrive();
                      if (last - first > 16 || (first - 3) % 16 != 0)
                        throw std::logic_error("wrong chunk");
                      for (std::size_t i = first; i < last; ++i) ++hits[i];
                    },
                    {.chunksize = 16});
  EXPECT_EQ(calls.arrived(), 63);
  EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), 1000);
  EXPECT_EQ(hits[0] + hits[1] + hits[2], 0);
}

// no sum of an index and a chunk size runs over
TEST_P(PoolRange, RangesMayEndWhere64BitsDo) {
  mp::Pool pool(workers());
  constexpr std::uint64_t kEnd = std::numeric_limits<std::uint64_t>::max();
  const mp::shared_array<int> hits(1000);
  for (const int chunk : {1, 7, 1000, std::numeric_limits<int>::max()}) {
    pool.parallel_for(kEnd - 1000, kEnd, [hits](std::uint64_t i) { ++hits[i - (kEnd - 1000)]; },
                      {.chunksize = chunk});
  }
  EXPECT_EQ(std::vector<int>(hits.begin(), hits.end()), std::vector<int>(1000, 4));
}

TEST_F(PoolTest, ARangeBelowZeroIsValueError) {
  mp::Pool pool(1);
  EXPECT_THROW(pool.parallel_for(static_cast<std::uint64_t>(-1), [](std::size_t) {}),
               mp::ValueError);
  EXPECT_THROW(pool.parallel_for(static_cast<std::uint64_t>(-5), 5, [](std::size_t) {}),
               mp::ValueError);
}

// more chunks than a record holds at a time
TEST_F(PoolTest, ParallelForTakesMillionsOfChunks) {
  mp::Pool pool(2);
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  constexpr std::size_t kCount = (1U << 20) + 1000;
#else
  constexpr std::size_t kCount = (2U << 20) + 1000;
#endif
  const mp::shared_array<unsigned char> hits(kCount);
  pool.parallel_for(kCount, [hits](std::size_t i) { ++hits[i]; }, {.chunksize = 1});
  EXPECT_EQ(std::ranges::count(hits, 1), static_cast<std::ptrdiff_t>(kCount));
}

// the rest of the range runs although a chunk throws; its error is rethrown at the end
TEST_P(PoolRange, AnErrorDoesNotStopTheRest) {
  mp::Pool pool(workers());
  const mp::shared_array<int> hits(100);
  const auto fail_on_fifty = [hits](std::size_t i) {
    if (i == 50) throw std::out_of_range("fifty");
    ++hits[i];
  };
  for (const int chunk : {1, 50}) {  // as a range job, and as tasks
    std::ranges::fill(hits, 0);
    try {
      pool.parallel_for(100, fail_on_fifty, {.chunksize = chunk});
      FAIL();
    } catch (const std::out_of_range& error) {
      EXPECT_STREQ(error.what(), "fifty");
      EXPECT_NE(mp::remote_traceback(error), "");
    }
    EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), chunk == 1 ? 99 : 50);
  }
  EXPECT_THROW(
      pool.parallel_for(100, [](std::size_t) { throw mp::KeyError("every"); }, {.chunksize = 1}),
      mp::KeyError);
  std::vector<double> out(100);
  EXPECT_THROW(pool.map_into([](double) -> double { throw mp::KeyError("k"); }, out, out),
               mp::KeyError);
  pool.parallel_for(100, [hits](std::size_t i) { hits[i] = 1; });
}

// fewer than two chunks a worker are dealt to those awake, which keep none from the others
TEST_F(PoolTest, AFewChunksMayWaitForEachOther) {
  mp::Pool pool(3);
  for (const int chunks : {2, 3}) {
    for (int round = 0; round < 30; ++round) {
      for (int i = 0; i < 3; ++i) pool.parallel_for(5, [](std::size_t) {});
      const Gate gate;
      pool.parallel_for(static_cast<std::size_t>(chunks), [gate, chunks](std::size_t) {
        gate.arrive();
        while (gate.arrived() < chunks) ::usleep(50);
      });
      ASSERT_EQ(gate.arrived(), chunks);
    }
  }
}

// more chunks than workers: the second lies behind the first in the same share
TEST_F(PoolTest, AChunkMayWaitForTheOneBehindIt) {
  mp::Pool pool(3);
  for (int round = 0; round < 30; ++round) {
    for (int i = 0; i < 3; ++i) pool.parallel_for(5, [](std::size_t) {});
    const Gate gate;
    const auto wait_for_second = [gate](std::size_t i) {
      if (i == 1) gate.arrive();
      while (i == 0 && gate.arrived() < 1) ::usleep(50);
    };
    pool.parallel_for(5, wait_for_second, {.chunksize = 1});
    ASSERT_EQ(gate.arrived(), 1);
  }
}

TEST_P(PoolRange, OneOfAFewChunksThatThrowsLeavesTheRest) {
  mp::Pool pool(workers());
  const auto chunks = static_cast<std::size_t>(2 * workers() - 1);
  const mp::shared_array<int> hits(2 * chunks);
  for (std::size_t bad = 0; bad < 2 * chunks; ++bad) {
    for (int i = 0; i < 3; ++i) {
      pool.parallel_for(2 * chunks, [hits](std::size_t k) { hits[k] = 0; }, {.chunksize = 2});
    }
    const auto fail = [hits, bad](std::size_t i) {
      ++hits[i];
      if (i == bad) throw mp::KeyError("bad");
    };
    EXPECT_THROW(pool.parallel_for(2 * chunks, fail, {.chunksize = 2}), mp::KeyError);
    for (std::size_t i = 0; i < 2 * chunks; ++i) {  // but of its own chunk what comes behind
      ASSERT_EQ(hits[i], i == bad + 1 && i % 2 == 1 ? 0 : 1) << i << ' ' << bad;
    }
  }
}

// several threads at once: some calls find the workers idle, others find work before them
TEST_P(PoolRange, AFewChunksOfSeveralThreadsRunOnceEach) {
  mp::Pool pool(workers());
  const auto chunks = static_cast<std::size_t>(2 * workers() - 1);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&pool, chunks] {
      const mp::shared_array<int> hits(chunks);
      for (int round = 1; round <= 60; ++round) {
        pool.parallel_for(chunks, [hits](std::size_t i) { ++hits[i]; });
        if (round % 20 == 0) (void)pool.apply(square, round);
        ASSERT_EQ(std::ranges::count(hits, round), static_cast<std::ptrdiff_t>(chunks));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// init counts once, whatever the chunks; combine is used in item order
TEST_P(PoolRange, ReduceCombinesInItemOrder) {
  mp::Pool pool(workers());
  const auto text = [](int i) { return std::to_string(i) + ","; };
  const auto join = [](std::string a, const std::string& b) { return std::move(a) + b; };
  std::string expected = "start:";
  for (int i = 0; i < 40; ++i) expected += text(i);
  for (const int chunk : {1, 3, 40, 100}) {
    EXPECT_EQ(pool.reduce(text, join, std::string("start:"), numbers(40), {.chunksize = chunk}),
              expected);
  }
  EXPECT_EQ(pool.reduce(text, join, std::string("start:"), numbers(40)), expected);
  EXPECT_EQ(
      pool.reduce(text, join, std::string("start:"), numbers(40), {.chunksize = mp::automatic}),
      expected);
  EXPECT_EQ(pool.reduce(text, join, std::string("s"), std::vector<int>{}), "s");
  EXPECT_EQ(pool.reduce(square, add, 100, numbers(1)), 100);
  EXPECT_EQ(pool.reduce(square, std::plus<>{}, 1, Countdown(3)), 15);
  EXPECT_EQ(pool.reduce(square, add, 0, std::views::iota(0, 100)), 328350);
}

TEST_P(PoolRange, ReduceReadsSharedAndPrivateArrays) {
  mp::Pool pool(workers());
  const mp::shared_array<double> shared(10'000);
  std::iota(shared.begin(), shared.end(), 0.0);
  const std::vector<double> own(shared.begin(), shared.end());
  const auto larger = [](double a, double b) { return a < b ? b : a; };
  for (const int chunk : {1, 77, 100'000}) {
    EXPECT_EQ(pool.reduce(kTwice, larger, 0.0, shared, {.chunksize = chunk}), 19'998);
    EXPECT_EQ(pool.reduce(kTwice, larger, 0.0, own, {.chunksize = chunk}), 19'998);
  }
  EXPECT_EQ(pool.reduce(kTwice, std::plus<>{}, 0.0, shared), 9'999.0 * 10'000);
  const std::vector<std::string> texts{"a", "bb", "ccc"};
  EXPECT_EQ(pool.reduce([](const std::string& s) { return s.size(); }, std::plus<>{},
                        std::size_t{0}, texts, {.chunksize = 2}),
            6U);
  EXPECT_THROW((void)pool.reduce([](int x) -> int { throw mp::KeyError(std::to_string(x)); }, add,
                                 0, numbers(2)),
               mp::KeyError);
  EXPECT_THROW((void)pool.reduce(square, [](int, int) -> int { throw mp::KeyError("c"); }, 0,
                                 numbers(9), {.chunksize = 3}),
               mp::KeyError);
}

// after a range job the pool can be closed and joined
TEST_P(PoolRange, CloseAndJoinAfterRangeJobs) {
  mp::Pool pool(workers());
  const mp::shared_array<int> hits(1000);
  pool.parallel_for(1000, [hits](std::size_t i) { ++hits[i]; }, {.chunksize = 1});
  pool.parallel_for(2, [hits](std::size_t i) { ++hits[i]; });
  pool.close();
  EXPECT_THROW(pool.parallel_for(2, [](std::size_t) {}), mp::ValueError);
  EXPECT_THROW(pool.parallel_for(0, [](std::size_t) {}), mp::ValueError);
  pool.join();
  EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), 1002);
}

// closed by one thread while another is in the middle: it is finished
TEST_P(PoolRange, JoinWaitsForTheRangesOfOtherThreads) {
  mp::Pool pool(workers());
  const Gate gate;
  std::thread other(
      [&] { pool.parallel_for(200, [gate](std::size_t) { gate.pass(); }, {.chunksize = 1}); });
  gate.await(1);
  pool.close();
  gate.open();
  pool.join();
  EXPECT_EQ(gate.arrived(), 200);
  other.join();
}

// no worker writes into the caller's memory after the call has returned
TEST_F(PoolTest, NothingIsWrittenAfterATimedOutCallReturned) {
  mp::Pool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::vector<double> in(64);
    std::vector<double> out(64);
    const auto slow = [](double x) {
      ::usleep(x == 0 ? 1000 : 0);
      return 1.0;
    };
    EXPECT_THROW(pool.map_into(slow, in, out, {.chunksize = 16, .timeout = 8ms}), mp::TimeoutError);
    const auto after = out;
    EXPECT_EQ(pool.map(square, {1, 2}), (std::vector<int>{1, 4}));
    EXPECT_EQ(out, after);
  }
}

}  // namespace
