// The cursor of a task of several chunks.
#include "runtime/pool/range_task.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>

namespace {

using millrace::runtime::ChunkCursor;
using millrace::runtime::RangeTask;

struct alignas(64) Place {
  std::byte bytes[sizeof(RangeTask)] = {};
  explicit Place(std::uint64_t chunks) {
    RangeTask task{};
    task.cursor = ChunkCursor::fresh(chunks);
    std::memcpy(bytes, &task, sizeof task);
  }
};

TEST(ChunkCursor, AClaimedTaskHasBegunItsFirstChunk) {
  Place place(3);
  ChunkCursor cursor(place.bytes);
  EXPECT_EQ(cursor.begun(), 1U);
  EXPECT_TRUE(cursor.claim());
  EXPECT_TRUE(cursor.claim());
  EXPECT_EQ(cursor.begun(), 3U);
  EXPECT_FALSE(cursor.claim());
  EXPECT_EQ(cursor.close(), 3U);
}

TEST(ChunkCursor, WhatIsTakenBackIsNotClaimed) {
  Place place(4);
  ChunkCursor cursor(place.bytes);
  EXPECT_TRUE(cursor.claim());
  EXPECT_EQ(cursor.close(), 2U);
  EXPECT_FALSE(cursor.claim());
  EXPECT_EQ(cursor.close(), 2U);
  EXPECT_EQ(cursor.begun(), 2U);
}

// a worker claims while the parent takes back: every chunk is one's or the other's
TEST(ChunkCursor, AChunkIsTheWorkersOrTheParents) {
  constexpr std::uint64_t kChunks = 1000;
  constexpr int kRounds = 2000;
  Place place(kChunks);
  std::atomic<int> worker_at{0};
  std::atomic<int> parent_at{0};
  std::atomic<std::uint64_t> claimed{0};
  // both begin a round at one moment, and look without giving their cpu away most of the time
  const auto meet = [](std::atomic<int>& mine, const std::atomic<int>& other, int step) {
    mine.store(step, std::memory_order_release);
    for (int looks = 0; other.load(std::memory_order_acquire) < step; ++looks) {
      if (looks > 10000) std::this_thread::yield();
    }
  };
  std::thread worker([&] {
    for (int round = 0; round < kRounds; ++round) {
      ChunkCursor cursor(place.bytes);
      meet(worker_at, parent_at, 2 * round + 1);
      std::uint64_t count = 1;
      while (cursor.claim()) ++count;
      claimed.store(count, std::memory_order_relaxed);
      meet(worker_at, parent_at, 2 * round + 2);
    }
  });
  int cut = 0;
  for (int round = 0; round < kRounds; ++round) {
    place = Place(kChunks);
    ChunkCursor cursor(place.bytes);
    meet(parent_at, worker_at, 2 * round + 1);
    for (int wait = round; wait > 0; --wait) (void)cursor.begun();
    const std::uint64_t begun = cursor.close();
    meet(parent_at, worker_at, 2 * round + 2);
    EXPECT_EQ(claimed.load(std::memory_order_relaxed), begun) << round;
    EXPECT_EQ(cursor.begun(), begun) << round;
    cut += begun < kChunks ? 1 : 0;
  }
  worker.join();
  RecordProperty("rounds_in_which_chunks_were_taken_back", cut);
}

}  // namespace
