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
  explicit QueueRing(QueueHeader& header) noexcept : q_(header) {}

  /// Takes a slot to write to as `me`: none when a bounded queue is full, *blocker is then the
  /// owner of the slot in the way, or 0. Throws what queue_grow() throws.
  template <QueueView V>
  RingResult claim_room(V& view, std::uint32_t me, QueueHeld& held, std::uint32_t& blocker) {
    for (;;) {
      // OBSERVE link: acquire, pairs with LINK segment: what its preparer wrote.
      const std::uint64_t link = bounded() ? 0 : q_.last.load(std::memory_order_acquire);
      QueueSegment& segment = bounded() ? ring() : at_page(link);
      switch (claim_in(view, me, {segment, link}, held, blocker)) {
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
    for (;;) {
      Walk walk;
      if (!begin(view, scan, walk)) continue;
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
  [[nodiscard]] std::uint64_t count(std::uint64_t most) const noexcept;

  /// Guesses whether there is an item, or room, for one more waiter; never false while nothing
  /// moves and there is.
  [[nodiscard]] bool maybe_item() const noexcept {
    // OBSERVE link: as in claim_hinted_item()
    QueueSegment& segment = bounded() ? ring() : at_page(q_.first.load(std::memory_order_acquire));
    std::uint64_t p = segment.head.load(std::memory_order_relaxed);  // a hint
    if ((p & kQueueIndexMask) >= segment.slots && !bounded()) return true;
    p = wrapped(segment, p);
    const std::uint64_t seen = slot_at(segment, p).state.load(std::memory_order_relaxed);
    return QueueSlot::ahead(seen, p >> kQueueLapShift) > 0 ||
           QueueSlot::tag_of(seen) != QueueSlot::kFree;
  }
  [[nodiscard]] bool maybe_room() const noexcept {
    if (!bounded()) return true;
    const std::uint64_t p = wrapped(ring(), ring().tail.load(std::memory_order_relaxed));  // a hint
    const std::uint64_t seen = slot_at(ring(), p).state.load(std::memory_order_relaxed);
    return QueueSlot::ahead(seen, p >> kQueueLapShift) >= 0;
  }

 private:
  enum class Push { done, full, at_end, stale };
  enum class Pop { done, none, busy, restart };
  enum class Step { again, on, stop };

  // A segment on one of its laps.
  struct Place {
    QueueSegment& segment;
    std::uint64_t link;
  };

  // One pop's way through the slots.
  struct Walk {
    static constexpr int kMostPassed = 8;
    QueueSegment* segment = nullptr;
    std::uint64_t link = 0;
    std::uint64_t oldest = 0;
    std::uint64_t position = 0;
    std::uint64_t head = 0;    // the segment's hint as read
    bool again = false;        // behind the hints too, after a death
    std::uint32_t reader = 0;  // one of those who are reading
    int count = 0;
    std::uint32_t owners[kMostPassed];  // of slots passed while being written: nothing later of
                                        // theirs is taken
    QueueSegment* passed_in = nullptr;  // where the first of them lies
    std::uint64_t passed_link = 0;
    std::uint64_t passed_at = 0;

    [[nodiscard]] bool passed(std::uint32_t owner) const noexcept {
      return std::find(owners, owners + count, owner) != owners + count;
    }
  };

  [[nodiscard]] bool bounded() const noexcept { return q_.ring != 0; }
  [[nodiscard]] QueueSegment& ring() const noexcept {
    return *reinterpret_cast<QueueSegment*>(q_.ring);  // NOLINT(performance-no-int-to-ptr)
  }
  static QueueSegment& at_page(std::uint64_t link) noexcept {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the arena
    return *reinterpret_cast<QueueSegment*>(kArenaBase + (link & kQueueIndexMask) * kPageBytes);
  }
  static std::uint64_t page_of(const QueueSegment& segment) noexcept {
    return (reinterpret_cast<std::uintptr_t>(&segment) - kArenaBase) / kPageBytes;
  }
  [[nodiscard]] QueueSlot& slot_at(QueueSegment& segment, std::uint64_t position) const noexcept {
    auto* slots = reinterpret_cast<std::byte*>(&segment + 1);
    return *reinterpret_cast<QueueSlot*>(slots + ((position & kQueueIndexMask) << q_.slot_shift));
  }
  // Behind a ring's last slot comes the first one of the next lap.
  static std::uint64_t wrapped(const QueueSegment& segment, std::uint64_t position) noexcept {
    return (position & kQueueIndexMask) >= segment.slots ? (position | kQueueIndexMask) + 1
                                                         : position;
  }
  [[nodiscard]] std::uint64_t count_at(QueueSegment& segment,
                                       std::uint64_t position) const noexcept {
    const std::uint64_t index = position & kQueueIndexMask;
    if (bounded()) return (position >> kQueueLapShift) * segment.slots + index;
    // OBSERVE start: acquire, pairs with the release in prepare(), queue_chain.hpp: constant on
    // this lap, which the caller's link came with or which it checks after this
    return segment.start.load(std::memory_order_acquire) + index;
  }
  // Whether a hint is of the link's lap and not behind a chain's segment.
  [[nodiscard]] bool at_hand(const QueueSegment& segment, std::uint64_t link,
                             std::uint64_t hint) const noexcept {
    return bounded() ||
           ((hint ^ link) >> kQueueLapShift == 0 && (hint & kQueueIndexMask) < segment.slots);
  }
  // The link of the segment behind `segment`, which is on the lap of `link`; 0: none, or stale.
  [[nodiscard]] static std::uint64_t next_of(const QueueSegment& segment,
                                             std::uint64_t link) noexcept {
    // OBSERVE link: acquire, pairs with LINK segment.
    const std::uint64_t next = segment.next.load(std::memory_order_acquire);
    if ((next ^ link) >> kQueueLapShift != 0 || (next & kQueueIndexMask) == 0) return 0;
    // Of a later lap only if the caller's link is stale. OBSERVE link: acquire, before the look
    // that tells (invariant 4).
    const std::uint64_t lap = at_page(next).next.load(std::memory_order_acquire);
    return (lap & ~kQueueIndexMask) | (next & kQueueIndexMask);
  }

  template <QueueView V>
  Push claim_in(V& view, std::uint32_t me, const Place& place, QueueHeld& held,
                std::uint32_t& blocker);
  template <QueueView V>
  void extend(V& view, std::uint32_t me, std::uint64_t link);
  template <QueueView V>
  QueueSegment* take_spare(V& view, std::uint32_t me);
  template <QueueView V>
  bool take(V& view, std::uint32_t me, QueueSegment& segment);
  static void prepare(QueueSegment& segment, std::uint64_t start) noexcept;
  [[nodiscard]] bool is_retired(const QueueSegment& segment) const noexcept;
  bool retire_oldest() noexcept;

  template <QueueView V>
  bool begin(V& view, QueueScan& scan, Walk& walk);
  void begin_again(QueueScan& scan, std::uint64_t head, std::uint64_t oldest) noexcept;
  void continue_again(QueueScan& scan, Walk& walk) const noexcept;
  template <QueueView V>
  Pop go(V& view, std::uint32_t me, QueueScan& scan, Walk& walk, QueueHeld& held);
  template <QueueView V>
  Step consider(V& view, QueueSlot& slot, std::uint64_t seen, Walk& walk);
  Pop cross(Walk& walk, QueueScan& scan) noexcept;
  void note_taken(const Walk& walk, QueueScan& scan) noexcept;
  Pop stop(const Walk& walk, QueueScan& scan) const noexcept;
  template <QueueView V>
  bool recover(V& view, QueueSlot& slot, std::uint64_t seen);
  void raise_scar(std::uint64_t count) noexcept;
  [[nodiscard]] std::uint64_t tail_count() const noexcept;

  // A claim waits until its line is here: so it is asked for some slots ahead, where the other side
  // is not close (mpmc_core.hpp).
  enum Run { kPushRun, kPopRun };
  static constexpr std::uint32_t kApart = 16;
  void ask_ahead(const QueueSlot& slot, Run run) const noexcept {
    if (++runs[run] > kApart) {
      __builtin_prefetch(reinterpret_cast<const std::byte*>(&slot) + (8U << q_.slot_shift), 1, 3);
    }
  }
  static inline constinit thread_local std::uint32_t runs[2] = {0, 0};

  QueueHeader& q_;
};

template <QueueView V>
QueueRing::Push QueueRing::claim_in(V& view, std::uint32_t me, const Place& place, QueueHeld& held,
                                    std::uint32_t& blocker) {
  QueueSegment& segment = place.segment;
  // Relaxed: a hint; an old one is merely slow.
  std::uint64_t p = segment.tail.load(std::memory_order_relaxed);
  if (!bounded() && (p ^ place.link) >> kQueueLapShift != 0) return Push::stale;
  for (;;) {
    if ((p & kQueueIndexMask) >= segment.slots) {
      if (!bounded()) return Push::at_end;
      p = wrapped(segment, p);
    }
    QueueSlot& slot = slot_at(segment, p);
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
      segment.tail.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
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
  QueueSegment& segment = bounded() ? ring() : at_page(link);
  const std::uint64_t hint = segment.tail.load(std::memory_order_relaxed);  // a hint
  if (!at_hand(segment, link, hint)) return false;
  const std::uint64_t p = wrapped(segment, hint);
  QueueSlot& slot = slot_at(segment, p);
  const std::uint64_t lap = p >> kQueueLapShift;
  // OBSERVE free: acquire, as in claim_in().
  std::uint64_t seen = slot.state.load(std::memory_order_acquire);
  // CLAIM slot: acquire, as in claim_in().
  if (seen != QueueSlot::word(lap, 0, QueueSlot::kFree) ||
      !slot.state.compare_exchange_strong(seen, QueueSlot::word(lap, me, QueueSlot::kWriting),
                                          std::memory_order_acquire, std::memory_order_relaxed)) {
    return false;
  }
  segment.tail.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
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
  QueueSegment& segment = bounded() ? ring() : at_page(link);
  const std::uint64_t hint = segment.head.load(std::memory_order_relaxed);  // a hint
  if (!at_hand(segment, link, hint)) return false;
  const std::uint64_t p = wrapped(segment, hint);
  QueueSlot& slot = slot_at(segment, p);
  const std::uint64_t lap = p >> kQueueLapShift;
  // OBSERVE slot: as in go().
  std::uint64_t seen = slot.state.load(std::memory_order_acquire);
  if (QueueSlot::lap_of(seen) != lap || QueueSlot::tag_of(seen) != QueueSlot::kReady) return false;
  // CLAIM slot: as in go().
  if (!slot.state.compare_exchange_strong(seen, QueueSlot::word(lap, me, QueueSlot::kReading),
                                          std::memory_order_acquire, std::memory_order_relaxed)) {
    return false;
  }
  segment.head.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
  ask_ahead(slot, kPopRun);
  held = {&slot, lap};
  return true;
}

}  // namespace millrace::shm

#include "shm/queue_chain.hpp"
#include "shm/queue_walk.hpp"
