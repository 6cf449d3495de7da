// The ring of one producer and one consumer, either ended at every instruction of what it does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

#include "shm/spsc_ring.hpp"
#include "tests/stress/ring_kill.hpp"

namespace millrace::shm {
namespace {

using stress::expect_unbroken;
using stress::SharedMemory;
using stress::step_kill;
using stress::StepKillCase;

// Messages of word-sized numbers and of bulk; the ends lie in the shared memory, so that a
// successor goes on with them as with a lock taken over.
class SpscKill : public ::testing::Test {
 protected:
  static constexpr SpscGeometry kGeometry{4, 1024};
  static constexpr std::size_t kBulk = 250;
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

  // A burst of eight-byte messages that say their number, 12 over two lines.
  static constexpr int kBurst = 12;
  std::size_t push_burst(SpscRing::Producer& to) const {
    std::uint64_t values[kBurst];
    for (int i = 0; i < kBurst; ++i) std::memset(&values[i], i, 8);
    return to.try_push_all(values, 8, kBurst);
  }
  void kill_a_producer_of_a_burst() {
    StepKillCase c;
    c.setup = [&] { reset(); };
    c.operation = [&] { push_burst(*producer); };
    c.frozen = [](long) { return true; };
    c.check = [&](long, bool finished) {
      SpscRing::Producer successor(*ring);
      int next = 0;
      for (int got = pop(*consumer); got != -1; got = pop(*consumer)) {
        if (got != next++) return false;
      }
      // Nothing, the first line, or all of it.
      if (next != 0 && next != 7 && next != kBurst) return false;
      return (!finished || next == kBurst) && works(successor, *consumer);
    };
    expect_unbroken(step_kill(c));
  }
  // What a consumer was ended in the middle of taking is there again, or gone: the line of seven as
  // a whole, and never more than by one instruction less.
  void kill_a_consumer_of_a_burst() {
    StepKillCase c;
    int before = -1;
    c.setup = [&] {
      reset();
      push_burst(*producer);
    };
    c.operation = [&] {
      std::uint64_t values[kBurst];
      consumer->try_pop_all(values, 8, kBurst);
    };
    c.frozen = [](long) { return true; };
    c.check = [&](long, bool finished) {
      consumer->resume();
      int next = pop(*consumer);
      if (next == -1) next = kBurst;
      if (next < std::max(before, 0) || (next != 0 && next < 7)) return false;
      if ((before == -1 && next != 0) || (finished && next != kBurst)) return false;
      before = next;
      if (next == kBurst) return works(*producer, *consumer);
      for (++next; next < kBurst; ++next) {
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
TEST_F(SpscKill, ProducerOfABurst) { kill_a_producer_of_a_burst(); }
TEST_F(SpscKill, ConsumerOfABurst) { kill_a_consumer_of_a_burst(); }

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

}  // namespace
}  // namespace millrace::shm
