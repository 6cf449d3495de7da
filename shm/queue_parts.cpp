#include "shm/queue_parts.hpp"

#include <algorithm>
#include <cerrno>
#include <millrace/errors.hpp>
#include <string>
#include <system_error>

#include "shm/arena.hpp"

namespace millrace::shm {
namespace {

constexpr std::size_t kFirstBytes = 8 * kKiB;  // a chain's first segments, in the queue's own block
constexpr std::size_t kFirstSegments = 3;
constexpr std::size_t kSmallBytes = 28 * kKiB;  // then some in blocks of slabs
constexpr int kSmallSegments = 4;
constexpr std::size_t kLargeBytes = 256 * kKiB;                          // then spans of several
constexpr std::size_t kReach = std::size_t{1} << (kQueueLapShift + 12);  // of a link, from the base

std::atomic<QueueDiscard> discard_hook{nullptr};

std::uint64_t address(const void* p) noexcept { return reinterpret_cast<std::uint64_t>(p); }
template <class T>
T* at(std::uint64_t where) noexcept {
  return reinterpret_cast<T*>(where);  // NOLINT(performance-no-int-to-ptr): an address in the arena
}

std::uint64_t page_up(std::uint64_t where) noexcept {
  return (where + kPageBytes - 1) & ~std::uint64_t{kPageBytes - 1};
}

std::uint64_t slots_in(std::size_t bytes, unsigned slot_shift) noexcept {
  return (bytes - sizeof(QueueSegment)) >> slot_shift;
}

// The segment behind a word of the queue's lists, none if there is none.
QueuePart part_of(const QueueHeader& queue, std::uint64_t page) noexcept {
  return queue_part(queue_address(page), queue.slot_shift, Arena::instance().size());
}

// Segments of equal size that fill a new block, from the front one on; the last one names it, and
// what was the newest before.
struct Extent {
  QueueSegment* front;
  QueueSegment* back;
  std::uint64_t slots;  // of each
};
Extent make_extent(std::size_t segment_bytes, std::size_t count, unsigned slot_shift) {
  Arena& arena = Arena::instance();
  const std::size_t bytes = segment_bytes * count;
  void* block = arena.allocate_zeroed(bytes <= kSmallBytes ? bytes + kPageBytes : bytes);
  const std::uint64_t first = page_up(address(block));
  if (first + bytes - kArenaBase > kReach) {
    arena.deallocate(block);
    throw std::system_error(ENOMEM, std::generic_category(),
                            "a queue of " + std::to_string(bytes) +
                                " bytes more, within the first TiB of shared memory");
  }
  const std::uint64_t slots = slots_in(segment_bytes, slot_shift);
  auto* segment = at<QueueSegment>(first);
  const Extent extent{segment, at<QueueSegment>(first + (count - 1) * segment_bytes), slots};
  for (; segment != extent.back; segment = at<QueueSegment>(address(segment) + segment_bytes)) {
    const auto* next = at<QueueSegment>(address(segment) + segment_bytes);
    queue_seal(*segment, slots, slot_shift, queue_page(*next));
  }
  extent.back->block = address(block);
  arena.give(block, kNobody);
  return extent;
}

bool has_enough_small(const QueueHeader& queue) noexcept {
  // OBSERVE list: acquire, pairs with the push in queue_grow().
  std::uint64_t page = queue.segments.load(std::memory_order_acquire);
  for (int small = 0; small < kSmallSegments; ++small) {
    const QueuePart part = part_of(queue, page);
    if (part.segment == nullptr) return false;
    if (part.slots > slots_in(kSmallBytes, queue.slot_shift)) return true;
    if (part->block == 0 || !queue_older(*part, page)) return false;
  }
  return true;
}

// Goes through the list of a queue that nobody else refers to; what is behind damage is lost.
template <class Visit>
void visit_segments(QueueHeader& queue, Visit&& visit) noexcept {
  std::uint64_t page = queue.segments.load(std::memory_order_relaxed);  // see above
  while (page != 0) {
    const QueuePart part = part_of(queue, page);
    if (part.segment == nullptr || !queue_older(*part, page)) return;
    visit(part, page);
  }
}

void free_list(QueueHeader& queue) noexcept {
  visit_segments(queue, [&queue](const QueuePart& part, std::uint64_t older) {
    const bool large = part.slots > slots_in(kSmallBytes, queue.slot_shift);
    const std::uint64_t first = address(part.segment) - (large ? kSpanBytes - kLargeBytes : 0);
    if (page_up(part->block) != first) return;  // none, or damaged: it is another's
    void* block = at<void>(part->block);
    // OBSERVE list: release. Out of the list first: freed once, whoever goes on after a death in
    // here.
    queue.segments.store(older, std::memory_order_release);
    Arena::instance().deallocate(block);
  });
}

void empty_segment(QueueHeader& queue, const QueuePart& part) noexcept {
  auto* const slots = reinterpret_cast<std::byte*>(part.segment + 1);
  for (std::uint64_t i = 0; i < part.slots; ++i) {
    auto* const slot = reinterpret_cast<QueueSlot*>(slots + (i << kQueueCellShift));
    // OBSERVE slot: acquire, pairs with PUBLISH slot
    if (slot->state.load(std::memory_order_acquire) == 0) return;  // nor any behind it
    queue_empty_cell(queue, *reinterpret_cast<QueueCell*>(slot->value()));
  }
}

}  // namespace

std::size_t queue_bytes(const QueueShape& shape, std::size_t extra) noexcept {
  const std::size_t head = sizeof(QueueHeader) + extra;
  if (shape.bound != 0) {
    return head + kCacheLine + sizeof(QueueSegment) + (shape.bound << shape.slot_shift);
  }
  return head + kPageBytes + kFirstSegments * kFirstBytes;
}

QueueHeader& queue_create(std::byte* memory, const QueueShape& shape, std::size_t extra) noexcept {
  auto& queue = *reinterpret_cast<QueueHeader*>(memory);
  queue.slot_shift = shape.slot_shift;
  queue.cells = shape.cells ? 1 : 0;
  queue.discard = shape.discard;
  const std::uint64_t behind = address(memory) + sizeof(QueueHeader) + extra;
  if (shape.bound != 0) {
    queue.ring = (behind + kCacheLine - 1) & ~std::uint64_t{kCacheLine - 1};
    queue_seal(*at<QueueSegment>(queue.ring), shape.bound, shape.slot_shift, 0);
    return queue;
  }
  const std::uint64_t slots = slots_in(kFirstBytes, shape.slot_shift);
  std::uint64_t link = 0;  // on lap 0: the page of the newest
  for (std::size_t i = kFirstSegments; i-- > 0;) {
    auto* segment = at<QueueSegment>(page_up(behind) + i * kFirstBytes);
    queue_seal(*segment, slots, shape.slot_shift, link);
    link = queue_page(*segment);
  }
  // shared later, by its own edge
  at<QueueSegment>(page_up(behind))->end.store(slots, std::memory_order_relaxed);
  queue.segments.store(link, std::memory_order_relaxed);
  queue.first.store(link, std::memory_order_relaxed);
  queue.last.store(link, std::memory_order_relaxed);
  queue.oldest.store(link, std::memory_order_relaxed);
  return queue;
}

QueueSegment* queue_grow(QueueHeader& queue, std::uint32_t me) {
  const bool large = has_enough_small(queue);
  const Extent extent = large ? make_extent(kLargeBytes, kSpanBytes / kLargeBytes, queue.slot_shift)
                              : make_extent(kSmallBytes, 1, queue.slot_shift);
  // TAKE segment: nobody sees it yet
  extent.front->claim.store(QueueSlot::word(0, me, QueueSlot::kWriting), std::memory_order_relaxed);
  std::uint64_t newest = queue.segments.load(std::memory_order_relaxed);  // a guess
  do {
    queue_seal(*extent.back, extent.slots, queue.slot_shift, newest);
    // OBSERVE list: release, pairs with the acquire of who goes through the list.
  } while (!queue.segments.compare_exchange_weak(
      newest, queue_page(*extent.front), std::memory_order_acq_rel, std::memory_order_relaxed));
  return extent.front;
}

std::span<std::byte> queue_item(QueueCell& cell, std::uint64_t word) noexcept {
  const bool here = (word & QueueCell::kHere) != 0;
  std::byte* const bytes = here ? cell.here() : QueueCell::block(word);
  // relaxed: ordered by the word. Read once
  const std::uint64_t size = std::atomic_ref(cell.bytes).load(std::memory_order_relaxed);
  const std::uint64_t most = here ? kQueueCellBytes
                             : Arena::contains(bytes)
                                 ? kArenaBase + Arena::instance().size() - address(bytes)
                                 : 0;
  if (size > most) return {};
  return {bytes, size};
}

void queue_empty_cell(QueueHeader& queue, QueueCell& cell) noexcept {
  // TAKE cell: acq_rel, pairs with the release of who wrote it. Taken first, so that whoever goes
  // on after a death in here frees nothing twice; what this one held is lost then.
  const std::uint64_t word = cell.word.exchange(0, std::memory_order_acq_rel);
  if (word == 0) return;
  const std::span<std::byte> item = queue_item(cell, word);
  if (item.data() == nullptr) return;
  if ((word & QueueCell::kReferences) != 0) {
    // OBSERVE hook: acquire, pairs with set_queue_discard()
    const QueueDiscard discard = discard_hook.load(std::memory_order_acquire);
    if (discard != nullptr) discard(queue.discard, item.data(), item.size());
  }
  if ((word & QueueCell::kHere) == 0) Arena::instance().deallocate(item.data());
}

void queue_dispose(QueueHeader& queue) noexcept {
  if (queue.cells != 0 && queue.slot_shift == kQueueCellShift) {
    const QueuePart ring = queue_part(queue.ring & ~std::uint64_t{kCacheLine - 1}, kQueueCellShift,
                                      Arena::instance().size());
    if (ring.segment != nullptr) empty_segment(queue, ring);
    visit_segments(queue,
                   [&queue](const QueuePart& part, std::uint64_t) { empty_segment(queue, part); });
  }
  free_list(queue);
  // TAKE cell: acq_rel, as above
  Arena::instance().deallocate(at<void>(queue.extra.exchange(0, std::memory_order_acq_rel)));
}

void set_queue_discard(QueueDiscard discard) noexcept {
  // OBSERVE hook: release, pairs with the acquire in queue_empty_cell()
  discard_hook.store(discard, std::memory_order_release);
}

void queue_corrupt(const void* where, std::uint64_t state) {
  throw Corrupt("queue is damaged: the slot at " +
                std::to_string(reinterpret_cast<std::uintptr_t>(where)) + " has state " +
                std::to_string(state) + ", owner " + std::to_string(QueueSlot::owner_of(state)));
}

void queue_lost(std::uint64_t address) {
  throw Corrupt("queue is damaged: none of its segments is at " + std::to_string(address));
}

}  // namespace millrace::shm
