// A queue of the arena in tests of its algorithm: numbers as items, deaths as the test says.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <optional>

#include "shm/arena.hpp"
#include "shm/queue_ring.hpp"
#include "tests/shm/fake_table.hpp"

namespace millrace::shm {

/// The deaths view of a test, for queues of plain items.
class QueueDeathsView : public FakeTable {
 public:
  void abandon(QueueSlot& slot, std::uint64_t seen) { queue_abandon(slot, seen); }
};

/// A queue of numbers.
class NumberQueue {
 public:
  explicit NumberQueue(std::uint64_t bound = 0, std::uint32_t slot_shift = 4) {
    QueueShape shape;
    shape.cells = false;
    shape.slot_shift = slot_shift;
    shape.bound = bound;
    block_ = Arena::instance().allocate_zeroed(queue_bytes(shape, 0));
    header_ = &queue_create(static_cast<std::byte*>(block_), shape, 0);
  }
  ~NumberQueue() {
    queue_dispose(*header_);
    Arena::instance().deallocate(block_);
  }
  NumberQueue(const NumberQueue&) = delete;
  NumberQueue& operator=(const NumberQueue&) = delete;

  bool push(QueueDeathsView& view, std::uint32_t me, std::uint64_t value) {
    QueueHeld held;
    std::uint32_t blocker = 0;
    if (ring().claim_room(view, me, held, blocker) != RingResult::done) return false;
    std::memcpy(held.slot->value(), &value, sizeof value);
    QueueRing::publish(held, me);
    return true;
  }
  /// Claims a slot and writes the value, but does not publish it: the producer stops there.
  QueueHeld begin_push(QueueDeathsView& view, std::uint32_t me, std::uint64_t value) {
    QueueHeld held;
    std::uint32_t blocker = 0;
    EXPECT_EQ(ring().claim_room(view, me, held, blocker), RingResult::done);
    std::memcpy(held.slot->value(), &value, sizeof value);
    return held;
  }
  std::optional<std::uint64_t> pop(QueueDeathsView& view, std::uint32_t me, QueueScan& scan) {
    QueueHeld held;
    if (ring().claim_item(view, me, scan, held) != RingResult::done) return std::nullopt;
    const std::uint64_t value = value_of(held);
    QueueRing::free(held);
    return value;
  }
  /// Claims the next item and stops there.
  QueueHeld begin_pop(QueueDeathsView& view, std::uint32_t me, QueueScan& scan) {
    QueueHeld held;
    EXPECT_EQ(ring().claim_item(view, me, scan, held), RingResult::done);
    return held;
  }
  static std::uint64_t value_of(const QueueHeld& held) {
    std::uint64_t value = 0;
    std::memcpy(&value, held.slot->value(), sizeof value);
    return value;
  }
  [[nodiscard]] std::uint64_t count() const { return ring().count(~std::uint64_t{0}); }
  [[nodiscard]] QueueRing ring() const {
    return {*header_, Arena::instance().size()};
  }
  [[nodiscard]] QueueHeader& header() const { return *header_; }

 private:
  void* block_;
  QueueHeader* header_;
};

}  // namespace millrace::shm
