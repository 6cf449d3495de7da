// Rings between processes that are killed at random instants, thousands of times. Every wait is
// without a bound of its own, so a wake-up that is lost for good hangs (and the alarm ends it).
#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <cstring>
#include <new>

#include "shm/mpmc_ring.hpp"
#include "shm/spsc_ring.hpp"
#include "tests/stress/storm.hpp"

namespace millrace::shm {
namespace {

using stress::kills_wanted;
using stress::kPatient;
using stress::shared;
using stress::Storm;

constexpr std::uint32_t kMostItems = 1U << 25;  // of a role, dealt out over the kills
constexpr std::uint8_t kPushed = 0x80;

// What a role (a producer or consumer, whoever plays it at the time) leaves behind.
struct Role {
  std::atomic<std::uint32_t> begun{0};  // the last item it began to push
};

using Marks = std::atomic<std::uint8_t>[kMostItems];

// Shared by all processes of a storm: roles, the deaths view, and how often each item was taken.
struct Stage {
  Role role[4];
  std::atomic<bool> stop{false};
  stress::Deaths deaths;
  std::atomic<std::uint64_t> disorder{0};
  std::atomic<std::uint64_t> damage{0};
  std::atomic<std::uint32_t> last[4][4];  // by consumer role and producer role
  std::uint64_t kills = 0;                // constant once the storm has begun
  // By producer role and number: how often it was taken, and whether its push returned. Zero as it
  // is mapped: constructors would touch all of it.
  Marks* taken = static_cast<Marks*>(shared(2 * sizeof(Marks)));

  // Waits for the number behind this one; false once the storm is over. However slow the kills are,
  // none of them comes behind the last number.
  [[nodiscard]] bool may_begin_after(std::uint32_t number) const {
    while (!stop.load(std::memory_order_acquire)) {
      if (number < (deaths.count.load() + 1) * (kMostItems / (kills + 3))) return true;
      ::sched_yield();
    }
    return false;
  }
};
struct View {
  Stage* stage;
  [[nodiscard]] bool is_dead(std::uint32_t id) const { return stage->deaths.is_dead(id); }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const { return stage->deaths.count; }
  void check_alive(std::uint32_t) {}
};

struct Item {
  std::uint32_t role;
  std::uint32_t number;
  std::uint64_t filling[4];

  static Item make(std::uint32_t role, std::uint32_t number) {
    Item item{role, number, {}};
    for (std::uint64_t& word : item.filling) word = sum(item);
    return item;
  }
  [[nodiscard]] bool whole() const {
    const std::uint64_t wanted = sum(*this);
    return filling[0] == wanted && filling[1] == wanted && filling[2] == wanted &&
           filling[3] == wanted;
  }
  static std::uint64_t sum(const Item& item) {
    return (item.role + 1) * 0x9e3779b97f4a7c15ULL ^ item.number * 0xd1342543de82ef95ULL;
  }
};

// Items whose push returned; of those the ones that never came out; items that came out twice.
struct Balance {
  long pushed = 0;
  long missing = 0;
  long twice = 0;
};
Balance balance(const Stage& stage, int producers) {
  Balance sum;
  for (int role = 0; role < producers; ++role) {
    for (std::uint32_t number = 1; number <= stage.role[role].begun.load(); ++number) {
      const unsigned seen = stage.taken[role][number].load();
      sum.pushed += seen >= kPushed;
      sum.missing += seen == kPushed;
      sum.twice += seen % kPushed > 1;
    }
  }
  return sum;
}

// Two producers and two consumers of one claim ring.
class ClaimStorm : public ::testing::Test {
 protected:
  using Ring = MpmcRing<Item>;
  static constexpr std::uint32_t kEnd = 99;  // a role that says: no more

  void play(int role, std::uint32_t id) {
    if (role < 2) {
      produce(static_cast<std::uint32_t>(role), id);
    } else {
      consume(role - 2, id);
    }
  }
  void produce(std::uint32_t role, std::uint32_t id) {
    Role& mine = stage->role[role];
    std::uint32_t number = mine.begun.load();
    while (stage->may_begin_after(number)) {
      mine.begun.store(++number);
      ring.push(view, id, Item::make(role, number), kPatient);
      stage->taken[role][number].fetch_or(kPushed);
    }
  }
  void consume(int role, std::uint32_t id) {
    Ring::Scan scan;
    Item item{};
    for (;;) {
      ring.pop(view, id, scan, item, kPatient);
      if (item.role == kEnd) break;
      take(role, item);
    }
    while (ring.try_pop(view, id, scan, item) == RingResult::done) {
      if (item.role != kEnd) {
        take(role, item);
      } else {
        ring.push(view, id, item, kPatient);  // the other one's
        return;
      }
    }
  }
  void take(int role, const Item& item) {
    if (item.role > 1 || item.number >= kMostItems || !item.whole()) {
      stage->damage.fetch_add(1);
      return;
    }
    stage->taken[item.role][item.number].fetch_add(1);
    std::atomic<std::uint32_t>& last = stage->last[role][item.role];
    if (item.number <= last.load()) stage->disorder.fetch_add(1);
    last.store(item.number);
  }

  Stage* stage = new (shared(sizeof(Stage))) Stage;
  View view{stage};
  std::size_t bytes = Ring::bytes_for(8);
  Ring ring = Ring::create(shared(bytes), 8);
};

TEST_F(ClaimStorm, NothingIsLostOrDoubledButWithAConsumerThatDied) {
  const long kills = kills_wanted(1500);
  stage->kills = static_cast<std::uint64_t>(kills);
  Storm storm(
      &stage->deaths, 4, [&](int role, std::uint32_t id) { play(role, id); },
      [&] { ring.rouse(); });
  const long consumers = storm.rage(kills, 2);
  stage->stop.store(true, std::memory_order_release);
  for (const int role : {0, 1}) storm.await(role);
  for (int i = 0; i < 2; ++i)
    ring.push(view, stress::Deaths::kMostIds - 1, Item::make(kEnd, 0), kPatient);
  for (const int role : {2, 3}) storm.await(role);

  const Balance sum = balance(*stage, 2);
  EXPECT_GT(sum.pushed, kills);
  EXPECT_EQ(sum.twice, 0);
  EXPECT_EQ(stage->damage.load(), 0U);
  EXPECT_LE(sum.missing, consumers);
  EXPECT_LE(stage->disorder.load(), static_cast<std::uint64_t>(2 * consumers));
  RecordProperty("missing", static_cast<int>(sum.missing));
  RecordProperty("disorder", static_cast<int>(stage->disorder.load()));
}

// One producer and one consumer of a single-producer ring, whose ends lie in the shared memory.
class PairStorm : public ::testing::Test {
 protected:
  static constexpr SpscGeometry kGeometry{8, 4096};

  static std::size_t size_of(std::uint32_t number) { return 8 + number * 7919ULL % 900; }

  void produce() {
    auto* producer = new (ends) SpscRing::Producer(ring);  // anew: the last may have died in it
    Role& mine = stage->role[0];
    std::uint32_t number = mine.begun.load();
    while (stage->may_begin_after(number)) {
      mine.begun.store(++number);
      send(*producer, number);
      stage->taken[0][number].fetch_or(kPushed);
    }
    mine.begun.store(++number);
    send(*producer, kMostItems);
  }
  static void send(SpscRing::Producer& producer, std::uint32_t number) {
    const std::size_t bytes = size_of(number);
    std::byte* place = producer.reserve(bytes, kPatient);
    std::memset(place, static_cast<int>(number & 255), bytes);
    std::memcpy(place, &number, sizeof number);
    producer.commit(bytes);
    producer.wake();
  }
  void consume() {
    auto* consumer = reinterpret_cast<SpscRing::Consumer*>(static_cast<char*>(ends) + 1024);
    consumer->resume();
    for (;;) {
      const SpscMessage message = consumer->peek(kPatient);
      std::uint32_t number = 0;
      std::memcpy(&number, message.data, sizeof number);
      if (number >= kMostItems) return;
      if (!whole(message, number)) stage->damage.fetch_add(1);
      stage->taken[0][number].fetch_add(1);
      std::atomic<std::uint32_t>& last = stage->last[0][0];
      if (number < last.load()) stage->disorder.fetch_add(1);
      last.store(number);
      consumer->release();
    }
  }
  static bool whole(const SpscMessage& message, std::uint32_t number) {
    if (message.size != size_of(number)) return false;
    for (std::size_t i = sizeof number; i < message.size; ++i) {
      if (std::to_integer<std::uint32_t>(message.data[i]) != (number & 255)) return false;
    }
    return true;
  }

  Stage* stage = new (shared(sizeof(Stage))) Stage;
  void* ends = shared(4096);
  SpscRing ring = SpscRing::create(shared(SpscRing::bytes_for(kGeometry)), kGeometry);
};

TEST_F(PairStorm, MessagesStayWholeAndInOrder) {
  new (static_cast<char*>(ends) + 1024) SpscRing::Consumer(ring);
  const long kills = kills_wanted(1000);
  stage->kills = static_cast<std::uint64_t>(kills);
  Storm storm(
      &stage->deaths, 2, [&](int role, std::uint32_t) { role == 0 ? produce() : consume(); },
      [&] { ring.rouse(); });
  const long consumers = storm.rage(kills, 1);
  stage->stop.store(true, std::memory_order_release);
  storm.await(0);
  storm.await(1);

  const Balance sum = balance(*stage, 1);
  EXPECT_GT(sum.pushed, kills);
  EXPECT_EQ(stage->damage.load(), 0U);
  EXPECT_EQ(stage->disorder.load(), 0U);
  EXPECT_LE(sum.twice, consumers) << "a message not released is seen again";
  EXPECT_EQ(sum.missing, 0);
}

}  // namespace
}  // namespace millrace::shm
