// Where the words of an SPSC ring lie (spsc_ring.hpp says what they mean), and the ring as one
// process sees it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "shm/parking.hpp"

namespace millrace::shm {

/// Sizes of a ring; both are rounded up to powers of two.
struct SpscGeometry {
  std::size_t line_count = 1024;      ///< cache lines for messages of up to 56 bytes
  std::size_t bulk_bytes = 1U << 20;  ///< room for longer messages: 1 to 4 MiB stay in cache
};

/// A ring as one process sees it: where it lies and its geometry, checked once and never read from
/// shared memory again. Cheap to copy; owns nothing.
class SpscRing {
 public:
  class Producer;
  class Consumer;

  /// The longest message that shares a cache line with its flag.
  static constexpr std::size_t kInlineBytes = 56;
  static constexpr std::size_t kLineBytes = 64;
  /// What a line takes of the memory.
  static constexpr std::size_t kSlotBytes = 128;

  /// How much memory a ring of this geometry takes. ValueError if it is beyond reason.
  static std::size_t bytes_for(const SpscGeometry& geometry);
  /// Makes an empty ring in 64-byte aligned memory of bytes_for(geometry) bytes. Only where that is
  /// 128-byte aligned do bulk messages never share 128 bytes that a cpu fetches together.
  static SpscRing create(void* memory, const SpscGeometry& geometry);
  /// The ring that create() made in these `bytes` of memory, in any process; Corrupt if it is none.
  static SpscRing attach(void* memory, std::size_t bytes);

  /// The longest message the ring takes, in bytes.
  [[nodiscard]] std::size_t max_message() const noexcept { return bulk_bytes_; }

  /// Wakes both sides whatever they wait for: for whoever establishes the death of one.
  void rouse() noexcept {
    header_->items.rouse();
    header_->room.rouse();
  }

 protected:
  struct Line {
    std::atomic<std::uint64_t> control;
    std::uint64_t cell[7];
  };
  struct Slot {
    Line line;
    std::byte apart[kSlotBytes - kLineBytes];
  };
  struct Header {
    // Written at creation, read by attach().
    alignas(64) std::uint64_t magic;
    std::uint64_t line_count;
    std::uint64_t bulk_bytes;
    // PUBLISH tail: written by the consumer, read by a producer that has run out of room. The
    // cursor first, then the bulk, so that whoever starts at the cursor finds its bulk not yet
    // given back. Between the two stores the bulk's tail is behind: the claims, written ahead of
    // both, tell a successor of either end what it is going to be (tails()).
    alignas(64) std::atomic<std::uint64_t> cursor_tail{0};  // line * 8 + cell not yet consumed
    std::atomic<std::uint64_t> bulk_tail{0};                // bytes of bulk given back
    std::atomic<std::uint64_t> cursor_claim{0};
    std::atomic<std::uint64_t> bulk_claim{0};
    // The consumer sleeps on items, the producer on room; written only around sleeps.
    alignas(64) ParkingSpot items;
    alignas(64) ParkingSpot room;
  };
  static_assert(sizeof(Line) == kLineBytes && sizeof(Slot) == kSlotBytes &&
                sizeof(Header) == 4 * kLineBytes);
  static_assert(std::is_standard_layout_v<Header> &&
                std::atomic<std::uint64_t>::is_always_lock_free);

  static constexpr unsigned kCellCount = 7;
  static constexpr std::size_t kFewBytes = 128;  // copied word by word
  static constexpr unsigned kCodeBits = 6;
  static constexpr std::uint64_t kCodeMask = (1U << kCodeBits) - 1;
  static constexpr std::uint64_t kBulkCode = 58;
  static constexpr std::uint64_t kClosed = 1ULL << 42;
  static constexpr std::uint64_t kCodes = kClosed - 1;
  static constexpr unsigned kLapShift = 43;
  static constexpr std::uint64_t kLapMask = (1ULL << 21) - 1;
  static constexpr unsigned kSizeBits = 36;
  static constexpr std::uint64_t kStartMask = (1ULL << (64 - kSizeBits)) - 1;

  struct Bulk {
    std::uint64_t start;  // position
    std::uint64_t bytes;
  };
  struct Tails {
    std::uint64_t cursor;
    std::uint64_t bulk;  // as it belongs to that cursor
  };

  SpscRing(void* memory, const SpscGeometry& geometry) noexcept;

  // Where the line of a position lies. The stride is odd, so each lap visits every line once.
  [[nodiscard]] Line& line(std::uint64_t position) const noexcept {
    return slots_[position * stride_ & (line_count_ - 1)].line;
  }
  // The lap of a line position, in its place in the control word.
  [[nodiscard]] std::uint64_t lap(std::uint64_t position) const noexcept {
    return (((position >> line_shift_) + 1) & kLapMask) << kLapShift;
  }
  static constexpr unsigned cells_for(std::size_t bytes) noexcept {
    return bytes == 0 ? 1U : static_cast<unsigned>((bytes + 7) / 8);
  }
  // How many messages of this length fill a line if they lie in its cells without a gap; else 0.
  static constexpr std::size_t messages_of_a_line(std::size_t bytes) noexcept {
    return bytes == 0 || bytes > kInlineBytes || bytes % 8 != 0 ? 0 : kInlineBytes / bytes;
  }
  // The codes of so many messages from the first cell on.
  static constexpr std::uint64_t codes_of(std::size_t bytes, std::size_t count) noexcept {
    std::uint64_t codes = 0;
    for (std::size_t i = 0; i < count; ++i) {
      codes |= (bytes + 1) << (kCodeBits * cells_for(bytes) * i);
    }
    return codes;
  }
  // Where the bulk message of a cell lies, at or after position `tail`; checked.
  [[nodiscard]] Bulk decode(std::uint64_t cell, std::uint64_t tail) const;
  // Both tails as of one instant, for a successor of either end.
  [[nodiscard]] Tails tails() const;
  [[noreturn]] void corrupt(const char* what, std::uint64_t value) const;

  Header* header_;
  Slot* slots_;
  std::byte* bulk_;
  std::uint64_t line_count_;
  std::uint64_t stride_;
  std::uint64_t bulk_bytes_;
  unsigned line_shift_;
};

}  // namespace millrace::shm
