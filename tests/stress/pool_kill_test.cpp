// SIGKILL of workers at random instants, under every kind of call: each item is delivered exactly
// once or reported lost by a WorkerLost that names it, no value is wrong, nothing hangs, nothing is
// left behind.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <millrace/arena.hpp>
#include <millrace/pool.hpp>
#include <numeric>
#include <optional>

#include "tests/stress/pool_rig.hpp"

namespace millrace {
namespace {

using namespace std::chrono_literals;
using Index = std::uint64_t;

Index mixed(Index i) { return (i ^ i >> 31) * 0x7fb5d329728ea185 + 1; }

// About a microsecond.
Index work(Index i) {
  volatile Index sink = 0;
  for (int k = 0; k < 500; ++k) sink = sink + i;
  return mixed(i);
}

// Now and then a result that needs memory of its own.
std::string spell(Index i) {
  return std::string(i % 64 == 0 ? 9000 : i % 7, 'x') + std::to_string(work(i));
}

struct Totals {
  long delivered = 0;
  long lost = 0;
};

class Storm {
 public:
  explicit Storm(Pool& pool, std::mt19937_64& random) : pool_(pool), random_(random) {}

  // One call of a random kind over `items` items.
  void round(Index items) {
    const Index chunk = 1 + random_() % 400;
    switch (random_() % 9) {
      case 0:
        return outcomes(items, chunk);
      case 1:
        return plain_map(items, chunk);
      case 2:
        return strings(items, chunk);
      case 3:
        return imap(items, chunk);
      case 4:
        return unordered(items, chunk);
      case 5:
        return calls(items / 20);
      case 6:
        return into(items, chunk);
      case 7:
        return indices(items, chunk);
      default:
        return retried(items, chunk);
    }
  }
  const Totals& totals() const { return totals_; }

 private:
  static std::vector<Index> numbers(Index items) {
    std::vector<Index> all(items);
    std::iota(all.begin(), all.end(), Index{0});
    return all;
  }
  // The error is a WorkerLost that names item `i`.
  void expect_lost(const std::exception_ptr& error, Index i, Index chunk) {
    try {
      std::rethrow_exception(error);
    } catch (const WorkerLost& lost) {
      EXPECT_LE(lost.first(), i);
      EXPECT_GE(lost.last(), i);
      EXPECT_LT(lost.last() - lost.first(), chunk);
      EXPECT_GT(lost.pid(), 1);
      EXPECT_EQ(lost.exitcode(), -SIGKILL);
      EXPECT_FALSE(lost.oom());
      ++totals_.lost;
    } catch (const std::exception& other) {
      ADD_FAILURE() << "not a WorkerLost: " << other.what();
    }
  }

  void outcomes(Index items, Index chunk) {
    const auto results =
        pool_.map(work, numbers(items), {.chunksize = chunk, .on_error = millrace::collect});
    ASSERT_EQ(results.size(), items);
    for (Index i = 0; i < items; ++i) {
      if (results[i]) {
        ASSERT_EQ(results[i].value(), mixed(i));
        ++totals_.delivered;
      } else {
        expect_lost(results[i].error(), i, chunk);
        EXPECT_EQ(results[i].signal(), SIGKILL);
      }
    }
  }

  // Contiguous numbers: the bulk path. All right, or the loss of one piece.
  void plain_map(Index items, Index chunk) {
    try {
      const std::vector<Index> results = pool_.map(work, numbers(items), {.chunksize = chunk});
      ASSERT_EQ(results.size(), items);
      for (Index i = 0; i < items; ++i) ASSERT_EQ(results[i], mixed(i));
      totals_.delivered += static_cast<long>(items);
    } catch (const WorkerLost& lost) {
      expect_lost(std::current_exception(), lost.first(), chunk);
      EXPECT_LT(lost.last(), items);
    }
  }

  void strings(Index items, Index chunk) {
    const auto results =
        pool_.map(spell, numbers(items), {.chunksize = chunk, .on_error = millrace::collect});
    ASSERT_EQ(results.size(), items);
    for (Index i = 0; i < items; ++i) {
      if (results[i]) {
        ASSERT_EQ(results[i].value(), spell(i));
        ++totals_.delivered;
      } else {
        expect_lost(results[i].error(), i, chunk);
      }
    }
  }

  // An item that was lost throws in its place, and iteration goes on.
  void imap(Index items, Index chunk) {
    auto results = pool_.imap(work, numbers(items), {.chunksize = chunk});
    for (Index i = 0; i < items; ++i) {
      try {
        const std::optional<Index> value = results.next();
        ASSERT_TRUE(value.has_value());
        ASSERT_EQ(*value, mixed(i));
        ++totals_.delivered;
      } catch (const WorkerLost&) {
        expect_lost(std::current_exception(), i, chunk);
      }
    }
    EXPECT_FALSE(results.next().has_value());
  }

  void unordered(Index items, Index chunk) {
    std::map<Index, Index> index_of;
    for (Index i = 0; i < items; ++i) index_of[mixed(i)] = i;
    std::vector<int> seen(items);
    std::map<std::pair<Index, Index>, Index> losses;
    for (auto&& outcome : pool_.imap_unordered(
             work, numbers(items), {.chunksize = chunk, .on_error = millrace::collect})) {
      if (outcome) {
        const auto at = index_of.find(outcome.value());
        ASSERT_NE(at, index_of.end());
        ++seen[at->second];
        ++totals_.delivered;
        continue;
      }
      try {
        std::rethrow_exception(outcome.error());
      } catch (const WorkerLost& lost) {
        ++losses[{lost.first(), lost.last()}];
        expect_lost(outcome.error(), lost.first(), chunk);
      }
    }
    for (const auto& [range, times] : losses) {
      EXPECT_EQ(times, range.second - range.first + 1);
      for (Index i = range.first; i <= range.second; ++i) ++seen[i];
    }
    for (Index i = 0; i < items; ++i) ASSERT_EQ(seen[i], 1) << i;
  }

  // Half of them with callbacks, a few without anybody waiting.
  void calls(Index items) {
    std::atomic<long> called{0};
    std::atomic<long> failed{0};
    std::vector<AsyncResult<Index>> results;
    for (Index i = 0; i < items; ++i) {
      if (i % 2 == 0) {
        results.push_back(pool_.apply_async(work, i));
      } else {
        results.push_back(pool_.apply_async(
            {.callback = [&called](Index) { ++called; },
             .error_callback = [&failed](const std::exception_ptr&) { ++failed; }},
            work, i));
      }
    }
    long good = 0;
    long bad = 0;
    for (Index i = 0; i < items; ++i) {
      try {
        ASSERT_EQ(results[i].get(), mixed(i));
        ++totals_.delivered;
        good += i % 2 != 0 ? 1 : 0;
      } catch (const WorkerLost&) {
        expect_lost(std::current_exception(), 0, 1);
        bad += i % 2 != 0 ? 1 : 0;
      }
    }
    EXPECT_EQ(called.load(), good);
    EXPECT_EQ(failed.load(), bad);
  }

  // Into private and into shared memory. What was not lost is right.
  void into(Index items, Index chunk) {
    const std::vector<Index> in = numbers(items);
    std::vector<Index> out(items, 0);
    shared_array<Index> shared_in(items);
    shared_array<Index> shared_out(items);
    std::copy(in.begin(), in.end(), shared_in.begin());
    const bool shared = random_() % 2 == 0;
    try {
      if (shared) {
        pool_.map_into(work, shared_in, shared_out, {.chunksize = chunk});
      } else {
        pool_.map_into(work, in, out, {.chunksize = chunk});
      }
      for (Index i = 0; i < items; ++i) ASSERT_EQ(shared ? shared_out[i] : out[i], mixed(i));
      totals_.delivered += static_cast<long>(items);
    } catch (const WorkerLost& lost) {
      expect_lost(std::current_exception(), lost.first(), chunk);
      EXPECT_LT(lost.last(), items);
      for (Index i = 0; i < items; ++i) {
        const Index value = shared ? shared_out[i] : out[i];
        ASSERT_TRUE(value == 0 || value == mixed(i)) << i;
      }
    }
  }

  // No index is run twice; those of a range that is not reported were run.
  void indices(Index items, Index chunk) {
    shared_array<std::uint32_t> runs(items);
    const auto visit = [runs](std::size_t i) {
      (void)work(i);
      std::atomic_ref(runs[i]).fetch_add(1);
    };
    bool whole = true;
    try {
      pool_.parallel_for(items, visit, {.chunksize = chunk});
    } catch (const WorkerLost& lost) {
      whole = false;
      expect_lost(std::current_exception(), lost.first(), chunk);
      EXPECT_LT(lost.last(), items);
    }
    for (Index i = 0; i < items; ++i) {
      const std::uint32_t times = runs[i];
      ASSERT_LE(times, 1U) << i;
      ASSERT_TRUE(times == 1 || !whole) << i;
      totals_.delivered += times;
    }
  }

  // With retries everything is delivered.
  void retried(Index items, Index chunk) {
    const std::vector<Index> results =
        pool_.map(work, numbers(items), {.chunksize = chunk, .retries = 1000});
    ASSERT_EQ(results.size(), items);
    for (Index i = 0; i < items; ++i) ASSERT_EQ(results[i], mixed(i));
    auto ordered = pool_.imap(spell, numbers(items / 4), {.chunksize = chunk, .retries = 1000});
    for (Index i = 0; i < items / 4; ++i) ASSERT_EQ(ordered.next(), spell(i));
    shared_array<std::uint32_t> runs(items);
    const auto visit = [runs](std::size_t i) { std::atomic_ref(runs[i]).fetch_add(1); };
    pool_.parallel_for(items, visit, {.chunksize = chunk, .retries = 14});
    for (Index i = 0; i < items; ++i) ASSERT_GE(runs[i], 1U) << i;
    for (Index i = 0; i < items / 100; ++i) {
      ASSERT_EQ(pool_.apply({.retries = 1000}, work, i), mixed(i));
    }
    totals_.delivered += static_cast<long>(2 * items + items / 4 + items / 100);
  }

  Pool& pool_;
  std::mt19937_64& random_;
  Totals totals_;
};

void warm_up(std::mt19937_64& random) {
  Pool pool(2);
  Storm calm(pool, random);
  for (int i = 0; i < 60; ++i) calm.round(500);
  EXPECT_EQ(calm.totals().lost, 0);
}

TEST(PoolKill, EveryItemIsDeliveredOnceOrReportedLost) {
  std::mt19937_64 random(stress::seed());
  stress::watchdog(100);
  warm_up(random);
  const stress::Remains before = stress::Remains::now();
  const long quota = stress::scaled(150, 2000);
  const long items = stress::scaled(50'000, 1'000'000);
  Totals totals;
  long kills = 0;
  long rounds = 0;
  while (kills < quota || totals.delivered + totals.lost < items) {
    Pool pool({.processes = 1 + static_cast<int>(random() % 4)});
    stress::Killer killer(random(), std::max(1L, std::min(quota - kills, quota / 8)), 4ms);
    Storm storm(pool, random);
    do {
      stress::watchdog(60);
      storm.round(4000);
      ++rounds;
    } while (!killer.done() && !testing::Test::HasFailure());
    killer.stop();
    kills += killer.kills();
    totals.delivered += storm.totals().delivered;
    totals.lost += storm.totals().lost;
    EXPECT_EQ(pool.apply(work, Index{7}), mixed(7));  // still usable
    if (HasFailure()) break;
  }
  stress::watchdog(60);
  stress::expect_nothing_left(before);
  std::printf("kills=%ld rounds=%ld delivered=%ld lost=%ld\n", kills, rounds, totals.delivered,
              totals.lost);
  stress::watchdog(0);
}

// Large private arrays, which threads beside the workers carry: what was not lost is right, also
// when a worker dies while its bytes are on their way, and the next call is served.
TEST(PoolKill, CarriedItemsAreRightOrReportedLost) {
  std::mt19937_64 random(stress::seed());
  const Index items = Index{1} << 20;
  std::vector<Index> in(items);
  std::iota(in.begin(), in.end(), Index{0});
  std::vector<Index> out(items);
  { Pool(2).map_into(mixed, in, out); }
  const stress::Remains before = stress::Remains::now();
  long lost = 0;
  {
    Pool pool(2);
    stress::Killer killer(random(), stress::scaled(30, 300), 10ms);
    while (!killer.done() && !testing::Test::HasFailure()) {
      stress::watchdog(60);
      std::fill(out.begin(), out.end(), Index{0});
      try {
        pool.map_into(mixed, in, out, {.chunksize = 20'000});
        for (Index i = 0; i < items; ++i) ASSERT_EQ(out[i], mixed(i));
      } catch (const WorkerLost& error) {
        ++lost;
        EXPECT_LT(error.last(), items);
        for (Index i = 0; i < items; ++i) ASSERT_TRUE(out[i] == 0 || out[i] == mixed(i)) << i;
      }
    }
    killer.stop();
    pool.map_into(mixed, in, out);
    for (Index i = 0; i < items; ++i) ASSERT_EQ(out[i], mixed(i));
  }
  stress::watchdog(60);
  stress::expect_nothing_left(before);
  std::printf("calls with a loss: %ld\n", lost);
  stress::watchdog(0);
}

}  // namespace
}  // namespace millrace
