#include "shm/mpmc_ring.hpp"

#include <gtest/gtest.h>

#include <array>
#include <millrace/errors.hpp>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "tests/shm/aligned_memory.hpp"
#include "tests/shm/fake_table.hpp"

namespace millrace::shm {
namespace {

using Ring = MpmcRing<std::uint64_t>;
constexpr std::size_t kHeader = 6 * 64;  // bytes before the first slot
constexpr std::size_t kSlotBytes = 16;   // of an 8-byte value
enum Tag : std::uint64_t { kFree, kWriting, kReady, kReading };

constexpr std::uint64_t state(std::uint64_t lap, std::uint64_t owner, Tag tag) {
  return lap << 28 | owner << 2 | tag;
}

class MpmcRingTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kSlots = 4;

  RingResult push(std::uint32_t me, std::uint64_t value) { return ring.try_push(table, me, value); }
  // The next value, or ~0 when there is none, ~1 when those there are wait for somebody.
  std::uint64_t pop(std::uint32_t me) {
    std::uint64_t value = 0;
    const RingResult result = ring.try_pop(table, me, scan[me], value);
    return result == RingResult::done ? value : result == RingResult::none ? ~0ULL : ~1ULL;
  }
  std::uint64_t& slot(std::size_t index) { return memory.word(kHeader + index * kSlotBytes); }

  AlignedMemory memory{Ring::bytes_for(kSlots)};
  FakeTable table;
  Ring ring{Ring::create(memory.get(), kSlots)};
  std::array<Ring::Scan, 16> scan;
};

TEST_F(MpmcRingTest, ASlotNamesItsOwnerAtEveryStep) {
  EXPECT_EQ(slot(0), state(0, 0, kFree));
  push(5, 77);
  EXPECT_EQ(slot(0), state(0, 5, kReady));
  EXPECT_EQ(pop(6), 77U);
  EXPECT_EQ(slot(0), state(1, 0, kFree));
}

TEST_F(MpmcRingTest, FullNamesWhoStandsInTheWay) {
  for (std::uint64_t i = 0; i < kSlots; ++i) EXPECT_EQ(push(3, i), RingResult::done);
  std::uint32_t blocker = 0;
  EXPECT_EQ(ring.try_push(table, 4, 9, &blocker), RingResult::none);
  EXPECT_EQ(blocker, 3U);
}

TEST_F(MpmcRingTest, ALivingProducerInTheMiddleOfAPushIsPassed) {
  push(1, 10);
  slot(0) = state(0, 1, kWriting);  // as if stopped there
  push(2, 20);
  push(2, 21);
  EXPECT_EQ(pop(9), 20U);
  EXPECT_EQ(pop(9), 21U);
  EXPECT_EQ(pop(9), ~1ULL) << "busy: its item may come yet";
  EXPECT_EQ(scan[9].blocker, 1U);
  slot(0) = state(0, 1, kReady);
  EXPECT_EQ(pop(9), 10U);
  EXPECT_EQ(pop(9), ~0ULL);
}

TEST_F(MpmcRingTest, NothingLaterOfAPassedProducerIsTaken) {
  push(1, 10);
  push(1, 11);
  slot(0) = state(0, 1, kWriting);
  EXPECT_EQ(pop(9), ~1ULL);
  slot(0) = state(0, 1, kReady);
  EXPECT_EQ(pop(9), 10U);
  EXPECT_EQ(pop(9), 11U);
}

TEST_F(MpmcRingTest, ADeadProducersSlotIsGivenUp) {
  push(1, 10);
  slot(0) = state(0, 1, kWriting);
  push(2, 20);
  table.mark_dead(1);
  EXPECT_EQ(pop(9), 20U);
  EXPECT_EQ(slot(0), state(1, 0, kFree));
  for (std::uint64_t i = 0; i < 20; ++i) {
    ASSERT_EQ(push(2, i), RingResult::done);
    ASSERT_EQ(pop(9), i);
  }
}

TEST_F(MpmcRingTest, AFullRingOfADeadProducerTakesItemsAgain) {
  for (std::uint64_t i = 0; i < kSlots; ++i) push(1, i);
  for (std::size_t i = 0; i < kSlots; ++i) slot(i) = state(0, 1, kWriting);
  EXPECT_EQ(push(2, 5), RingResult::none);
  table.mark_dead(1);
  EXPECT_EQ(push(2, 5), RingResult::done);
  EXPECT_EQ(pop(9), 5U);
}

TEST_F(MpmcRingTest, ADeadConsumersItemIsFoundBehindTheHint) {
  for (std::uint64_t i = 0; i < 3; ++i) push(1, 10 + i);
  EXPECT_EQ(pop(9), 10U);
  slot(0) = state(0, 8, kReading);  // as if 8 had taken it and stopped
  EXPECT_EQ(pop(9), 11U);
  table.mark_dead(8);
  EXPECT_EQ(pop(9), 10U);
  EXPECT_EQ(pop(9), 12U);
  EXPECT_EQ(pop(9), ~0ULL);
  for (std::uint64_t i = 0; i < 20; ++i) {
    ASSERT_EQ(push(1, i), RingResult::done);
    ASSERT_EQ(pop(9), i);
  }
}

TEST_F(MpmcRingTest, AStoppedConsumerHoldsUpOnlyItsOwnSlot) {
  for (std::uint64_t i = 0; i < 4; ++i) push(1, i);
  EXPECT_EQ(pop(9), 0U);
  slot(0) = state(0, 8, kReading);
  for (std::uint64_t i = 1; i < 4; ++i) EXPECT_EQ(pop(9), i);
  EXPECT_EQ(pop(9), ~0ULL);
  EXPECT_EQ(push(1, 4), RingResult::none) << "the ring is in order: full until it is read";
  slot(0) = state(1, 0, kFree);
  EXPECT_EQ(push(1, 4), RingResult::done);
  EXPECT_EQ(pop(9), 4U);
}

TEST_F(MpmcRingTest, StaleHintsOnlyCostTime) {
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(push(1, i), RingResult::done);
    ASSERT_EQ(pop(9), i);
  }
  memory.word(64) = 1000 - kSlots;   // head
  memory.word(128) = 1000 - kSlots;  // tail
  ASSERT_EQ(push(1, 7), RingResult::done);
  EXPECT_EQ(pop(9), 7U);
  memory.word(64) = 0;
  memory.word(128) = 0;
  ASSERT_EQ(push(1, 8), RingResult::done);
  EXPECT_EQ(pop(9), 8U);
}

TEST_F(MpmcRingTest, AStateThatNoRuleProducesIsCorrupt) {
  for (std::uint64_t i = 0; i < 100; ++i) {
    push(1, i);
    pop(9);
  }
  for (std::size_t i = 0; i < kSlots; ++i) slot(i) = state(3, 0, kFree);
  EXPECT_THROW(push(1, 1), Corrupt);
  EXPECT_THROW(pop(9), Corrupt);
}

TEST_F(MpmcRingTest, RandomDamageNeitherHangsNorLeadsElsewhere) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20000; ++round) {
    ring = Ring::create(memory.get(), kSlots);
    scan = {};
    try {
      for (std::uint64_t step = 0; step < 16; ++step) {
        push(1, step);
        const std::size_t word = random() % 8;
        if (step == 5) memory.word(64 + word % 2 * 64) = random();
        if (step == 10) slot(word % 4) = random() >> (random() % 64);
        pop(9);
      }
    } catch (const Corrupt&) {
    }
  }
}

TEST_F(MpmcRingTest, AttachRefusesWhatIsNoSuchRing) {
  EXPECT_EQ(Ring::attach(memory.get(), memory.size()).slot_count(), kSlots);
  EXPECT_THROW(Ring::attach(memory.get(), memory.size() - 1), Corrupt);
  EXPECT_THROW(Ring::attach(memory.get(), 10), Corrupt);
  struct Large {
    std::uint64_t word[9];
  };
  EXPECT_THROW(MpmcRing<Large>::attach(memory.get(), memory.size()), Corrupt);
  memory.word(8) = 1ULL << 60;
  EXPECT_THROW(Ring::attach(memory.get(), memory.size()), Corrupt);
  EXPECT_THROW(Ring::bytes_for(std::size_t{1} << 40), ValueError);
}

// Where the items of one lap lie, in the order of their positions.
TEST_F(MpmcRingTest, OnlyOneLineOfTwoIsUsedAndNeighboursAreNotVisitedInTurn) {
  constexpr std::size_t kMany = 256;
  constexpr std::size_t kInLine = 64 / kSlotBytes;
  const AlignedMemory wide(Ring::bytes_for(kMany));
  Ring many = Ring::create(wide.get(), kMany);
  std::set<std::size_t> used;
  std::size_t line = 0;
  for (std::uint64_t i = 0; i < kMany; ++i) {
    ASSERT_EQ(many.try_push(table, 3, i), RingResult::done);
    std::size_t at = kHeader;
    while (at < wide.size() && (used.contains(at) || wide.word(at) != state(0, 3, kReady))) {
      at += kSlotBytes;
    }
    ASSERT_LT(at, wide.size()) << "position " << i << " shares a slot";
    EXPECT_EQ(wide.word(at + 8), i);
    const std::size_t before = std::exchange(line, (at - kHeader) / 64);
    EXPECT_EQ(line % 2, 0U) << "position " << i;
    if (i % kInLine != 0) {
      EXPECT_EQ(line, before) << "position " << i;
    } else if (i != 0) {
      EXPECT_GE(line > before ? line - before : before - line, 8U) << "position " << i;
    }
    used.insert(at);
  }
  EXPECT_EQ(many.try_push(table, 3, 0), RingResult::none);
}

TEST_F(MpmcRingTest, WhoWaitsTooLongAsksAfterTheOwnerInTheWay) {
  push(1, 10);
  push(2, 20);
  slot(0) = state(0, 1, kWriting);
  EXPECT_EQ(pop(9), 20U);
  push(3, 30);
  slot(2) = state(0, 3, kWriting);
  table.die_unnoticed(1);
  std::uint64_t value = 0;
  const WaitPolicy policy{.slice = std::chrono::milliseconds{1}};
  // A wait whose thread does not run for so long asks nobody: the next one does.
  while (!table.is_dead(1)) {
    const auto soon = Timeout::Clock::now() + std::chrono::milliseconds{20};
    EXPECT_FALSE(ring.pop(table, 9, scan[9], value, policy, soon));
  }
  EXPECT_EQ(slot(0), state(1, 0, kFree));
}

// ---- threads

// Every producer's items come out once each, in order at every consumer.
void race(int producers, int consumers, std::uint64_t each, std::size_t slots, WaitPolicy policy) {
  const AlignedMemory memory(Ring::bytes_for(slots));
  FakeTable table;
  Ring ring = Ring::create(memory.get(), slots);
  const std::uint64_t total = static_cast<std::uint64_t>(producers) * each;
  std::vector<std::atomic<int>> seen(total);
  std::atomic<std::uint64_t> left{total};
  std::vector<std::thread> threads;
  for (int p = 0; p < producers; ++p) {
    threads.emplace_back([&, p] {
      for (std::uint64_t i = 0; i < each; ++i) {
        ring.push(table, static_cast<std::uint32_t>(p + 1),
                  static_cast<std::uint64_t>(p) * each + i, policy);
      }
    });
  }
  for (int c = 0; c < consumers; ++c) {
    threads.emplace_back([&, c] {
      Ring::Scan scan;
      std::vector<std::uint64_t> next(static_cast<std::size_t>(producers), 0);
      while (left.fetch_sub(1, std::memory_order_relaxed) - 1 < total) {
        std::uint64_t value = 0;
        ASSERT_TRUE(ring.pop(table, static_cast<std::uint32_t>(20 + c), scan, value, policy));
        ASSERT_LT(value, total);
        seen[value].fetch_add(1, std::memory_order_relaxed);
        EXPECT_GE(value % each, next[value / each]);
        next[value / each] = value % each + 1;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& count : seen) ASSERT_EQ(count.load(), 1);
}

// Slices of an hour: a lost wake-up hangs.
constexpr WaitPolicy kParking{.yields = 0, .slice = std::chrono::hours{1}};

TEST(MpmcRingRace, ManyProducersAndConsumersOnFewSlots) { race(3, 3, 10000, 2, kParking); }
TEST(MpmcRingRace, ManyProducersOneConsumer) { race(4, 1, 8000, 8, kParking); }
TEST(MpmcRingRace, OneProducerManyConsumers) { race(1, 4, 30000, 8, kParking); }
TEST(MpmcRingRace, YieldingOnManySlots) { race(2, 2, 40000, 1024, {.yields = 1000}); }

}  // namespace
}  // namespace millrace::shm
