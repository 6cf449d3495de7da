// How consumers walk through the slots, and how items are counted: the part of queue_ring.hpp that
// reads. Included there.
#pragma once

#include "shm/queue_ring.hpp"

namespace millrace::shm {

// False: the link was stale, look again.
template <QueueView V>
bool QueueRing::begin(V& view, QueueScan& scan, Walk& walk) {
  // OBSERVE deaths: acquire; pairs with the release by which mark_dead() of process_table.hpp
  // counts a death. Whoever sees the count sees the owner dead.
  const std::uint64_t deaths = view.deaths().load(std::memory_order_acquire);
  if (bounded()) {
    walk.part = part_at(0);
  } else {
    // OBSERVE link: acquire; the oldest one before the first one, which is never behind it.
    walk.oldest = q_.oldest.load(std::memory_order_acquire);
    walk.link = q_.first.load(std::memory_order_acquire);
    walk.part = part_at(walk.link);
  }
  walk.head = walk.part->head.load(std::memory_order_relaxed);  // a hint
  if (!bounded() && (walk.head ^ walk.link) >> kQueueLapShift != 0) return false;
  walk.position = walk.head;
  if (deaths != scan.seen) [[unlikely]] {
    begin_again(scan, walk.head, walk.oldest);
    scan.seen = deaths;
  }
  if (scan.again) continue_again(scan, walk);
  return true;
}

// Somebody died: an item that it was reading may lie behind the hints, and one that it was reading
// a moment ago may be passed by others who do not know yet, up to the tail.
inline void QueueRing::begin_again(QueueScan& scan, std::uint64_t head, std::uint64_t oldest) {
  const std::uint64_t upto = tail_count();  // throws where words are damaged: before anything else
  scan.again = true;
  scan.upto = upto;
  scan.link = oldest;
  if (bounded()) {
    constexpr std::uint64_t kLap = std::uint64_t{1} << kQueueLapShift;
    scan.from = head >= kLap ? head - kLap : 0;  // further down nothing can be pending
    scan.upto = std::max(scan.upto, count_at(part_at(0), head));
  } else {
    scan.from = oldest & ~kQueueIndexMask;
  }
}

inline void QueueRing::continue_again(QueueScan& scan, Walk& walk) const {
  walk.again = true;
  if (bounded()) {
    walk.position = std::min(scan.from, walk.head);
    return;
  }
  QueuePart from = part_at(scan.link);
  // OBSERVE link: acquire
  if ((from->next.load(std::memory_order_acquire) ^ scan.link) >> kQueueLapShift != 0 ||
      is_retired(*from)) {
    scan.link = walk.oldest;
    scan.from = walk.oldest & ~kQueueIndexMask;
    from = part_at(scan.link);
  }
  if (count_at(from, scan.from) >= count_at(walk.part, walk.head)) return;
  walk.part = from;
  walk.link = scan.link;
  walk.position = scan.from;
  walk.head = from->head.load(std::memory_order_relaxed);  // a hint
}

template <QueueView V>
QueueRing::Pop QueueRing::go(V& view, std::uint32_t me, QueueScan& scan, Walk& walk,
                             QueueHeld& held) {
  for (;;) {
    if ((walk.position & kQueueIndexMask) >= walk.part.slots) {
      if (bounded()) {
        walk.position = wrapped(walk.part, walk.position);
      } else {
        const Pop crossed = cross(walk, scan);
        if (crossed != Pop::done) return crossed;
        continue;
      }
    }
    QueueSlot& slot = slot_at(walk.part, walk.position);
    const std::uint64_t lap = walk.position >> kQueueLapShift;
    // OBSERVE slot: acquire; pairs with PUBLISH slot, the value may be read after the claim.
    std::uint64_t seen = slot.state.load(std::memory_order_acquire);
    if (QueueSlot::lap_of(seen) == lap && QueueSlot::tag_of(seen) == QueueSlot::kReady &&
        !walk.passed(QueueSlot::owner_of(seen))) {
      if (walk.count != 0) raise_scar(count_at(walk.part, walk.position) + 1);
      // CLAIM slot: acquire, as OBSERVE slot, also for one that was taken back from the dead.
      if (!slot.state.compare_exchange_strong(seen, QueueSlot::word(lap, me, QueueSlot::kReading),
                                              std::memory_order_acquire,
                                              std::memory_order_relaxed)) {
        continue;
      }
      note_taken(walk, scan);
      ask_ahead(slot, kPopRun);
      held = {&slot, lap};
      return Pop::done;
    }
    switch (consider(view, slot, seen, walk)) {
      case Step::again:
        continue;
      case Step::on:
        ++walk.position;
        continue;
      case Step::stop:
        if (scan.blocker = walk.reader; walk.reader == 0) {
          scan.blocker = QueueSlot::owner_of(seen);
        }
        return stop(walk, scan);
    }
  }
}

// What a slot that cannot be taken means for the walk.
template <QueueView V>
QueueRing::Step QueueRing::consider(V& view, QueueSlot& slot, std::uint64_t seen, Walk& walk) {
  const std::uint64_t lap = walk.position >> kQueueLapShift;
  const std::int64_t ahead = QueueSlot::ahead(seen, lap);
  const QueueSlot::Tag tag = QueueSlot::tag_of(seen);
  if (ahead > 0) {  // taken, and perhaps for several laps
    if (ahead > 2 && bounded()) {
      walk.position += static_cast<std::uint64_t>(ahead - 2) << kQueueLapShift;
    }
    return Step::on;
  }
  if (tag == QueueSlot::kReady && ahead == 0) return Step::on;  // of a passed producer
  if (recover(view, slot, seen)) return Step::again;
  if (ahead < -1) [[unlikely]]
    queue_corrupt(&slot, seen);
  if (ahead < 0 || tag == QueueSlot::kFree) return Step::stop;
  const std::uint32_t owner = QueueSlot::owner_of(seen);
  if (tag == QueueSlot::kReading) walk.reader = owner;
  if (tag == QueueSlot::kWriting && !walk.passed(owner)) {
    if (walk.count == Walk::kMostPassed) return Step::stop;
    walk.owners[walk.count++] = owner;
    if (walk.passed_in.segment == nullptr) {
      walk.passed_in = walk.part;
      walk.passed_link = walk.link;
      walk.passed_at = walk.position;
    }
  }
  return Step::on;
}

// To the next segment of a chain. done: the walk goes on there.
inline QueueRing::Pop QueueRing::cross(Walk& walk, QueueScan& scan) {
  const std::uint64_t next = next_of(*walk.part, walk.link);
  const bool goes_on = next == 0 || follows(part_at(next), walk.part);
  // OBSERVE link: acquire; see invariant 4.
  if (q_.oldest.load(std::memory_order_acquire) != walk.oldest) return Pop::restart;
  if (!goes_on) [[unlikely]]
    lost(next);
  if (next == 0) {
    scan.blocker = walk.reader;
    return stop(walk, scan);
  }
  if (walk.count == 0) {  // everything before it is taken
    if (walk.again) {
      scan.link = next;
      scan.from = next & ~kQueueIndexMask;
    }
    std::uint64_t expected = walk.link;
    // LINK segment: release, as in queue_chain.hpp; pairs with OBSERVE link.
    q_.first.compare_exchange_strong(expected, next, std::memory_order_acq_rel,
                                     std::memory_order_acquire);
    retire_all();
    return Pop::restart;
  }
  walk.part = part_at(next);
  walk.link = next;
  walk.head = walk.part->head.load(std::memory_order_relaxed);  // a hint
  if ((walk.head ^ next) >> kQueueLapShift != 0) return Pop::restart;
  walk.position = walk.again ? next & ~kQueueIndexMask : walk.head;
  return Pop::done;
}

// While the slot is held: a ring's hint cannot fall a lap behind, a segment is not used again.
inline void QueueRing::note_taken(const Walk& walk, QueueScan& scan) noexcept {
  const bool none = walk.count == 0;
  const std::uint64_t next = none ? walk.position + 1 : walk.passed_at;
  const QueuePart& where = none ? walk.part : walk.passed_in;
  if (where.segment == walk.part.segment && static_cast<std::int64_t>(next - walk.head) > 0) {
    where->head.store(next, std::memory_order_relaxed);  // a hint
  }
  if (!walk.again) return;
  scan.link = none ? walk.link : walk.passed_link;
  scan.from = next;
  scan.again = count_at(where, next) < scan.upto;
}

inline QueueRing::Pop QueueRing::stop(const Walk& walk, QueueScan& scan) const noexcept {
  runs[kPopRun] = 0;
  if (walk.count != 0) {
    scan.blocker = walk.owners[0];
    return Pop::busy;
  }
  if (walk.again) {
    scan.link = walk.link;
    scan.from = walk.position;
    scan.again = count_at(walk.part, walk.position) < scan.upto;
  }
  return Pop::none;
}

// Takes back the slot of a dead owner; true when the caller should look at it again.
template <QueueView V>
bool QueueRing::recover(V& view, QueueSlot& slot, std::uint64_t seen) {
  const QueueSlot::Tag tag = QueueSlot::tag_of(seen);
  if (tag != QueueSlot::kWriting && tag != QueueSlot::kReading) return false;
  if (!view.is_dead(QueueSlot::owner_of(seen))) return false;
  raise_scar(tail_count());
  if (tag == QueueSlot::kWriting) {
    view.abandon(slot, seen);
    return true;
  }
  // CLAIM slot: acq_rel, takes back; continues the release sequence of PUBLISH slot. Losing the
  // race is as good: somebody else took it back.
  slot.state.compare_exchange_strong(seen,
                                     QueueSlot::word(QueueSlot::lap_of(seen), 0, QueueSlot::kReady),
                                     std::memory_order_acq_rel, std::memory_order_relaxed);
  return true;
}

inline void QueueRing::raise_scar(std::uint64_t count) noexcept {
  std::uint64_t seen = q_.scar.load(std::memory_order_relaxed);  // a guess
  // SCAR: seq_cst, before the claim that makes the hole; only count() reads it.
  while (seen < count && !q_.scar.compare_exchange_weak(seen, count, std::memory_order_seq_cst,
                                                        std::memory_order_relaxed)) {
  }
}

// The count of the first slot that was not claimed by a producer.
inline std::uint64_t QueueRing::tail_count() const {
  for (int round = 0; round < QueueRounds::kMost; ++round) {
    // OBSERVE link: acquire
    std::uint64_t link = bounded() ? 0 : q_.last.load(std::memory_order_acquire);
    QueuePart part = part_at(link);
    std::uint64_t p = part->tail.load(std::memory_order_relaxed);  // a hint
    if (!bounded() && (p ^ link) >> kQueueLapShift != 0) continue;
    for (;; ++p) {
      if ((p & kQueueIndexMask) >= part.slots && !enter_next(part, link, p)) break;
      // OBSERVE slot: acquire, only its lap and tag are read
      const std::uint64_t seen = slot_at(part, p).state.load(std::memory_order_acquire);
      const std::int64_t ahead = QueueSlot::ahead(seen, p >> kQueueLapShift);
      if (ahead > 1 && bounded()) p += static_cast<std::uint64_t>(ahead - 1) << kQueueLapShift;
      if (ahead < 0 || (ahead == 0 && QueueSlot::tag_of(seen) == QueueSlot::kFree)) break;
    }
    const std::uint64_t count = count_at(part, p);
    // OBSERVE link: a segment that was used again meanwhile has another start.
    if (bounded() || (part->next.load(std::memory_order_acquire) ^ link) >> kQueueLapShift == 0)
      return count;
  }
  lost(q_.last.load(std::memory_order_relaxed));  // for the message
}

// Behind the last slot of `part`: goes on to the first of the next one, or of the next lap. False:
// there is none yet, or the link is stale.
inline bool QueueRing::enter_next(QueuePart& part, std::uint64_t& link, std::uint64_t& p) const {
  if (bounded()) {
    p = wrapped(part, p);
    return true;
  }
  const std::uint64_t next = next_of(*part, link);
  if (next == 0) return false;
  const QueuePart then = part_at(next);
  if (!follows(then, part)) return false;
  part = then;
  link = next;
  p = next & ~kQueueIndexMask;
  return true;
}

inline std::uint64_t QueueRing::count(std::uint64_t most) const {
  constexpr std::uint64_t kFew = 64;  // so many are looked at, more are subtracted
  const std::uint64_t tail = tail_count();
  // OBSERVE link: acquire
  const std::uint64_t oldest = bounded() ? 0 : q_.oldest.load(std::memory_order_acquire);
  std::uint64_t link = bounded() ? 0 : q_.first.load(std::memory_order_acquire);
  QueuePart part = part_at(link);
  std::uint64_t p = part->head.load(std::memory_order_relaxed);  // a hint
  // SCAR: seq_cst, see raise_scar()
  const std::uint64_t scar = q_.scar.load(std::memory_order_seq_cst);
  if (scar > count_at(part, p)) {  // there may be items behind the hint
    if (!bounded()) part = part_at(link = oldest);
    constexpr std::uint64_t kLap = std::uint64_t{1} << kQueueLapShift;
    p = !bounded() ? link & ~kQueueIndexMask : p >= kLap ? p - kLap : 0;
  }
  std::uint64_t found = 0;
  for (; found < most; ++p) {
    if ((p & kQueueIndexMask) >= part.slots && !enter_next(part, link, p)) break;
    // OBSERVE slot: acquire, only its lap and tag are read
    const std::uint64_t seen = slot_at(part, p).state.load(std::memory_order_acquire);
    const std::int64_t ahead = QueueSlot::ahead(seen, p >> kQueueLapShift);
    const QueueSlot::Tag tag = QueueSlot::tag_of(seen);
    if (ahead < 0 || (ahead == 0 && tag == QueueSlot::kFree)) break;
    if (ahead > 2 && bounded()) p += static_cast<std::uint64_t>(ahead - 2) << kQueueLapShift;
    if (ahead != 0 || tag != QueueSlot::kReady) continue;
    const std::uint64_t here = count_at(part, p);
    if (here >= scar && tail > here + kFew) return std::min(most, found + (tail - here));
    ++found;
  }
  return found;
}

inline bool QueueRing::maybe_item() const noexcept {
  // OBSERVE link: as in claim_hinted_item()
  const QueuePart part = find(bounded() ? 0 : q_.first.load(std::memory_order_acquire));
  if (part.segment == nullptr) return true;  // whoever looks for it says what is wrong
  std::uint64_t p = part->head.load(std::memory_order_relaxed);  // a hint
  if ((p & kQueueIndexMask) >= part.slots && !bounded()) return true;
  p = wrapped(part, p);
  const std::uint64_t seen = slot_at(part, p).state.load(std::memory_order_relaxed);
  return QueueSlot::ahead(seen, p >> kQueueLapShift) > 0 ||
         QueueSlot::tag_of(seen) != QueueSlot::kFree;
}

inline bool QueueRing::maybe_room() const noexcept {
  const QueuePart part = find(0);
  if (!bounded() || part.segment == nullptr) return true;
  const std::uint64_t p = wrapped(part, part->tail.load(std::memory_order_relaxed));  // a hint
  const std::uint64_t seen = slot_at(part, p).state.load(std::memory_order_relaxed);
  return QueueSlot::ahead(seen, p >> kQueueLapShift) >= 0;
}

}  // namespace millrace::shm
