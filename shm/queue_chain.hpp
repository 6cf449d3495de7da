// How a chain of segments grows at its end and is retired at its beginning: the part of
// queue_ring.hpp that deals with segments. Included there.
#pragma once

#include "shm/queue_ring.hpp"

namespace millrace::shm {

// All slots of the segment behind `link` were claimed: sees to it that there is another one, and
// that `last` names it.
template <QueueView V>
void QueueRing::extend(V& view, std::uint32_t me, std::uint64_t link) {
  QueueSegment& segment = *part_at(link);
  // OBSERVE link: acquire, as in next_of().
  const std::uint64_t next = segment.next.load(std::memory_order_acquire);
  if ((next ^ link) >> kQueueLapShift != 0) return;  // stale
  if ((next & kQueueIndexMask) == 0) {
    const QueuePart spare = take_spare(view, me);
    // relaxed: constant on this lap. If it is of a later one the link is stale and not changed.
    prepare(spare, segment.end.load(std::memory_order_relaxed));
    std::uint64_t expected = link & ~kQueueIndexMask;
    // LINK segment: release, what prepare() wrote; pairs with OBSERVE link. Losing the race is as
    // good: the spare one is free again when the chain has passed this place.
    segment.next.compare_exchange_strong(expected, expected | queue_page(*spare),
                                         std::memory_order_acq_rel, std::memory_order_acquire);
  }
  const std::uint64_t then = next_of(segment, link);
  // LINK segment: release, as above. It succeeds only while `last` is this link, so what follows
  // it has not been retired.
  if (then != 0) {
    q_.last.compare_exchange_strong(link, then, std::memory_order_acq_rel,
                                    std::memory_order_acquire);
  }
}

// A segment of the list that no chain uses, taken by `me`.
template <QueueView V>
QueuePart QueueRing::take_spare(V& view, std::uint32_t me) {
  constexpr int kMostLooks = 256;
  retire_all();
  // Round the list, from where the last one was found: relaxed, a hint.
  const std::uint64_t first = q_.spare.load(std::memory_order_relaxed);
  // OBSERVE list: acquire, pairs with the push in queue_grow(), queue_parts.cpp.
  const std::uint64_t newest = q_.segments.load(std::memory_order_acquire);
  std::uint64_t page = first != 0 ? first : newest;
  for (int look = 0; look < kMostLooks; ++look) {
    const QueuePart part = part_at(page);
    if (!queue_older(*part, page)) [[unlikely]]
      lost(page);
    if (page == 0) page = newest;
    if (take(view, me, *part)) {
      q_.spare.store(page, std::memory_order_relaxed);  // a hint
      return part;
    }
    if (page == (first != 0 ? first : newest)) break;
  }
  q_.spare.store(page, std::memory_order_relaxed);  // a hint
  return part_at(queue_page(*queue_grow(q_, me)));
}

template <QueueView V>
bool QueueRing::take(V& view, std::uint32_t me, QueueSegment& segment) {
  // TAKE segment: acquire, pairs with the release in prepare().
  std::uint64_t seen = segment.claim.load(std::memory_order_acquire);
  if (QueueSlot::tag_of(seen) != QueueSlot::kFree) {
    if (!view.is_dead(QueueSlot::owner_of(seen))) return false;
  } else if (!is_retired(segment)) {
    return false;
  }
  // TAKE segment: acq_rel; a new version, so nobody else takes it for what it was.
  return segment.claim.compare_exchange_strong(
      seen, QueueSlot::word(QueueSlot::lap_of(seen) + 1, me, QueueSlot::kWriting),
      std::memory_order_acq_rel, std::memory_order_relaxed);
}

// For one that is taken: to follow `start` slots, on the lap its slots are free for.
inline void QueueRing::prepare(const QueuePart& part, std::uint64_t start) noexcept {
  QueueSegment& segment = *part;
  // Ordered by LINK segment; who reads them by a stale link finds another lap.
  const std::uint64_t state =
      reinterpret_cast<QueueSlot*>(&segment + 1)->state.load(std::memory_order_relaxed);
  const std::uint64_t position = QueueSlot::lap_of(state) << kQueueLapShift;
  // OBSERVE start: release; pairs with the acquire in is_retired() and count_at(). Whoever reads
  // this number, though it came for an earlier lap, sees that `oldest` and the lap have moved on.
  segment.start.store(start, std::memory_order_release);
  segment.end.store(start + part.slots, std::memory_order_release);
  segment.head.store(position, std::memory_order_relaxed);
  segment.tail.store(position, std::memory_order_relaxed);
  // LINK segment: release, the stores before it; pairs with OBSERVE link
  segment.next.store(position, std::memory_order_release);
  // TAKE segment: release; from here on it is another's once the chain has passed its end.
  const std::uint64_t claim = segment.claim.load(std::memory_order_relaxed);
  segment.claim.store(QueueSlot::word(QueueSlot::lap_of(claim), 0, QueueSlot::kFree),
                      std::memory_order_release);
}

// Whether the chain has passed the segment's end.
inline bool QueueRing::is_retired(const QueueSegment& segment) const {
  for (;;) {
    // OBSERVE link: acquire
    const std::uint64_t oldest = q_.oldest.load(std::memory_order_acquire);
    // OBSERVE start: acquire, pairs with the release in prepare()
    const std::uint64_t start = part_at(oldest)->start.load(std::memory_order_acquire);
    const std::uint64_t end = segment.end.load(std::memory_order_acquire);
    // OBSERVE link: still the oldest, so its start was that of this lap.
    if (q_.oldest.load(std::memory_order_acquire) != oldest) continue;
    return static_cast<std::int64_t>(start - end) >= 0;
  }
}

// Passes the oldest segment if all of its slots are free for the next lap; true if somebody did.
inline bool QueueRing::retire_oldest() {
  // OBSERVE link: acquire
  std::uint64_t link = q_.oldest.load(std::memory_order_acquire);
  const QueuePart part = part_at(link);
  QueueSegment& segment = *part;
  const std::uint64_t lap = link >> kQueueLapShift;
  const std::uint64_t next = next_of(segment, link);
  if (next == 0) return false;
  // OBSERVE drained: acquire, pairs with the releases below; of this lap or none. The slots before
  // it are not looked at again, and prepare() needs the lap that they were left on.
  std::uint64_t p = segment.drained.load(std::memory_order_acquire);
  if ((p ^ link) >> kQueueLapShift != 0) p = lap << kQueueLapShift;
  for (; (p & kQueueIndexMask) < part.slots; ++p) {
    // OBSERVE free: acquire, pairs with free() in queue_ring.hpp; who uses the segment again must
    // find its values read.
    if (QueueSlot::ahead(slot_at(part, p).state.load(std::memory_order_acquire), lap) <= 0) {
      segment.drained.store(p, std::memory_order_release);  // OBSERVE drained: release
      return false;
    }
  }
  segment.drained.store(p, std::memory_order_release);  // OBSERVE drained: release
  // Whoever should have moved these on may be dead. Each fails if it is elsewhere already.
  // LINK segment: release, pairs with OBSERVE link.
  std::uint64_t expected = link;
  q_.first.compare_exchange_strong(expected, next, std::memory_order_acq_rel,
                                   std::memory_order_acquire);
  expected = link;
  // LINK segment: release, as above
  q_.last.compare_exchange_strong(expected, next, std::memory_order_acq_rel,
                                  std::memory_order_acquire);
  // LINK segment: seq_cst, retires it; the values in it were read before.
  if (q_.oldest.compare_exchange_strong(link, next, std::memory_order_seq_cst,
                                        std::memory_order_acquire)) {
    q_.spare.store(queue_page(segment), std::memory_order_relaxed);  // a hint
  }
  return true;
}

}  // namespace millrace::shm
