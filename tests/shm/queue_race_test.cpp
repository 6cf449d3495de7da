// Threads on one queue: nothing is lost or doubled, order per producer holds. The same code runs
// between processes; here ThreadSanitizer looks at it.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/shm/queue_fixture.hpp"

namespace millrace::shm {
namespace {

class QueueRaces : public ::testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Shapes, QueueRaces, ::testing::Values(0, 1, 3, 64),
                         [](const auto& shape) { return "Bound" + std::to_string(shape.param); });

TEST_P(QueueRaces, NothingIsLostAndOrderPerProducerHolds) {
  constexpr std::uint32_t kSides = 3;
  // A switch of threads an item, where there is room for one or few.
  const std::uint64_t each = GetParam() == 0 || GetParam() > 3 ? 4000 : 300;
  NumberQueue queue(GetParam(), 7);  // short segments
  QueueDeathsView view;
  std::atomic<std::uint64_t> left{kSides * each};
  std::atomic<std::uint64_t> sum{0};
  std::atomic<bool> ordered{true};
  std::vector<std::thread> threads;
  for (std::uint32_t side = 0; side < kSides; ++side) {
    threads.emplace_back([&, side] {
      for (std::uint64_t i = 1; i <= each; ++i) {
        while (!queue.push(view, 1 + side, std::uint64_t{side} << 32 | i))
          std::this_thread::yield();
      }
    });
    threads.emplace_back([&, side] {
      QueueScan scan;
      std::uint64_t last[kSides] = {};
      while (left.load() != 0) {
        const auto item = queue.pop(view, 10 + side, scan);
        if (!item) {
          std::this_thread::yield();
          continue;
        }
        left.fetch_sub(1);
        sum.fetch_add(*item & 0xffffffff);
        std::uint64_t& before = last[*item >> 32];
        if ((*item & 0xffffffff) <= before) ordered = false;
        before = *item & 0xffffffff;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(ordered.load());
  EXPECT_EQ(sum.load(), kSides * each * (each + 1) / 2);
  EXPECT_EQ(queue.count(), 0U);
}

// Deaths are found out while everybody works: each dead producer and consumer has stopped in the
// middle.
TEST_P(QueueRaces, TheDeadAreClearedAwayBesideTheLiving) {
  if (GetParam() != 0 && GetParam() < 64) return;  // the dead would fill it
  constexpr std::uint64_t kEach = 4000;
  NumberQueue queue(GetParam(), 7);
  QueueDeathsView view;
  std::atomic<std::uint64_t> sum{0};
  std::atomic<std::uint64_t> got{0};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (std::uint64_t i = 1; i <= kEach; ++i) {
      while (!queue.push(view, 1, i)) std::this_thread::yield();
    }
  });
  for (std::uint32_t consumer = 2; consumer < 4; ++consumer) {
    threads.emplace_back([&, consumer] {
      QueueScan scan;
      while (got.load() != kEach) {
        const auto item = queue.pop(view, consumer, scan);
        if (item) {
          sum.fetch_add(*item);
          got.fetch_add(1);
        } else {
          std::this_thread::yield();
        }
      }
      done = true;
    });
  }
  for (std::uint32_t dead = 10; dead < 60 && !done.load(); ++dead) {
    QueueScan scan;
    QueueHeld held;
    std::uint32_t blocker = 0;
    if (dead % 2 == 0) {
      (void)queue.ring().claim_room(view, dead, held, blocker);
    } else {
      (void)queue.ring().claim_item(view, dead, scan, held);
    }
    std::this_thread::yield();
    view.mark_dead(dead);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum.load(), kEach * (kEach + 1) / 2);
  EXPECT_EQ(queue.count(), 0U);
}

}  // namespace
}  // namespace millrace::shm
