// The single-producer ring between two threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "shm/spsc_ring.hpp"
#include "tests/shm/aligned_memory.hpp"

namespace millrace::shm {
namespace {

void race(const SpscGeometry& geometry, std::size_t longest, int count) {
  const AlignedMemory memory(SpscRing::bytes_for(geometry));
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  std::thread writer([&] {
    SpscRing::Producer to(ring);
    std::mt19937 random(7);
    for (int i = 0; i < count; ++i) {
      const std::size_t bytes = random() % (longest + 1);
      std::byte* place = to.reserve(bytes, {});
      std::memset(place, i & 255, bytes);
      to.commit(bytes, random() % 2 == 0 ? Publish::now : Publish::later);
      if (random() % 8 == 0) to.wake();
    }
    to.wake();
  });
  SpscRing::Consumer from(ring);
  std::mt19937 random(7);
  for (int i = 0; i < count; ++i) {
    const std::size_t bytes = random() % (longest + 1);
    random();
    random();
    const SpscMessage message = from.peek({});
    ASSERT_EQ(message.size, bytes) << i;
    for (std::size_t k = 0; k < bytes; ++k) {
      ASSERT_EQ(std::to_integer<int>(message.data[k]), i & 255) << i;
    }
    from.release();
  }
  writer.join();
  EXPECT_FALSE(from.try_peek());
}

TEST(SpscRingRace, SmallMessagesArriveInOrderAndWhole) { race({4, 64}, 56, 60000); }
TEST(SpscRingRace, MixedMessagesArriveInOrderAndWhole) { race({16, 4096}, 700, 30000); }
TEST(SpscRingRace, TheSmallestRingSuffices) { race({2, 64}, 64, 20000); }

TEST(SpscRingRace, BurstsArriveInOrderAndWhole) {
  constexpr std::uint64_t kCount = 200000;
  const SpscGeometry geometry{8, 64};
  const AlignedMemory memory(SpscRing::bytes_for(geometry));
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  std::thread writer([&] {
    SpscRing::Producer to(ring);
    std::mt19937 random(7);
    std::uint64_t values[40];
    for (std::uint64_t next = 0; next < kCount;) {
      const std::size_t count = std::min<std::uint64_t>(random() % 40 + 1, kCount - next);
      std::iota(values, values + count, next);
      const auto when = random() % 2 == 0 ? Publish::now : Publish::later;
      const std::size_t pushed = to.try_push_all(values, 8, count, when);
      next += pushed;
      if (pushed < count) std::this_thread::yield();
    }
    to.wake();
  });
  SpscRing::Consumer from(ring);
  std::uint64_t values[30];
  for (std::uint64_t next = 0; next < kCount;) {
    const std::size_t got = from.try_pop_all(values, 8, 30);
    for (std::size_t i = 0; i < got; ++i) ASSERT_EQ(values[i], next + i);
    next += got;
    if (got == 0) std::this_thread::yield();
  }
  writer.join();
  EXPECT_FALSE(from.try_peek());
}

TEST(SpscRingRace, BlockedEndsGiveUpAtTheDeadline) {
  const SpscGeometry geometry{2, 64};
  const AlignedMemory memory(SpscRing::bytes_for(geometry));
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  SpscRing::Producer to(ring);
  SpscRing::Consumer from(ring);
  const double value = 1;
  const auto soon = [] { return Timeout::Clock::now() + std::chrono::milliseconds{3}; };
  EXPECT_FALSE(from.peek({}, soon()));
  while (to.try_push(&value, sizeof value)) {
  }
  EXPECT_EQ(to.reserve(56, {}, soon()), nullptr);
  EXPECT_TRUE(from.peek({}, soon()));
}

}  // namespace
}  // namespace millrace::shm
