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
  constexpr std::uint64_t kChunks = 8;
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    Place place(kChunks);
    std::atomic<std::uint64_t> claimed{1};
    std::thread worker([&] {
      ChunkCursor cursor(place.bytes);
      while (cursor.claim()) claimed.fetch_add(1, std::memory_order_relaxed);
    });
    ChunkCursor cursor(place.bytes);
    const auto enough = 1 + static_cast<unsigned>(round) % kChunks;
    while (claimed.load(std::memory_order_relaxed) < enough) std::this_thread::yield();
    const std::uint64_t begun = cursor.close();
    worker.join();
    ASSERT_EQ(claimed.load(std::memory_order_relaxed), begun);
    ASSERT_EQ(cursor.begun(), begun);
  }
}

}  // namespace
