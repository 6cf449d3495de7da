// Queues whose shared words are overwritten at random while two processes use them. They lie in an
// arena that is small, so most links that are damaged lead out of it, where no page is; memory
// beside their segments must stay as it was.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "shm/arena.hpp"
#include "shm/queue_ring.hpp"
#include "tests/shm/ring_damage.hpp"

namespace millrace::shm {
namespace {

struct ImmortalsOfQueues : Immortals {
  static void abandon(QueueSlot& slot, std::uint64_t seen) { queue_abandon(slot, seen); }
};

constexpr std::size_t kItemBytes = kQueueMostPlainBytes;

// One process's end, as the runtime's calls use it.
struct QueueUser {
  void send(Stage& stage, std::mt19937_64& random) {
    for (int i = 0; i < kSteps; ++i) {
      QueueHeld held;
      std::uint32_t blocker = 0;
      if (ring.claim_hinted_room(1, held) ||
          ring.claim_room(table, 1, held, blocker) == RingResult::done) {
        std::memset(held.slot->value(), static_cast<int>(random()), kItemBytes);
        QueueRing::publish(held, 1);
      }
      (void)ring.maybe_room();
      stage.sent();
    }
  }
  void receive(Stage& stage) {
    QueueScan scan;
    for (int i = 0; stage.worth_trying(i); ++i) {
      QueueHeld held;
      if (i % 16 == 0) {
        (void)ring.count(~std::uint64_t{0});
        scan.seen = ~std::uint64_t{0};  // as after a death: behind the hints, too
      }
      if (!ring.claim_hinted_item(0, 2, scan, held) &&
          ring.claim_item(table, 2, scan, held) != RingResult::done) {
        continue;
      }
      g_sum.fetch_add(sum(held.slot->value(), kItemBytes), std::memory_order_relaxed);
      QueueRing::free(held);
      (void)ring.maybe_item();
      stage.taken.fetch_add(1, std::memory_order_relaxed);
    }
  }
  QueueRing ring;
  ImmortalsOfQueues table;
};

// Blocks of zeroes, which a slot's first state is, too: nobody writes there.
class Neighbours {
 public:
  void add() { blocks_.push_back(Arena::instance().allocate_zeroed(kBytes)); }
  [[nodiscard]] bool untouched() const {
    return std::all_of(blocks_.begin(), blocks_.end(), [](const void* block) {
      const auto* bytes = static_cast<const std::byte*>(block);
      return std::all_of(bytes, bytes + kBytes, [](std::byte b) { return b == std::byte{0}; });
    });
  }

 private:
  static constexpr std::size_t kBytes = 28 * kKiB;  // of a slab, as segments are
  std::vector<void*> blocks_;
};

template <std::uint64_t Bound>
class DamagedQueue {
 public:
  DamagedQueue() {
    ::setenv("MILLRACE_ARENA_SIZE", "512M", 1);
    for (int i = 0; i < 8; ++i) neighbours_.add();
    header_ = static_cast<QueueHeader*>(Arena::instance().allocate_zeroed(bytes()));
    for (int i = 0; i < 8; ++i) neighbours_.add();
  }
  DamagedQueue(const DamagedQueue&) = delete;
  DamagedQueue& operator=(const DamagedQueue&) = delete;
  ~DamagedQueue() {
    EXPECT_TRUE(neighbours_.untouched());  // by the last round
    queue_dispose(*header_);
    EXPECT_TRUE(neighbours_.untouched());
    Arena::instance().deallocate(header_);
  }
  void make(std::uint32_t) {
    EXPECT_TRUE(neighbours_.untouched());
    queue_dispose(*header_);
    auto* const memory = reinterpret_cast<std::byte*>(header_);
    std::fill_n(memory, bytes(), std::byte{0});
    queue_create(memory, shape(), 0);
    heads_.clear();
    if (Bound != 0) {
      heads_.push_back(reinterpret_cast<QueueSegment*>(header_->ring));
      return;
    }
    grow();
    std::uint64_t page = header_->segments.load(std::memory_order_relaxed);  // nobody else has it
    while (page != 0) {
      const QueuePart part = queue_part(queue_address(page), shape().slot_shift, reach());
      heads_.push_back(part.segment);
      if (!queue_older(*part, page)) return;
    }
  }
  QueueUser attach(std::uint32_t) { return {ring(), {}}; }
  // Of the head, but what only those who wait look at; of a segment's head; of its first slots.
  std::uint64_t* word(std::uint32_t, std::mt19937_64& random) {
    constexpr std::size_t kWords = offsetof(QueueHeader, items) / 8;
    if (random() % 3 == 0) return reinterpret_cast<std::uint64_t*>(header_) + random() % kWords;
    auto* const words = reinterpret_cast<std::uint64_t*>(heads_[random() % heads_.size()]);
    const bool head = random() % 2 == 0;
    if (head) return words + random() % (sizeof(QueueSegment) / 8);
    const std::size_t slots = Bound != 0 ? Bound : kSlots;
    return words + sizeof(QueueSegment) / 8 + random() % slots * (1U << kQueueCellShift) / 8;
  }
  // Few at first, later so many that nothing works any more.
  static constexpr int most_damages(std::uint32_t round) {
    return round < 64 ? 1 << round % 9 : kDamages;
  }

 private:
  static constexpr std::size_t kSlots = (8 * kKiB - sizeof(QueueSegment)) >> kQueueCellShift;

  static QueueShape shape() {
    QueueShape shape;
    shape.cells = false;
    shape.bound = Bound;
    return shape;
  }
  static std::size_t bytes() { return queue_bytes(shape(), 0); }
  static std::uint64_t reach() { return Arena::instance().size(); }
  [[nodiscard]] QueueRing ring() const { return {*header_, reach()}; }
  // Beyond the segments it begins with.
  void grow() {
    ImmortalsOfQueues table;
    QueueHeld held;
    std::uint32_t blocker = 0;
    for (std::size_t i = 0; i < 8 * kSlots; ++i) {
      ASSERT_EQ(ring().claim_room(table, 1, held, blocker), RingResult::done);
      QueueRing::publish(held, 1);
    }
    QueueScan scan;
    for (std::size_t i = 0; i < 8 * kSlots; ++i) {
      ASSERT_EQ(ring().claim_item(table, 1, scan, held), RingResult::done);
      QueueRing::free(held);
    }
  }
  Neighbours neighbours_;
  QueueHeader* header_ = nullptr;
  std::vector<QueueSegment*> heads_;
};

using QueueChainDamage = RingDamage<DamagedQueue<0>>;
using BoundedQueueDamage = RingDamage<DamagedQueue<8>>;
TEST_F(QueueChainDamage, WhileTwoProcessesUseItLeadsNobodyElsewhere) { run(); }    // R26
TEST_F(BoundedQueueDamage, WhileTwoProcessesUseItLeadsNobodyElsewhere) { run(); }  // R26

}  // namespace
}  // namespace millrace::shm
