// The claim ring and the parking spot, their user ended at every instruction of what it does.
#include <gtest/gtest.h>

#include <cstring>
#include <new>
#include <optional>

#include "shm/mpmc_ring.hpp"
#include "tests/shm/fake_table.hpp"
#include "tests/stress/ring_kill.hpp"

namespace millrace::shm {
namespace {

using stress::expect_unbroken;
using stress::SharedMemory;
using stress::step_kill;
using stress::StepKillCase;

class MpmcKill : public ::testing::Test {
 protected:
  using Ring = MpmcRing<std::uint64_t>;
  static constexpr std::uint32_t kVictim = 1;
  static constexpr std::uint32_t kOther = 2;
  static constexpr std::uint32_t kReader = 3;
  static constexpr std::uint64_t kVictims = 100;  // the victim's item

  void reset(std::uint64_t items) {
    table = new (view.get()) FakeTable;
    ring.emplace(Ring::create(memory.get(), 4));
    scan = {};
    for (std::uint64_t i = 1; i <= items; ++i) push(kOther, i);
  }
  bool push(std::uint32_t me, std::uint64_t value) {
    return ring->try_push(*table, me, value) == RingResult::done;
  }
  std::optional<std::uint64_t> pop() {
    std::uint64_t value = 0;
    if (ring->try_pop(*table, kReader, scan, value) != RingResult::done) return std::nullopt;
    return value;
  }
  bool works() {
    for (std::uint64_t i = 200; i < 220; ++i) {
      if (!push(kOther, i) || pop() != i || pop()) return false;
    }
    return true;
  }

  SharedMemory memory{Ring::bytes_for(4)};
  SharedMemory view{sizeof(FakeTable)};
  FakeTable* table = nullptr;
  std::optional<Ring> ring;
  Ring::Scan scan;
};

// While a producer stands still at any instruction others push and pop past it; once it is dead its
// item is there whole or not at all.
TEST_F(MpmcKill, Producer) {
  int seen = 0;
  StepKillCase c;
  c.setup = [&] {
    reset(2);
    seen = 0;
  };
  c.operation = [&] { push(kVictim, kVictims); };
  c.frozen = [&](long) {
    if (!push(kOther, 3)) return false;
    for (std::uint64_t next = 1; next <= 3;) {
      const auto value = pop();
      if (!value) return false;
      if (*value == kVictims) {
        ++seen;
      } else if (*value != next++) {
        return false;
      }
    }
    return true;
  };
  c.check = [&](long, bool finished) {
    table->mark_dead(kVictim);
    while (const auto value = pop()) {
      if (*value != kVictims) return false;
      ++seen;
    }
    return seen <= 1 && (!finished || seen == 1) && works();
  };
  expect_unbroken(step_kill(c));
}

// A consumer that dies gives its item back, unless it had freed the slot already.
TEST_F(MpmcKill, Consumer) {
  std::uint64_t sum = 0;
  std::uint64_t freed = 0;
  StepKillCase c;
  c.setup = [&] {
    reset(3);
    sum = 0;
  };
  c.operation = [&] {
    Ring::Scan own;
    std::uint64_t value = 0;
    (void)ring->try_pop(*table, kVictim, own, value);
  };
  c.frozen = [&](long) {  // somebody moves the hint past the slot
    const auto value = pop();
    sum += value.value_or(0);
    return value.has_value();
  };
  c.check = [&](long, bool finished) {
    table->mark_dead(kVictim);
    while (const auto value = pop()) sum += *value;
    freed += sum == 5 && !finished;
    return (sum == 6 && !finished) || sum == 5 ? works() : false;
  };
  expect_unbroken(step_kill(c));
  EXPECT_LT(freed, 40U) << "most of the operation gives its item back";
}

// The same with the ring full and wrapped, the victim waiting its turn to push.
TEST_F(MpmcKill, ProducerIntoAFullRing) {
  StepKillCase c;
  c.setup = [&] { reset(4); };
  c.operation = [&] { push(kVictim, kVictims); };
  c.check = [&](long, bool) {
    table->mark_dead(kVictim);
    for (std::uint64_t i = 1; i <= 4; ++i) {
      if (pop() != i) return false;
    }
    return !pop() && works();
  };
  expect_unbroken(step_kill(c));
}

// ---- parking

class ParkingKill : public ::testing::Test {
 protected:
  struct Shared {
    ParkingSpot spot;
    std::atomic<std::uint32_t> ready;
  };
  void reset() { shared = new (memory.get()) Shared{}; }
  // A sleeper of this process would be woken now: nothing that the victim left keeps it asleep.
  bool wakes() {
    for (int i = 0; i < 3; ++i) {
      const auto key = shared->spot.prepare();
      shared->spot.notify_one();
      if (shared->spot.wait(key, Timeout::Clock::now()) != EAGAIN) return false;
    }
    shared->spot.notify_one();
    return !shared->spot.maybe_asleep();
  }

  SharedMemory memory{sizeof(Shared)};
  Shared* shared = nullptr;
};

TEST_F(ParkingKill, AWaiterLeavesNothingThatMatters) {
  StepKillCase c;
  c.setup = [&] { reset(); };
  c.operation = [&] {
    const auto key = shared->spot.prepare();
    shared->spot.wait(key, Timeout::Clock::time_point::min());
  };
  c.check = [&](long, bool) { return wakes(); };
  expect_unbroken(step_kill(c));
}

// A sleeper in the kernel while the waker dies: rouse() by whoever establishes the death wakes it.
TEST_F(ParkingKill, AWakerMayDieAndTheSpotIsRoused) {
  StepKillCase c;
  c.setup = [&] {
    reset();
    shared->spot.prepare();
  };
  c.operation = [&] {
    shared->ready.store(1, std::memory_order_release);
    shared->spot.notify_one();
  };
  c.check = [&](long, bool) {
    const auto key = shared->spot.prepare();
    shared->spot.rouse();
    return shared->spot.wait(key, Timeout::Clock::now()) == EAGAIN && wakes();
  };
  expect_unbroken(step_kill(c));
}

}  // namespace
}  // namespace millrace::shm
