// The range job raced by threads: with deaths, cancellation, late workers. Under ThreadSanitizer it
// also shows that results are published.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/sched/range_fixture.hpp"

namespace millrace::sched {
namespace {

constexpr int kWorkers = 4;

// Plain memory that the workers write and the waiter reads: a race here is a missing edge.
struct Board {
  explicit Board(std::uint64_t chunks) : runs(chunks, 0) {}
  std::vector<std::uint32_t> runs;
};

TEST(RangeJobRace, EveryChunkRunsOnceAndItsResultIsSeen) {
  constexpr std::uint32_t kJobs = 300;
  Record job({2000, 2, kWorkers});
  Board board(2000);
  std::atomic<std::uint32_t> generation{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < kWorkers; ++i) {
    workers.emplace_back([&, i] {
      RangeCursor cursor({static_cast<std::uint32_t>(i + 1), i, i % 2, {}});
      for (std::uint32_t seen = 0; seen != kJobs;) {
        const std::uint32_t now = generation.load(std::memory_order_relaxed);
        if (now == seen || !job->join(now, cursor)) {
          std::this_thread::yield();
          continue;
        }
        seen = now;
        while (const auto chunk = job->claim(cursor)) {
          ++board.runs[*chunk];
          EXPECT_TRUE(job->finish(cursor));
        }
      }
    });
  }
  std::uint32_t rounds = 0;
  for (std::uint32_t g = 1; g <= kJobs; ++g) {
    const std::uint64_t chunks = 1 + g * 37 % 2000;
    std::fill(board.runs.begin(), board.runs.end(), 0);
    start(*job, g, chunks, {2, 2});
    generation.store(g, std::memory_order_relaxed);
    while (!job->complete(g)) std::this_thread::yield();
    for (std::uint64_t c = 0; c < 2000; ++c) ASSERT_EQ(board.runs[c], c < chunks ? 1U : 0U);
    ++rounds;
  }
  for (auto& worker : workers) worker.join();
  EXPECT_EQ(rounds, kJobs);
}

// Workers "die" (leave for ever, at a random step) and are replaced; two reapers repair at once.
TEST(RangeJobRace, WithDeathsEveryChunkIsDoneOnceOrLostWithItsOwner) {
  constexpr std::uint64_t kChunks = 1500;
  constexpr std::uint32_t kJobs = 60;
  Record job({kChunks, 1, kWorkers});
  std::mt19937 random(7);
  std::atomic<std::uint32_t> next_owner{1};
  for (std::uint32_t g = 1; g <= kJobs; ++g) {
    std::vector<std::atomic<std::uint32_t>> runs(kChunks);
    std::vector<std::atomic<bool>> begun_and_died(kChunks);
    const unsigned attempts = 1 + g % 2;
    start(*job, g, kChunks, {kWorkers});
    std::vector<std::thread> seats;
    for (int seat = 0; seat < kWorkers; ++seat) {
      seats.emplace_back([&, seat, seed = random()] {
        std::mt19937 own(seed);
        for (bool alive = false; !alive;) {
          const std::uint32_t me = next_owner.fetch_add(1) & 0x3ffffff;
          RangeCursor cursor({me, seat, 0, {}});
          ASSERT_TRUE(job->join(g, cursor));
          alive = true;
          while (const auto chunk = job->claim(cursor)) {
            if (own() % 100 == 0) {  // dies in the middle of the chunk
              begun_and_died[*chunk].store(true);
              alive = false;
              break;
            }
            runs[*chunk].fetch_add(1);
            ASSERT_TRUE(job->finish(cursor));
            if (own() % 200 == 0) {  // dies between chunks, with the rest of its grab
              alive = false;
              break;
            }
          }
          if (alive) break;
          std::thread other([&] { job->repair(g, me, attempts, nullptr); });
          job->repair(g, me, attempts, nullptr);
          other.join();
        }
      });
    }
    for (auto& seat : seats) seat.join();
    // Whoever is left looks again, as repair() demands.
    RangeCursor last({next_owner.fetch_add(1) & 0x3ffffff, 0, 0, {}});
    ASSERT_TRUE(job->join(g, last));
    while (const auto chunk = job->claim(last)) {
      runs[*chunk].fetch_add(1);
      ASSERT_TRUE(job->finish(last));
    }
    ASSERT_TRUE(job->complete(g));
    std::vector<bool> lost(kChunks, false);
    job->for_each_lost(g, [&](std::uint64_t chunk, std::uint32_t) { lost[chunk] = true; });
    for (std::uint64_t c = 0; c < kChunks; ++c) {
      ASSERT_EQ(runs[c].load(), lost[c] ? 0U : 1U) << "chunk " << c;
      ASSERT_TRUE(begun_and_died[c].load() || !lost[c]) << "chunk " << c;
    }
  }
}

TEST(RangeJobRace, ACancelledChunkIsEitherDoneOrLostNeverBoth) {
  constexpr std::uint64_t kChunks = 1000;
  Record job({kChunks, 1, 2});
  for (std::uint32_t g = 1; g <= 100; ++g) {
    start(*job, g, kChunks, {2});
    std::atomic<std::uint64_t> finished{0};
    std::vector<std::thread> workers;
    for (int i = 0; i < 2; ++i) {
      workers.emplace_back([&, i] {
        RangeCursor cursor({static_cast<std::uint32_t>(i + 1), i, 0, {}});
        if (!job->join(g, cursor)) return;
        while (job->claim(cursor)) finished.fetch_add(job->finish(cursor) ? 1 : 0);
      });
    }
    std::uint64_t taken = 0;
    if (g % 2 == 0) {
      taken = job->cancel_all(g);
      EXPECT_TRUE(job->complete(g)) << "nothing is left to wait for";
    } else {
      for (std::uint64_t c = 0; c < kChunks; c += 3) taken += job->cancel(g, c) ? 1 : 0;
    }
    for (auto& worker : workers) worker.join();
    EXPECT_TRUE(job->complete(g));
    EXPECT_EQ(finished.load() + taken, kChunks);
  }
}

}  // namespace
}  // namespace millrace::sched
