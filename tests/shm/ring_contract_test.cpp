// What every ring promises, whatever its kind: run over the single-producer and the claim ring.
#include <gtest/gtest.h>

#include <millrace/errors.hpp>
#include <thread>
#include <vector>

#include "shm/mpmc_ring.hpp"
#include "shm/spsc_ring.hpp"
#include "tests/shm/aligned_memory.hpp"
#include "tests/shm/fake_table.hpp"

namespace millrace::shm {
namespace {

struct Item {
  std::uint64_t number;
  std::uint64_t payload[5];
};

// One producer and one consumer of a ring of 4 lines or slots.
class Spsc {
 public:
  static constexpr SpscGeometry kGeometry{4, 64};
  Spsc()
      : memory_(SpscRing::bytes_for(kGeometry)),
        ring_(SpscRing::create(memory_.get(), kGeometry)) {}
  bool try_push(const Item& item) { return producer_.try_push(&item, sizeof item); }
  bool try_pop(Item& item) { return consumer_.try_pop(&item, sizeof item) == sizeof item; }
  bool push(const Item& item, const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
    std::byte* place = producer_.reserve(sizeof item, policy, deadline);
    if (place == nullptr) return false;
    std::memcpy(place, &item, sizeof item);
    producer_.commit(sizeof item);
    producer_.wake();
    return true;
  }
  bool pop(Item& item, const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
    if (!consumer_.peek(policy, deadline)) return false;
    return try_pop(item);
  }
  void damage(std::size_t offset) { memory_.word(offset) = ~0ULL; }
  void attach() { SpscRing::attach(memory_.get(), memory_.size()); }

 private:
  AlignedMemory memory_;
  SpscRing ring_;
  SpscRing::Producer producer_{ring_};
  SpscRing::Consumer consumer_{ring_};
};

class Mpmc {
 public:
  using Ring = MpmcRing<Item>;
  Mpmc() : memory_(Ring::bytes_for(4)), ring_(Ring::create(memory_.get(), 4)) {}
  bool try_push(const Item& item) { return ring_.try_push(table_, 1, item) == RingResult::done; }
  bool try_pop(Item& item) { return ring_.try_pop(table_, 2, scan_, item) == RingResult::done; }
  bool push(const Item& item, const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
    return ring_.push(table_, 1, item, policy, deadline);
  }
  bool pop(Item& item, const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
    return ring_.pop(table_, 2, scan_, item, policy, deadline);
  }
  void damage(std::size_t offset) { memory_.word(offset) = ~0ULL; }
  void attach() { Ring::attach(memory_.get(), memory_.size()); }

 private:
  AlignedMemory memory_;
  FakeTable table_;
  Ring ring_;
  Ring::Scan scan_;
};

template <class Ring>
class RingContract : public ::testing::Test {
 protected:
  static constexpr auto kForEver = Timeout::Clock::time_point::max();
  Ring ring;
};
using Rings = ::testing::Types<Spsc, Mpmc>;
TYPED_TEST_SUITE(RingContract, Rings);

TYPED_TEST(RingContract, PopFailsWhenEmpty) {
  Item item{};
  EXPECT_FALSE(this->ring.try_pop(item));
}

TYPED_TEST(RingContract, ItemsComeOutInOrderOverManyLaps) {
  Item item{};
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(this->ring.try_push({2 * i, {i}}));
    ASSERT_TRUE(this->ring.try_push({2 * i + 1, {}}));
    ASSERT_TRUE(this->ring.try_pop(item));
    EXPECT_EQ(item.number, 2 * i);
    EXPECT_EQ(item.payload[0], i);
    ASSERT_TRUE(this->ring.try_pop(item));
    EXPECT_EQ(item.number, 2 * i + 1);
  }
}

TYPED_TEST(RingContract, PushFailsWhenFullAndWorksAgainOnceEmpty) {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t pushed = 0;
    while (this->ring.try_push({pushed, {}})) ++pushed;
    EXPECT_EQ(pushed, 4U);
    Item item{};
    for (std::uint64_t i = 0; i < pushed; ++i) {
      ASSERT_TRUE(this->ring.try_pop(item));
      EXPECT_EQ(item.number, i);
    }
    EXPECT_FALSE(this->ring.try_pop(item));
  }
}

TYPED_TEST(RingContract, WaitingEndsAtTheDeadline) {
  Item item{};
  const auto soon = [] { return Timeout::Clock::now() + std::chrono::milliseconds{2}; };
  EXPECT_FALSE(this->ring.pop(item, {}, soon()));
  while (this->ring.try_push(item)) {
  }
  EXPECT_FALSE(this->ring.push(item, {}, soon()));
  EXPECT_TRUE(this->ring.pop(item, {}, soon()));
}

// Slices of an hour: a lost wake-up hangs.
TYPED_TEST(RingContract, BlockedEndsWakeEachOther) {
  const WaitPolicy policy{.yields = 0, .slice = std::chrono::hours{1}};
  constexpr std::uint64_t kItems = 20000;
  std::thread producer([&] {
    for (std::uint64_t i = 0; i < kItems; ++i) {
      this->ring.push({i, {i, i, i, i, i}}, policy, this->kForEver);
    }
  });
  Item item{};
  for (std::uint64_t i = 0; i < kItems; ++i) {
    ASSERT_TRUE(this->ring.pop(item, policy, this->kForEver));
    ASSERT_EQ(item.number, i);
    ASSERT_EQ(item.payload[4], i);
  }
  producer.join();
}

TYPED_TEST(RingContract, AttachRefusesADamagedHeader) {
  EXPECT_NO_THROW(this->ring.attach());
  this->ring.damage(8);
  EXPECT_THROW(this->ring.attach(), Corrupt);
}

}  // namespace
}  // namespace millrace::shm
