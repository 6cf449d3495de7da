// Four producers and four consumers of a queue, killed at random instants, thousands of times.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <millrace/queues.hpp>
#include <new>
#include <string>

#include "shm/reaper.hpp"
#include "tests/stress/storm.hpp"

namespace mp = millrace;

namespace millrace {
namespace {

using stress::kills_wanted;
using stress::shared;
using stress::Storm;

constexpr int kProducers = 4;
constexpr std::uint32_t kMostItems = 1U << 25;  // of a role, dealt out over the kills
constexpr std::uint8_t kPut = 0x80;

using Marks = std::atomic<std::uint8_t>[kMostItems];

struct Stage {
  std::atomic<std::uint32_t> begun[kProducers];  // the last item a role began to put
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> damage{0};
  std::atomic<std::uint64_t> disorder{0};
  std::atomic<std::uint32_t> last[4][kProducers];  // by consumer role and producer role
  // By producer role and number: how often it was got, and whether its put returned. Zero as it is
  // mapped: constructors would touch all of it.
  Marks* got = static_cast<Marks*>(shared(kProducers * sizeof(Marks)));
  stress::Deaths deaths;
};

struct Item {
  std::uint32_t role = 0;
  std::uint32_t number = 0;
  std::string filling{};
};
struct SmallItem {
  std::uint32_t role = 0;
  std::uint32_t number = 0;
};

// 8 bytes to 1 MiB, the large ones rarely.
std::size_t size_of(std::uint32_t number) {
  if (number % 1000 == 0) return 1U << 20;
  if (number % 50 == 0) return 40000;
  return number * 7919U % 300;
}
void make(Item& item) { item.filling.assign(size_of(item.number), static_cast<char>(item.number)); }
bool whole(const Item& item) {
  Item wanted{item.role, item.number, {}};
  make(wanted);
  return item.filling == wanted.filling;
}
void make(SmallItem&) {}
bool whole(const SmallItem&) { return true; }

template <class T>
class QueueStorm : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kEnd = 99;  // a role that says: no more

  void play(int role) {
    role < kProducers ? produce(static_cast<std::uint32_t>(role)) : consume(role - kProducers);
  }
  void produce(std::uint32_t role) {
    std::uint32_t number = stage_->begun[role].load();
    while (!stage_->stop.load(std::memory_order_acquire)) {
      // An unbounded one grows over several segments, not for ever.
      while ((queue_->qsize() > 1000 || number >= numbers_by_now()) &&
             !stage_->stop.load(std::memory_order_acquire)) {
        ::sched_yield();
      }
      stage_->begun[role].store(++number);
      T item{role, number};
      make(item);
      queue_->put(item);
      stage_->got[role][number].fetch_or(kPut);
    }
  }
  // So that the last kills meet put() and get() too. There are always more.
  [[nodiscard]] std::uint64_t numbers_by_now() const {
    return (stage_->deaths.count.load() + 1) * (kMostItems / (kills_ + 2));
  }
  void consume(int role) {
    for (;;) {
      const T item = queue_->get();
      if (item.role == kEnd) return;
      if (item.role >= kProducers || item.number >= kMostItems || !whole(item)) {
        stage_->damage.fetch_add(1);
        continue;
      }
      stage_->got[item.role][item.number].fetch_add(1);
      std::atomic<std::uint32_t>& last = stage_->last[role][item.role];
      if (item.number <= last.load()) stage_->disorder.fetch_add(1);
      last.store(item.number);
    }
  }

  void rage(int maxsize) {
    queue_.emplace(maxsize);
    long consumers = 0;
    const long kills = kills_wanted(800);
    kills_ = static_cast<std::uint64_t>(kills);
    {
      Storm storm(
          &stage_->deaths, 2 * kProducers, [&](int role, std::uint32_t) { play(role); },
          [] { shm::reap_all_dead(); });
      consumers = storm.rage(kills, kProducers);
      stage_->stop.store(true, std::memory_order_release);
      for (int role = 0; role < kProducers; ++role) storm.await(role);
      for (int i = 0; i < kProducers; ++i) queue_->put(T{kEnd, 0});
      for (int role = kProducers; role < 2 * kProducers; ++role) storm.await(role);
    }
    check(kills, consumers);
  }
  void check(long kills, long consumers) {
    long put = 0;
    long missing = 0;
    long twice = 0;
    for (int role = 0; role < kProducers; ++role) {
      for (std::uint32_t number = 1; number <= stage_->begun[role].load(); ++number) {
        const unsigned seen = stage_->got[role][number].load();
        put += seen >= kPut;
        missing += seen == kPut;
        twice += seen % kPut > 1;
      }
    }
    std::printf("kills=%ld items=%ld missing=%ld (consumers killed: %ld) disorder=%lu\n", kills,
                put, missing, consumers, static_cast<unsigned long>(stage_->disorder.load()));
    EXPECT_GT(put, kills);
    EXPECT_EQ(twice, 0);
    EXPECT_EQ(stage_->damage.load(), 0U);
    EXPECT_LE(missing, consumers);  // an item that its consumer had and did not come to tell
    EXPECT_LE(stage_->disorder.load(), static_cast<std::uint64_t>(kProducers * consumers));
    EXPECT_EQ(queue_->qsize(), 0U);
    EXPECT_TRUE(queue_->try_put(T{0, 0}));
    EXPECT_EQ(queue_->get().number, 0U);
  }

  Stage* stage_ = new (shared(sizeof(Stage))) Stage;
  std::optional<mp::Queue<T>> queue_;
  std::uint64_t kills_ = 0;
};

using Items = ::testing::Types<SmallItem, Item>;
TYPED_TEST_SUITE(QueueStorm, Items);

TYPED_TEST(QueueStorm, ABoundedQueueLosesNothingButWithItsConsumer) { this->rage(16); }
TYPED_TEST(QueueStorm, AQueueThatGrowsLosesNothingButWithItsConsumer) { this->rage(0); }

}  // namespace
}  // namespace millrace
