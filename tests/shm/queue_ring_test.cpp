// The algorithm of queues: order, bounds, counts, growth, and what the dead leave behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <millrace/errors.hpp>
#include <vector>

#include "tests/shm/queue_fixture.hpp"

namespace millrace::shm {
namespace {

class QueueRings : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  QueueDeathsView view;
  QueueScan scan;
};

std::string shape_name(const ::testing::TestParamInfo<std::uint64_t>& info) {
  return info.param == 0 ? "Chain" : "Bound" + std::to_string(info.param);
}
INSTANTIATE_TEST_SUITE_P(Shapes, QueueRings, ::testing::Values(0, 1, 2, 3, 5, 64, 1000),
                         shape_name);

TEST_P(QueueRings, ItemsComeInTheOrderTheyWerePut) {
  NumberQueue queue(GetParam());
  std::uint64_t pushed = 0;
  std::uint64_t popped = 0;
  for (int round = 0; round < 3000; ++round) {
    for (int i = 0; i < round % 7 + 1; ++i) {
      if (queue.push(view, 1, pushed)) ++pushed;
    }
    for (int i = 0; i < round % 5 + 1; ++i) {
      if (const auto value = queue.pop(view, 2, scan)) {
        ASSERT_EQ(*value, popped++);
      }
    }
    ASSERT_EQ(queue.count(), pushed - popped);
  }
  while (const auto value = queue.pop(view, 2, scan)) ASSERT_EQ(*value, popped++);
  EXPECT_EQ(popped, pushed);
  EXPECT_EQ(queue.count(), 0U);
}

TEST_P(QueueRings, ABoundIsExactOnEveryLap) {
  const std::uint64_t bound = GetParam();
  if (bound == 0) return;
  NumberQueue queue(bound);
  for (int lap = 0; lap < 5; ++lap) {
    for (std::uint64_t i = 0; i < bound; ++i) {
      ASSERT_TRUE(queue.ring().maybe_room());
      ASSERT_TRUE(queue.push(view, 1, i));
      ASSERT_EQ(queue.count(), i + 1);
    }
    ASSERT_FALSE(queue.ring().maybe_room());
    ASSERT_FALSE(queue.push(view, 1, 99));
    ASSERT_EQ(queue.pop(view, 2, scan), 0U);
    ASSERT_TRUE(queue.push(view, 1, bound));
    ASSERT_FALSE(queue.push(view, 1, 99));
    for (std::uint64_t i = 1; i <= bound; ++i) ASSERT_EQ(queue.pop(view, 2, scan), i);
    ASSERT_EQ(queue.pop(view, 2, scan), std::nullopt);
    ASSERT_EQ(queue.count(), 0U);
  }
}

TEST_P(QueueRings, WhatADeadProducerWasWritingWasNeverPut) {
  NumberQueue queue(GetParam());
  const bool room = GetParam() != 1;
  if (room) {
    ASSERT_TRUE(queue.push(view, 1, 10));
  }
  (void)queue.begin_push(view, 3, 11);
  view.mark_dead(3);
  if (room) {
    EXPECT_EQ(queue.pop(view, 2, scan), 10U);
  }
  EXPECT_EQ(queue.pop(view, 2, scan), std::nullopt);
  EXPECT_EQ(queue.count(), 0U);
  for (std::uint64_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(queue.push(view, 1, i));
    ASSERT_EQ(queue.count(), 1U);
    ASSERT_EQ(queue.pop(view, 2, scan), i);
  }
}

TEST_P(QueueRings, AFullQueueGetsRoomBackFromADeadProducer) {
  const std::uint64_t bound = GetParam();
  if (bound == 0) return;
  NumberQueue queue(bound);
  (void)queue.begin_push(view, 3, 11);
  for (std::uint64_t i = 1; i < bound; ++i) ASSERT_TRUE(queue.push(view, 1, i));
  ASSERT_FALSE(queue.push(view, 1, 99));
  view.mark_dead(3);
  EXPECT_TRUE(queue.push(view, 1, bound));
  EXPECT_FALSE(queue.push(view, 1, 99));
  EXPECT_EQ(queue.count(), bound);
  for (std::uint64_t i = 1; i <= bound; ++i) ASSERT_EQ(queue.pop(view, 2, scan), i);
}

TEST_P(QueueRings, WhatADeadConsumerWasReadingIsThereAgain) {
  NumberQueue queue(GetParam());
  QueueScan dead_scan;
  const std::uint64_t items = GetParam() == 0 ? 2000 : GetParam();
  for (std::uint64_t i = 0; i < items; ++i) ASSERT_TRUE(queue.push(view, 1, i));
  const QueueHeld held = queue.begin_pop(view, 3, dead_scan);
  EXPECT_EQ(NumberQueue::value_of(held), 0U);
  for (std::uint64_t i = 1; i < items; ++i) ASSERT_EQ(queue.pop(view, 2, scan), i);
  EXPECT_EQ(queue.pop(view, 2, scan), std::nullopt);
  EXPECT_EQ(queue.count(), 0U);
  view.mark_dead(3);
  EXPECT_EQ(queue.pop(view, 2, scan), 0U);
  EXPECT_EQ(queue.pop(view, 2, scan), std::nullopt);
  EXPECT_EQ(queue.count(), 0U);
}

TEST_P(QueueRings, AnItemTakenBackFromTheDeadIsCountedOnce) {
  const std::uint64_t items = GetParam() == 0 ? 500 : GetParam();
  NumberQueue queue(GetParam());
  QueueScan dead_scan;
  for (std::uint64_t i = 0; i < items; ++i) ASSERT_TRUE(queue.push(view, 1, i));
  (void)queue.begin_pop(view, 3, dead_scan);
  std::uint64_t left = items - 1;
  for (; left > items / 2; --left) ASSERT_TRUE(queue.pop(view, 2, scan));
  view.mark_dead(3);
  if (items == 1) return;
  ASSERT_TRUE(queue.pop(view, 2, scan));  // the one taken back comes first
  EXPECT_EQ(queue.count(), left);
}

TEST_P(QueueRings, ASlowProducerIsPassedAndKeepsItsOrder) {
  if (GetParam() != 0 && GetParam() < 5) return;
  NumberQueue queue(GetParam());
  const QueueHeld slow = queue.begin_push(view, 3, 30);
  // Nothing later of the same process is taken before it, whatever thread it is of.
  ASSERT_TRUE(queue.push(view, 3, 31));
  ASSERT_TRUE(queue.push(view, 1, 10));
  EXPECT_EQ(queue.pop(view, 2, scan), 10U);
  EXPECT_EQ(queue.pop(view, 2, scan), std::nullopt);
  QueueRing::publish(slow, 3);
  EXPECT_EQ(queue.count(), 2U);  // what was taken behind it is not counted
  EXPECT_EQ(queue.pop(view, 2, scan), 30U);
  EXPECT_EQ(queue.pop(view, 2, scan), 31U);
  EXPECT_EQ(queue.count(), 0U);
}

TEST(QueueChain, OrderHoldsAcrossSegmentsBehindASlowProducer) {
  QueueDeathsView view;
  QueueScan scan;
  NumberQueue queue(0, 7);  // 62 slots in the first segments
  const QueueHeld slow = queue.begin_push(view, 3, 30);
  for (std::uint64_t i = 0; i < 1000; ++i) ASSERT_TRUE(queue.push(view, 1, i));
  ASSERT_TRUE(queue.push(view, 3, 31));
  for (std::uint64_t i = 0; i < 1000; ++i) ASSERT_EQ(queue.pop(view, 2, scan), i);
  EXPECT_EQ(queue.pop(view, 2, scan), std::nullopt);
  QueueRing::publish(slow, 3);
  EXPECT_EQ(queue.count(), 2U);
  EXPECT_EQ(queue.pop(view, 2, scan), 30U);
  EXPECT_EQ(queue.pop(view, 2, scan), 31U);
}

TEST(QueueChain, OneThatStaysShortNeedsNoMemory) {
  QueueDeathsView view;
  QueueScan scan;
  NumberQueue queue(0, 7);
  const ArenaUsage before = Arena::instance().usage();
  for (std::uint64_t i = 0; i < 100000; ++i) {
    ASSERT_TRUE(queue.push(view, 1, i));
    ASSERT_EQ(queue.pop(view, 2, scan), i);
  }
  const ArenaUsage after = Arena::instance().usage();
  EXPECT_EQ(after.span_bytes, before.span_bytes);
  EXPECT_EQ(after.small_blocks, before.small_blocks);
}

TEST(QueueChain, SegmentsAreUsedAgain) {
  QueueDeathsView view;
  QueueScan scan;
  NumberQueue queue(0, 7);
  std::size_t most = 0;
  for (int round = 0; round < 20; ++round) {
    for (std::uint64_t i = 0; i < 60000; ++i) ASSERT_TRUE(queue.push(view, 1, i));
    ASSERT_EQ(queue.count(), 60000U);
    for (std::uint64_t i = 0; i < 60000; ++i) ASSERT_EQ(queue.pop(view, 2, scan), i);
    if (round == 2) most = Arena::instance().usage().span_bytes;
  }
  EXPECT_LE(Arena::instance().usage().span_bytes, most);
}

TEST(QueueChain, AllMemoryIsGivenBack) {
  const ArenaUsage before = Arena::instance().usage();
  {
    QueueDeathsView view;
    NumberQueue queue(0, 7);
    for (std::uint64_t i = 0; i < 60000; ++i) ASSERT_TRUE(queue.push(view, 1, i));
  }
  const ArenaUsage after = Arena::instance().usage();
  EXPECT_EQ(after.span_bytes - after.slab_bytes, before.span_bytes - before.slab_bytes);
  EXPECT_EQ(after.small_blocks, before.small_blocks);
  EXPECT_EQ(after.refused_frees, before.refused_frees);
}

TEST(QueueChain, AStoppedConsumerDoesNotKeepOthersFromLaterSegments) {
  QueueDeathsView view;
  QueueScan scan;
  QueueScan stopped;
  NumberQueue queue(0, 7);
  for (std::uint64_t i = 0; i < 5000; ++i) ASSERT_TRUE(queue.push(view, 1, i));
  const QueueHeld held = queue.begin_pop(view, 3, stopped);
  for (std::uint64_t i = 1; i < 5000; ++i) ASSERT_EQ(queue.pop(view, 2, scan), i);
  for (std::uint64_t i = 0; i < 5000; ++i) {
    ASSERT_TRUE(queue.push(view, 1, i));
    ASSERT_EQ(queue.pop(view, 2, scan), i);
  }
  EXPECT_EQ(NumberQueue::value_of(held), 0U);
  view.mark_dead(3);
  EXPECT_EQ(queue.pop(view, 2, scan), 0U);
  EXPECT_EQ(queue.pop(view, 2, scan), std::nullopt);
}

TEST(QueueChain, ManyDeathsInEverySegment) {
  QueueDeathsView view;
  QueueScan scan;
  NumberQueue queue(0, 7);
  std::vector<std::uint64_t> got;
  std::uint64_t pushed = 0;
  for (std::uint32_t dead = 10; dead < 60; ++dead) {
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(queue.push(view, 1, pushed++));
    QueueScan dead_scan;
    if (dead % 2 == 0) {
      (void)queue.begin_push(view, dead, 0);
    } else {
      (void)queue.begin_pop(view, dead, dead_scan);
    }
    for (int i = 0; i < 30; ++i) {
      if (const auto value = queue.pop(view, 2, scan)) got.push_back(*value);
    }
    view.mark_dead(dead);
  }
  while (const auto value = queue.pop(view, 2, scan)) got.push_back(*value);
  std::sort(got.begin(), got.end());
  ASSERT_EQ(got.size(), pushed);
  for (std::uint64_t i = 0; i < pushed; ++i) ASSERT_EQ(got[i], i);
  EXPECT_EQ(queue.count(), 0U);
}

TEST(QueueRingDamage, AStateThatNoRuleProducesIsCorrupt) {
  QueueDeathsView view;
  QueueScan scan;
  NumberQueue queue(4);
  for (std::uint64_t i = 0; i < 12; ++i) {
    ASSERT_TRUE(queue.push(view, 1, i));
    ASSERT_EQ(queue.pop(view, 2, scan), i);
  }
  auto* segment = reinterpret_cast<QueueSegment*>(queue.header().ring);
  reinterpret_cast<QueueSlot*>(segment + 1)->state.store(0);  // lap 0, long past
  std::uint32_t blocker = 0;
  QueueHeld held;
  EXPECT_THROW((void)queue.ring().claim_room(view, 1, held, blocker), Corrupt);
  EXPECT_THROW((void)queue.ring().claim_item(view, 2, scan, held), Corrupt);
}

// A producer that is slow keeps the walk from passing segments for good.
TEST(QueueRingDamage, AChainThatLeadsRoundInACircleIsCorrupt) {
  QueueDeathsView view;
  QueueScan scan;
  NumberQueue queue(0, 7);
  (void)queue.begin_push(view, 3, 0);
  const std::uint64_t first = queue.header().first.load();
  std::uint64_t pushed = 0;
  for (int segments = 1; segments < 3; ++pushed) {
    const std::uint64_t last = queue.header().last.load();
    ASSERT_TRUE(queue.push(view, 1, pushed));
    if (queue.header().last.load() != last) ++segments;
  }
  const std::uint64_t last = queue.header().last.load();
  while (queue.pop(view, 2, scan)) --pushed;
  ASSERT_EQ(pushed, 0U);
  while (queue.header().last.load() == last) {
    ASSERT_TRUE(queue.push(view, 1, 0));
    ASSERT_TRUE(queue.pop(view, 2, scan));
  }
  reinterpret_cast<QueueSegment*>(queue_address(last))->next.store(first);
  EXPECT_THROW((void)queue.pop(view, 2, scan), Corrupt);
}

TEST(QueueRingDamage, AWordThatLeadsNowhereIsCorrupt) {
  QueueDeathsView view;
  QueueScan scan;
  QueueHeld held;
  std::uint32_t blocker = 0;
  NumberQueue queue(0, 7);
  const std::uint64_t lost = Arena::instance().size() / kPageBytes;  // behind the last page
  for (const std::uint64_t page : {lost, std::uint64_t{0}, kQueueIndexMask}) {
    queue.header().first.store(page);
    queue.header().last.store(page);
    EXPECT_THROW((void)queue.ring().claim_item(view, 2, scan, held), Corrupt);
    EXPECT_THROW((void)queue.ring().claim_room(view, 1, held, blocker), Corrupt);
    EXPECT_THROW((void)queue.count(), Corrupt);
    EXPECT_TRUE(queue.ring().maybe_item());
  }
}

}  // namespace
}  // namespace millrace::shm
