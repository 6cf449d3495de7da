// What a queue consists of in shared memory: slots, the segments they lie in, and the words that
// lead from one segment to the next. The algorithm is in queue_ring.hpp.
//
//   header | segment {3 lines, slots} ...
//
// A bounded queue is one segment of exactly as many slots as it may hold items, used round and
// round. An unbounded one is a chain of segments, each used once and then, when all of its items
// are taken, again at the end of the chain. A segment's *lap* says how often it was used before.
//
//   slot state   {lap:36, owner:26, tag:2}: as in mpmc_core.hpp
//   position     {lap:36, index:28}: a place in a segment
//   link         {lap:36, page:28}: a segment on one of its laps; never the same twice
//
// Laps wrap: they are compared by their distance. Segments of a chain begin at a page.
//
// Nobody goes by a word that was damaged: what words name must be a segment, whose constants carry
// a check of themselves and of where they lie, and is within the arena.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/layout.hpp"
#include "shm/parking.hpp"

namespace millrace::shm {

inline constexpr unsigned kQueueLapShift = 28;
inline constexpr std::uint64_t kQueueIndexMask = (std::uint64_t{1} << kQueueLapShift) - 1;
/// The most items that a bounded queue can be made for.
inline constexpr std::uint64_t kQueueMostSlots = kQueueIndexMask;

/// A place for one item; the item follows the state.
struct QueueSlot {
  enum Tag : std::uint64_t { kFree, kWriting, kReady, kReading };
  std::atomic<std::uint64_t> state;

  static constexpr std::uint64_t word(std::uint64_t lap, std::uint32_t owner, Tag tag) noexcept {
    return lap << kQueueLapShift | std::uint64_t{owner & kProcessIdMask} << 2U | tag;
  }
  static constexpr std::uint64_t lap_of(std::uint64_t state) noexcept {
    return state >> kQueueLapShift;
  }
  static constexpr std::uint32_t owner_of(std::uint64_t state) noexcept {
    return static_cast<std::uint32_t>(state >> 2U) & kProcessIdMask;
  }
  static constexpr Tag tag_of(std::uint64_t state) noexcept { return static_cast<Tag>(state & 3U); }
  /// How many laps `state` is ahead of `lap`.
  static constexpr std::int64_t ahead(std::uint64_t state, std::uint64_t lap) noexcept {
    return static_cast<std::int64_t>((lap_of(state) - lap) << kQueueLapShift) >> kQueueLapShift;
  }

  /// The item's bytes.
  [[nodiscard]] std::byte* value() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
};
static_assert(sizeof(QueueSlot) == 8);

/// The head of a segment; its slots follow. Zeroes and a number of slots are a segment that was
/// never used.
struct alignas(kCacheLine) QueueSegment {
  // Who may prepare it: {version:36, owner:26, taken:1, 0}. Taken: by the owner, until it is ready
  // to be linked. Not taken: by anyone once `end` lies before the chain, as a zero does. The
  // version grows with each taking, so that nobody takes it who judged an earlier use of it.
  std::atomic<std::uint64_t> claim;
  std::atomic<std::uint64_t> next;     // {own lap, page of the next one, 0: none}
  std::atomic<std::uint64_t> start;    // how many slots the chain had before this one
  std::atomic<std::uint64_t> end;      // start + slots
  std::atomic<std::uint64_t> drained;  // position: all slots before it are taken and free; a hint
  std::uint64_t slots;                 // how many follow, constant; sealed
  std::uint64_t older;                 // page of the next in the queue's list, constant; sealed
  std::uint64_t block;                 // address of the memory to free with the list, constant
  // Positions, hints: where consumers and producers begin to look. Stored while a slot is held.
  alignas(kCacheLine) std::atomic<std::uint64_t> head;
  alignas(kCacheLine) std::atomic<std::uint64_t> tail;
};
static_assert(sizeof(QueueSegment) == 3 * kCacheLine);

/// The head of a queue.
struct QueueHeader {
  // Constants.
  std::uint32_t slot_shift;  // a slot takes 1 << slot_shift bytes
  std::uint32_t cells;       // 1: slots hold a QueueCell, 0: bytes
  std::uint64_t ring;        // a bounded queue's one segment, 0: a chain
  std::uint64_t discard;     // gives the references inside an item back; for the runtime
  // Written now and then.
  std::atomic<std::uint64_t> segments;  // page of the newest in the list of all of a chain
  std::atomic<std::uint64_t> spare;     // page of a segment that may be free, 0: none; a hint
  std::atomic<std::uint64_t> extra;     // address of a block to free with the queue, or 0
  std::atomic<std::uint64_t> scar;      // items taken before this count may have left holes
  // Links of a chain: the first segment that may hold items, for consumers; the one to push to.
  alignas(kCacheLine) std::atomic<std::uint64_t> first;
  alignas(kCacheLine) std::atomic<std::uint64_t> last;
  // The first segment that is not free to be used again.
  alignas(kCacheLine) std::atomic<std::uint64_t> oldest;
  alignas(kCacheLine) ParkingSpot items;
  alignas(kCacheLine) ParkingSpot room;
};
static_assert(sizeof(QueueHeader) == 6 * kCacheLine);

/// Constants of up to 28 bits, with a check of the number and of where it lies.
constexpr std::uint64_t queue_seal_of(std::uint64_t place) noexcept {
  return place * 0x9E3779B97F4A7C15ULL >> kQueueLapShift;
}
constexpr std::uint64_t queue_sealed(std::uint64_t place, std::uint64_t number) noexcept {
  return (queue_seal_of(place) ^ number) << kQueueLapShift | number;
}
/// False: that is no such constant, or a damaged one.
constexpr bool queue_unseal(std::uint64_t place, std::uint64_t word,
                            std::uint64_t& number) noexcept {
  number = word & kQueueIndexMask;
  return (word >> kQueueLapShift ^ number) == queue_seal_of(place);
}

/// A segment, and what its constants said when it was found.
struct QueuePart {
  QueueSegment* segment = nullptr;  // none
  std::uint64_t slots = 0;          // at least one

  QueueSegment* operator->() const noexcept { return segment; }
  QueueSegment& operator*() const noexcept { return *segment; }
};

/// Where in the arena a link's segment begins.
constexpr std::uint64_t queue_address(std::uint64_t link) noexcept {
  return kArenaBase + (link & kQueueIndexMask) * kPageBytes;
}
inline std::uint64_t queue_page(const QueueSegment& segment) noexcept {
  return (reinterpret_cast<std::uintptr_t>(&segment) - kArenaBase) / kPageBytes;
}
/// The segment at an address that was read in shared memory, none if there is none; `reach` is how
/// many bytes of the arena are mapped here.
inline QueuePart queue_part(std::uint64_t address, std::uint32_t slot_shift,
                            std::uint64_t reach) noexcept {
  if (address - kArenaBase > reach - sizeof(QueueSegment)) [[unlikely]]
    return {};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the arena
  QueuePart part{reinterpret_cast<QueueSegment*>(address)};
  // relaxed: constant. Read once, whatever happens to it
  const std::uint64_t word = std::atomic_ref(part->slots).load(std::memory_order_relaxed);
  if (!queue_unseal(address + slot_shift, word, part.slots)) [[unlikely]]
    return {};
  return part;
}
/// Writes its constants.
inline void queue_seal(QueueSegment& segment, std::uint64_t slots, std::uint32_t slot_shift,
                       std::uint64_t older) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(&segment);
  segment.slots = queue_sealed(address + slot_shift, slots);
  segment.older = queue_sealed(address, older);
}
/// The page of the next one in the list, 0: none. False: that is damaged.
inline bool queue_older(QueueSegment& segment, std::uint64_t& page) noexcept {
  // relaxed: constant. Read once, as above
  const std::uint64_t word = std::atomic_ref(segment.older).load(std::memory_order_relaxed);
  return queue_unseal(reinterpret_cast<std::uintptr_t>(&segment), word, page);
}

/// An item of any size, in a slot of a queue with cells.
struct QueueCell {
  static constexpr std::uint64_t kHere = 1;        // the bytes follow
  static constexpr std::uint64_t kReferences = 2;  // the bytes hold counted references
  static constexpr std::uint64_t kFlags = kCacheLine - 1;

  // 0: nothing, the item was taken or is not there yet; else where its bytes are, and flags. The
  // block it names is nobody's: it belongs to the word, and whoever takes the word frees it.
  std::atomic<std::uint64_t> word;
  std::uint64_t bytes;

  [[nodiscard]] std::byte* here() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
  static std::byte* block(std::uint64_t word) noexcept {
    return reinterpret_cast<std::byte*>(word & ~kFlags);  // NOLINT(performance-no-int-to-ptr)
  }
};
static_assert(sizeof(QueueCell) == 16);

/// The slots of queues with cells, and how much they hold themselves.
inline constexpr std::uint32_t kQueueCellShift = 7;
inline constexpr std::size_t kQueueCellBytes =
    (std::size_t{1} << kQueueCellShift) - sizeof(QueueSlot) - sizeof(QueueCell);
/// The largest value that lies in a slot as plain bytes.
inline constexpr std::size_t kQueueMostPlainBytes = 120;

/// log2 of the slot for a plain value of so many bytes: as the slots of MpmcRing.
constexpr std::uint32_t queue_slot_shift(std::size_t value_bytes) noexcept {
  return value_bytes <= 8 ? 4U : value_bytes <= 24 ? 5U : value_bytes <= 56 ? 6U : 7U;
}

/// What a queue is made for.
struct QueueShape {
  std::uint32_t slot_shift = kQueueCellShift;
  bool cells = true;
  std::uint64_t bound = 0;  // 0: unbounded
  std::uint64_t discard = 0;
};

/// Bytes of a queue and its first segments, with `extra` bytes of the caller's behind the header.
std::size_t queue_bytes(const QueueShape& shape, std::size_t extra) noexcept;
/// Makes one in zeroed memory of queue_bytes(); the caller's bytes are left.
QueueHeader& queue_create(std::byte* memory, const QueueShape& shape, std::size_t extra) noexcept;
/// More segments for a chain, in its list, one of them for the caller to prepare as `me`. Throws
/// std::system_error when there is no memory (within the arena's first TiB).
QueueSegment* queue_grow(QueueHeader& queue, std::uint32_t me);
/// For a queue that nobody refers to: gives back what its items refer to, and all memory but its
/// own. Interrupted by a death it may be called again.
void queue_dispose(QueueHeader& queue) noexcept;
/// What a cell with this word holds; none where it would lie neither in the slot nor in the arena.
std::span<std::byte> queue_item(QueueCell& cell, std::uint64_t word) noexcept;
/// Gives back what a cell holds, and empties it.
void queue_empty_cell(QueueHeader& queue, QueueCell& cell) noexcept;

/// Drops the references inside an item of a queue with this `discard`; set by the runtime.
using QueueDiscard = void (*)(std::uint64_t discard, std::byte* bytes, std::size_t size) noexcept;
void set_queue_discard(QueueDiscard discard) noexcept;

/// How often one call may begin again without getting any further along the chain: words that lead
/// nowhere, or round in a circle, are damaged.
class QueueRounds {
 public:
  static constexpr int kMost = 1 << 16;

  /// One more, which begins at this segment; false: too many. However often others are quicker, by
  /// a segment each time, its place in the chain grows, as it does on a way through many.
  bool lead_on(const QueuePart& part) noexcept {
    const std::uint64_t start = part->start.load(std::memory_order_relaxed);  // a hint
    if (start > furthest_) {
      furthest_ = start;
      in_vain_ = 0;
    }
    return in_vain_++ < kMost;
  }

 private:
  std::uint64_t furthest_ = 0;
  int in_vain_ = 0;
};

/// Throws Corrupt naming the place.
[[noreturn]] void queue_corrupt(const void* where, std::uint64_t state);
/// The same when a word leads to `address`, where no segment is that belongs there.
[[noreturn]] void queue_lost(std::uint64_t address);

}  // namespace millrace::shm
