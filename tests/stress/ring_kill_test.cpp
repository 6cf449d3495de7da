// Rings and the parking spot, their user ended at every instruction of what it does.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <new>
#include <optional>

#include "shm/mpmc_ring.hpp"
#include "shm/spsc_ring.hpp"
#include "tests/shm/fake_table.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace::shm {
namespace {

using stress::step_kill;
using stress::StepKillCase;

// Memory that the victim shares.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes)
      : bytes_(bytes),
        memory_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~SharedMemory() { ::munmap(memory_, bytes_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  [[nodiscard]] void* get() const { return memory_; }

 private:
  std::size_t bytes_;
  void* memory_;
};

// Every case covers at least this many kills, or it tested something else than it says.
constexpr long kFewest = 10;

void expect_unbroken(const stress::StepKillResult& result) {
  EXPECT_EQ(result.broken, 0);
  EXPECT_GE(result.kills, kFewest);
  EXPECT_GT(result.instructions, 0) << "the operation did not come to its end";
  ::testing::Test::RecordProperty("kills", static_cast<int>(result.kills));
}

// ---- the single-producer ring

// Messages of word-sized numbers and of bulk; the ends lie in the shared memory, so that a
// successor goes on with them as with a lock taken over.
class SpscKill : public ::testing::Test {
 protected:
  static constexpr SpscGeometry kGeometry{4, 1024};
  static constexpr std::size_t kBulk = 300;
  static constexpr std::size_t kAllBulk = 1024;  // fits only when all of the bulk was given back

  void reset() {
    ring.emplace(SpscRing::create(memory.get(), kGeometry));
    producer = new (ends.get()) SpscRing::Producer(*ring);
    consumer = new (static_cast<char*>(ends.get()) + 1024) SpscRing::Consumer(*ring);
    number = 0;
  }
  // A message that says its number, long or short.
  void push(SpscRing::Producer& to, std::size_t bytes, Publish when = Publish::now) {
    std::byte* place = to.try_reserve(bytes);
    if (place == nullptr) return;
    std::memset(place, number++, bytes);
    to.commit(bytes, when);
  }
  // The number of the next message, -1 when there is none, -2 when it is not whole.
  static int pop(SpscRing::Consumer& from) {
    const SpscMessage message = from.try_peek();
    if (!message) return -1;
    const int first = std::to_integer<int>(message.data[0]);
    for (std::size_t i = 0; i < message.size; ++i) {
      if (std::to_integer<int>(message.data[i]) != first) return -2;
    }
    from.release();
    return first;
  }
  static void take(SpscRing::Consumer& from) {
    if (from.try_peek()) from.release();
  }
  // The ring works over several laps from here on.
  bool works(SpscRing::Producer& to, SpscRing::Consumer& from) {
    for (int i = 0; i < 20; ++i) {
      const int sent = number;
      push(to, i % 3 == 0 ? 40 : i % 3 == 1 ? kAllBulk : kBulk);
      if (pop(from) != sent % 256 || pop(from) != -1) return false;
    }
    return true;
  }

  // A producer is ended while it sends `bytes`; those it sent before are there, the last one is
  // there whole or not at all.
  void kill_a_producer(std::size_t bytes, Publish when, int before) {
    StepKillCase c;
    c.setup = [&, before] {
      reset();
      for (int i = 0; i < before; ++i) push(*producer, i % 3 == 0 ? kBulk : 30);
    };
    c.operation = [&, bytes, when, before] {
      std::byte* place = producer->try_reserve(bytes);
      std::memset(place, before, bytes);
      producer->commit(bytes, when);
      producer->flush();
    };
    c.frozen = [&, before](long) { return before == 0 || pop(*consumer) == 0; };
    c.check = [&, before](long, bool finished) {
      SpscRing::Producer successor(*ring);
      int next = before == 0 ? 0 : 1;
      for (int got = pop(*consumer); got != -1; got = pop(*consumer)) {
        if (got != next++) return false;
      }
      if (next < before || next > before + 1 || (finished && next != before + 1)) return false;
      return works(successor, *consumer);
    };
    expect_unbroken(step_kill(c));
  }

  // A consumer is ended while it takes the first of some messages: its successor, which takes over
  // the end in shared memory, finds it again or finds it gone, and the rest.
  void kill_a_consumer(std::size_t bytes, int count = 3) {
    StepKillCase c;
    c.setup = [&, bytes, count] {
      reset();
      for (int i = 0; i < count; ++i) push(*producer, bytes);
    };
    c.operation = [&] {
      take(*consumer);
      consumer->give_back();
    };
    c.frozen = [&](long) {
      push(*producer, 8);  // has room whatever the consumer does
      return true;
    };
    c.check = [&, count](long, bool finished) {
      consumer->resume();
      int next = pop(*consumer);
      if (next != 1 && (next != 0 || finished)) return false;
      for (++next; next < count + 1; ++next) {
        if (pop(*consumer) != next) return false;
      }
      return pop(*consumer) == -1 && works(*producer, *consumer);
    };
    expect_unbroken(step_kill(c));
  }

  SharedMemory memory{SpscRing::bytes_for(kGeometry)};
  SharedMemory ends{4096};
  std::optional<SpscRing> ring;
  SpscRing::Producer* producer = nullptr;
  SpscRing::Consumer* consumer = nullptr;
  int number = 0;
};

TEST_F(SpscKill, ProducerOfAShortMessage) { kill_a_producer(24, Publish::now, 1); }
TEST_F(SpscKill, ProducerThatClosesALineForIt) { kill_a_producer(56, Publish::now, 2); }
TEST_F(SpscKill, ProducerOfALongMessage) { kill_a_producer(kBulk, Publish::now, 3); }
TEST_F(SpscKill, ProducerThatPublishesLater) { kill_a_producer(8, Publish::later, 0); }
TEST_F(SpscKill, ConsumerOfAShortMessage) { kill_a_consumer(24); }
TEST_F(SpscKill, ConsumerOfALongMessage) { kill_a_consumer(kBulk); }
TEST_F(SpscKill, ConsumerOfAllTheBulk) { kill_a_consumer(kAllBulk, 1); }

// A new consumer, with an end of its own, may see again what was not given back, and nothing else.
TEST_F(SpscKill, ConsumerWhoseEndDiesWithIt) {
  StepKillCase c;
  c.setup = [&] {
    reset();
    for (int i = 0; i < 3; ++i) push(*producer, i == 1 ? kBulk : 20);
  };
  c.operation = [&] {
    SpscRing::Consumer own(*ring);
    take(own);
    take(own);
    own.give_back();
  };
  c.check = [&](long, bool finished) {
    SpscRing::Consumer successor(*ring);
    int next = pop(successor);
    if (next < 0 || next > 2 || (finished && next != 2)) return false;
    for (++next; next < 3; ++next) {
      if (pop(successor) != next) return false;
    }
    return pop(successor) == -1 && works(*producer, successor);
  };
  expect_unbroken(step_kill(c));
}

// ---- the claim ring

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
