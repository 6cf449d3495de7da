// The algorithm of queues between any number of processes, each of which may be killed at any
// instruction: that of mpmc_core.hpp, over one segment used round and round (bounded) or a chain
// of segments (unbounded). Items are written and read in place, between claim and publish or free.
//
// Words: see queue_parts.hpp. *Count*: how many slots the queue had before a place, for ever.
//
// Invariants, beside those of mpmc_core.hpp
//  1. Slots of a chain are claimed in order, segment after segment: nobody pushes to a segment
//  while
//     one before it has a free slot, for `last` moves on only when all were claimed. So the order
//     of each producer's items holds across segments.
//  2. oldest <= first in the chain. A segment is *retired* when `oldest` passes it: all of its
//  slots
//     are free for the next lap, and neither `first` nor `last` names it. One compare-and-swap.
//  3. A retired segment is used again without touching its slots: they are free for the lap that
//     follows. Memory of segments is not given back while the queue lives: who holds a stale link
//     finds other laps there, and begins anew.
//  4. A walk that crosses from one segment to the next and then finds `oldest` as it was at its
//     beginning crossed to the right lap: nothing was retired in between.
//  5. Holes (items taken out of order) lie before `scar` only: behind it the number of items is a
//     difference of counts.
//
// When a process dies between any two steps
//   in a slot               as mpmc_core.hpp says; a view's abandon() frees what the dead wrote
//   a segment taken         another takes it over: its owner is dead
//   prepared, not linked    it is free again when the chain has passed the place it was meant for
//   linked, `last` behind   the next producer moves it on; so with `first` and `oldest`
//   memory not in the list  lost until the program ends: at most one block a death
// Anyone who meets such a state goes on with it: nobody waits for the dead.
//
// Progress: claims are lock-free, but for the memory that a chain grows by.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

#include "shm/mpmc_core.hpp"
#include "shm/queue_parts.hpp"

namespace millrace::shm {

/// What a queue needs to know of owners, and of an item that a dead producer was writing.
template <class V>
concept QueueView = DeathsView<V> && requires(V& view, QueueSlot& slot, std::uint64_t state) {
  view.abandon(slot, state);
};

/// For views of queues without cells: makes the slot of a dead producer free for the next lap.
inline void queue_abandon(QueueSlot& slot, std::uint64_t seen) noexcept {
  // CLAIM slot: acq_rel, takes back. Losing the race is as good.
  slot.state.compare_exchange_strong(
      seen, QueueSlot::word(QueueSlot::lap_of(seen) + 1, 0, QueueSlot::kFree),
      std::memory_order_acq_rel, std::memory_order_relaxed);
}

/// A slot that its holder writes or reads.
struct QueueHeld {
  QueueSlot* slot = nullptr;
  std::uint64_t lap = 0;
};

/// What one consumer remembers from pop to pop, private to it: for mpmc_core.hpp's invariant 3.
struct QueueScan {
  std::uint64_t seen = std::numeric_limits<std::uint64_t>::max();  // deaths
  bool again = false;                                              // walk again from here:
  std::uint64_t link = 0;                                          // of a chain
  std::uint64_t from = 0;                                          // position
  std::uint64_t upto = 0;                                          // until this count
  std::uint32_t blocker = 0;  // who may have stood in the way of the last pop that found nothing
};

/// A queue as one process sees it. Cheap to make; owns nothing.
class QueueRing {
 public:
  /// `reach`: how many bytes of the arena this process has mapped; it looks at none beyond them.
  QueueRing(QueueHeader& header, std::uint64_t reach) noexcept
      : q_(header),
        slot_shift_(header.slot_shift),
        ring_(header.ring & ~std::uint64_t{kCacheLine - 1}),
        reach_(reach) {}

  /// Takes a slot to write to as `me`: none when a bounded queue is full, *blocker is then the
  /// owner of the slot in the way, or 0. Throws what queue_grow() throws.
  template <QueueView V>
  RingResult claim_room(V& view, std::uint32_t me, QueueHeld& held, std::uint32_t& blocker) {
    for (QueueRounds rounds;;) {
      // OBSERVE link: acquire, pairs with LINK segment: what its preparer wrote.
      const std::uint64_t link = bounded() ? 0 : q_.last.load(std::memory_order_acquire);
      const QueuePart part = part_at(link);
      if (!rounds.lead_on(part)) [[unlikely]]
        lost(link);
      switch (claim_in(view, me, {part, link}, held, blocker)) {
        case Push::done:
          return RingResult::done;
        case Push::full:
          return RingResult::none;
        case Push::at_end:
          extend(view, me, link);
          continue;
        case Push::stale:
          continue;
      }
    }
  }
  /// The usual claim_room(), without a call: takes the slot at the hint if that is free. False: the
  /// other one decides.
  bool claim_hinted_room(std::uint32_t me, QueueHeld& held) noexcept;
  /// The item is written.
  static void publish(const QueueHeld& held, std::uint32_t me) noexcept {
    // PUBLISH slot: release; pairs with OBSERVE slot of a consumer.
    held.slot->state.store(QueueSlot::word(held.lap, me, QueueSlot::kReady),
                           std::memory_order_release);
  }

  /// Takes the oldest item that may be taken, to read it as `me`.
  template <QueueView V>
  RingResult claim_item(V& view, std::uint32_t me, QueueScan& scan, QueueHeld& held) {
    // OBSERVE deaths: acquire, as in begin() of queue_walk.hpp.
    const std::uint64_t deaths = view.deaths().load(std::memory_order_acquire);
    if (claim_hinted_item(deaths, me, scan, held)) return RingResult::done;
    for (QueueRounds rounds;;) {
      Walk walk;
      const bool begun = begin(view, scan, walk);
      if (!rounds.lead_on(walk.part)) [[unlikely]]
        lost(walk.link);
      if (!begun) continue;
      const Pop result = go(view, me, scan, walk, held);
      if (result == Pop::restart) continue;
      return result == Pop::done   ? RingResult::done
             : result == Pop::none ? RingResult::none
                                   : RingResult::busy;
    }
  }
  /// The usual claim_item(), without a call: takes the item at the hint if nobody has died since
  /// the last walk, `deaths` being how many have. False: the other one decides.
  bool claim_hinted_item(std::uint64_t deaths, std::uint32_t me, const QueueScan& scan,
                         QueueHeld& held) noexcept;
  /// The item was read.
  static void free(const QueueHeld& held) noexcept {
    // FREE slot: release; pairs with OBSERVE free of a producer.
    held.slot->state.store(QueueSlot::word(held.lap + 1, 0, QueueSlot::kFree),
                           std::memory_order_release);
  }

  /// How many items there are, at most `most`: exact while nothing moves. Items that are being
  /// written or read are not there.
  [[nodiscard]] std::uint64_t count(std::uint64_t most) const;
  /// The most items of a bounded one, else 0.
  [[nodiscard]] std::uint64_t bound() const { return bounded() ? part_at(0).slots : 0; }

  /// Guesses whether there is an item, or room, for one more waiter; never false while nothing
  /// moves and there is.
  [[nodiscard]] bool maybe_item() const noexcept;
  [[nodiscard]] bool maybe_room() const noexcept;

 private:
  enum class Push { done, full, at_end, stale };
  enum class Pop { done, none, busy, restart };
  enum class Step { again, on, stop };

  // A segment on one of its laps.
  struct Place {
    QueuePart part;
    std::uint64_t link;
  };

  // One pop's way through the slots.
  struct Walk {
    static constexpr int kMostPassed = 8;
    QueuePart part;
    std::uint64_t link = 0;
    std::uint64_t oldest = 0;
    std::uint64_t position = 0;
    std::uint64_t head = 0;    // the segment's hint as read
    bool again = false;        // behind the hints too, after a death
    std::uint32_t reader = 0;  // one of those who are reading
    int count = 0;
    std::uint32_t owners[kMostPassed];  // of slots passed while being written: nothing later of
                                        // theirs is taken
    QueuePart passed_in;                // where the first of them lies
    std::uint64_t passed_link = 0;
    std::uint64_t passed_at = 0;

    [[nodiscard]] bool passed(std::uint32_t owner) const noexcept {
      return std::find(owners, owners + count, owner) != owners + count;
    }
  };

  [[nodiscard]] bool bounded() const noexcept { return ring_ != 0; }
  // The segment a link names, or the one there is. find(): none if there is none.
  [[nodiscard]] std::uint64_t address_of(std::uint64_t link) const noexcept {
    return bounded() ? ring_ : queue_address(link);
  }
  [[nodiscard]] QueuePart find(std::uint64_t link) const noexcept {
    return queue_part(address_of(link), slot_shift_, reach_);
  }
  [[nodiscard]] QueuePart part_at(std::uint64_t link) const {
    const QueuePart part = find(link);
    if (part.segment == nullptr) [[unlikely]]
      lost(link);
    return part;
  }
  [[noreturn]] void lost(std::uint64_t link) const { queue_lost(address_of(link)); }
  [[nodiscard]] QueueSlot& slot_at(const QueuePart& part, std::uint64_t position) const noexcept {
    auto* slots = reinterpret_cast<std::byte*>(part.segment + 1);
    return *reinterpret_cast<QueueSlot*>(slots + ((position & kQueueIndexMask) << slot_shift_));
  }
  // Behind a ring's last slot comes the first one of the next lap.
  static std::uint64_t wrapped(const QueuePart& part, std::uint64_t position) noexcept {
    return (position & kQueueIndexMask) >= part.slots ? (position | kQueueIndexMask) + 1 : position;
  }
  [[nodiscard]] std::uint64_t count_at(const QueuePart& part,
                                       std::uint64_t position) const noexcept {
    const std::uint64_t index = position & kQueueIndexMask;
    if (bounded()) return (position >> kQueueLapShift) * part.slots + index;
    // OBSERVE start: acquire, pairs with the release in prepare(), queue_chain.hpp: constant on
    // this lap, which the caller's link came with or which it checks after this
    return part->start.load(std::memory_order_acquire) + index;
  }
  // Whether a chain's counts go on from one segment to the next: always while both are on the laps
  // of the caller's links.
  [[nodiscard]] bool follows(const QueuePart& next, const QueuePart& part) const noexcept {
    return count_at(next, 0) == count_at(part, part.slots);
  }
  // Whether a hint is of the link's lap and not behind a chain's segment.
  [[nodiscard]] bool at_hand(const QueuePart& part, std::uint64_t link,
                             std::uint64_t hint) const noexcept {
    return bounded() ||
           ((hint ^ link) >> kQueueLapShift == 0 && (hint & kQueueIndexMask) < part.slots);
  }
  // The link of the segment behind `segment`, which is on the lap of `link`; 0: none, or stale.
  [[nodiscard]] std::uint64_t next_of(const QueueSegment& segment, std::uint64_t link) const {
    // OBSERVE link: acquire, pairs with LINK segment.
    const std::uint64_t next = segment.next.load(std::memory_order_acquire);
    if ((next ^ link) >> kQueueLapShift != 0 || (next & kQueueIndexMask) == 0) return 0;
    // Of a later lap only if the caller's link is stale. OBSERVE link: acquire, before the look
    // that tells (invariant 4).
    const std::uint64_t lap = part_at(next)->next.load(std::memory_order_acquire);
    return (lap & ~kQueueIndexMask) | (next & kQueueIndexMask);
  }

  template <QueueView V>
  Push claim_in(V& view, std::uint32_t me, const Place& place, QueueHeld& held,
                std::uint32_t& blocker);
  template <QueueView V>
  void extend(V& view, std::uint32_t me, std::uint64_t link);
  template <QueueView V>
  QueuePart take_spare(V& view, std::uint32_t me);
  template <QueueView V>
  bool take(V& view, std::uint32_t me, QueueSegment& segment);
  static void prepare(const QueuePart& part, std::uint64_t start) noexcept;
  [[nodiscard]] bool is_retired(const QueueSegment& segment) const;
  bool retire_oldest();
  void retire_all() {
    for (int i = 0; i < QueueRounds::kMost && retire_oldest(); ++i) {
    }
  }

  template <QueueView V>
  bool begin(V& view, QueueScan& scan, Walk& walk);
  void begin_again(QueueScan& scan, std::uint64_t head, std::uint64_t oldest);
  void continue_again(QueueScan& scan, Walk& walk) const;
  template <QueueView V>
  Pop go(V& view, std::uint32_t me, QueueScan& scan, Walk& walk, QueueHeld& held);
  template <QueueView V>
  Step consider(V& view, QueueSlot& slot, std::uint64_t seen, Walk& walk);
  Pop cross(Walk& walk, QueueScan& scan);
  void note_taken(const Walk& walk, QueueScan& scan) noexcept;
  Pop stop(const Walk& walk, QueueScan& scan) const noexcept;
  template <QueueView V>
  bool recover(V& view, QueueSlot& slot, std::uint64_t seen);
  void raise_scar(std::uint64_t count) noexcept;
  [[nodiscard]] std::uint64_t tail_count() const;
  bool enter_next(QueuePart& part, std::uint64_t& link, std::uint64_t& p) const;

  // A claim waits until its line is here: so it is asked for some slots ahead, where the other side
  // is not close (mpmc_core.hpp).
  enum Run { kPushRun, kPopRun };
  static constexpr std::uint32_t kApart = 16;
  void ask_ahead(const QueueSlot& slot, Run run) const noexcept {
    if (++runs[run] > kApart) {
      __builtin_prefetch(reinterpret_cast<const std::byte*>(&slot) + (8U << slot_shift_), 1, 3);
    }
  }
  static inline constinit thread_local std::uint32_t runs[2] = {0, 0};

  QueueHeader& q_;
  // Constants as they were when this was made, and the arena's.
  std::uint32_t slot_shift_;
  std::uint64_t ring_;
  std::uint64_t reach_;
};

template <QueueView V>
QueueRing::Push QueueRing::claim_in(V& view, std::uint32_t me, const Place& place, QueueHeld& held,
                                    std::uint32_t& blocker) {
  const QueuePart& part = place.part;
  // Relaxed: a hint; an old one is merely slow.
  std::uint64_t p = part->tail.load(std::memory_order_relaxed);
  if (!bounded() && (p ^ place.link) >> kQueueLapShift != 0) return Push::stale;
  for (;;) {
    if ((p & kQueueIndexMask) >= part.slots) {
      if (!bounded()) return Push::at_end;
      p = wrapped(part, p);
    }
    QueueSlot& slot = slot_at(part, p);
    const std::uint64_t lap = p >> kQueueLapShift;
    // OBSERVE free: acquire, the last consumer of the slot has read its value.
    std::uint64_t seen = slot.state.load(std::memory_order_acquire);
    if (seen == QueueSlot::word(lap, 0, QueueSlot::kFree)) {
      // CLAIM slot: acquire, as OBSERVE free; the claim itself publishes nothing.
      if (!slot.state.compare_exchange_strong(seen, QueueSlot::word(lap, me, QueueSlot::kWriting),
                                              std::memory_order_acquire,
                                              std::memory_order_relaxed)) {
        continue;
      }
      part->tail.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
      ask_ahead(slot, kPushRun);
      held = {&slot, lap};
      return Push::done;
    }
    const std::int64_t ahead = QueueSlot::ahead(seen, lap);
    if (ahead < 0) {
      if (recover(view, slot, seen)) continue;
      if (!bounded() || ahead < -1) [[unlikely]]
        queue_corrupt(&slot, seen);
      runs[kPushRun] = 0;
      blocker = QueueSlot::owner_of(seen);
      return Push::full;
    }
    if (ahead > 1 && bounded()) p += static_cast<std::uint64_t>(ahead - 1) << kQueueLapShift;
    ++p;
  }
}

[[gnu::always_inline]] inline bool QueueRing::claim_hinted_room(std::uint32_t me,
                                                                QueueHeld& held) noexcept {
  // OBSERVE link: as in claim_room().
  const std::uint64_t link = bounded() ? 0 : q_.last.load(std::memory_order_acquire);
  const QueuePart part = find(link);
  if (part.segment == nullptr) [[unlikely]]
    return false;
  const std::uint64_t hint = part->tail.load(std::memory_order_relaxed);  // a hint
  if (!at_hand(part, link, hint)) return false;
  const std::uint64_t p = wrapped(part, hint);
  QueueSlot& slot = slot_at(part, p);
  const std::uint64_t lap = p >> kQueueLapShift;
  // OBSERVE free: acquire, as in claim_in().
  std::uint64_t seen = slot.state.load(std::memory_order_acquire);
  // CLAIM slot: acquire, as in claim_in().
  if (seen != QueueSlot::word(lap, 0, QueueSlot::kFree) ||
      !slot.state.compare_exchange_strong(seen, QueueSlot::word(lap, me, QueueSlot::kWriting),
                                          std::memory_order_acquire, std::memory_order_relaxed)) {
    return false;
  }
  part->tail.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
  ask_ahead(slot, kPushRun);
  held = {&slot, lap};
  return true;
}

[[gnu::always_inline]] inline bool QueueRing::claim_hinted_item(std::uint64_t deaths,
                                                                std::uint32_t me,
                                                                const QueueScan& scan,
                                                                QueueHeld& held) noexcept {
  if (scan.again || deaths != scan.seen) return false;
  // OBSERVE link: as in claim_room().
  const std::uint64_t link = bounded() ? 0 : q_.first.load(std::memory_order_acquire);
  const QueuePart part = find(link);
  if (part.segment == nullptr) [[unlikely]]
    return false;
  const std::uint64_t hint = part->head.load(std::memory_order_relaxed);  // a hint
  if (!at_hand(part, link, hint)) return false;
  const std::uint64_t p = wrapped(part, hint);
  QueueSlot& slot = slot_at(part, p);
  const std::uint64_t lap = p >> kQueueLapShift;
  // OBSERVE slot: as in go().
  std::uint64_t seen = slot.state.load(std::memory_order_acquire);
  if (QueueSlot::lap_of(seen) != lap || QueueSlot::tag_of(seen) != QueueSlot::kReady) return false;
  // CLAIM slot: as in go().
  if (!slot.state.compare_exchange_strong(seen, QueueSlot::word(lap, me, QueueSlot::kReading),
                                          std::memory_order_acquire, std::memory_order_relaxed)) {
    return false;
  }
  part->head.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
  ask_ahead(slot, kPopRun);
  held = {&slot, lap};
  return true;
}

}  // namespace millrace::shm

#include "shm/queue_chain.hpp"
#include "shm/queue_walk.hpp"
