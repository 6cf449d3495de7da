// Small objects: slabs of equal blocks with one claim word a block.
//
// A slab is one span. Its size class stands in the span table's word, and all geometry follows from
// the class, so nothing in the slab itself is trusted but the claim words:
//   byte 0    SlabHead: hints
//   byte 64   claim words, 32 bits each: {owner:26, live:1}, 0 = FREE
//   then      the blocks, 64-byte aligned
//
// Any process may call anything. Invariants
//  1. A block is taken by CAS of FREE to {owner, live} and given back by a CAS to FREE: there is no
//     state in between, so a process killed anywhere leaves a block that is FREE or its own, and
//     sweep() frees the latter. owner 0: nobody's, never swept.
//  2. Slabs are never given back, so a stale pointer to one still points to a slab of its class.
//  3. `touched` has the bit of every page of claim words in which a block was ever claimed (set
//     before the claim): a sweep reads no page that nobody has written.
//  4. Progress: lock-free; release is wait-free.
// A thread remembers where it was last; threads and processes start at different places of a slab,
// so their claim words and blocks share cache lines seldom.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/span_table.hpp"

namespace millrace::shm {

inline constexpr std::size_t kSizeClasses = 19;

class SlabHeap {
 public:
  /// Size of the blocks of a class: 64, 128, 192, 256, then two a doubling up to 32 KiB.
  static std::size_t block_bytes(std::size_t size_class) noexcept;

  SlabHeap(SpanTable& spans, std::atomic<std::uint32_t>* hints) noexcept
      : spans_(spans), hints_(hints) {}

  /// A block of at least `bytes` (at most kMaxSmallBytes), owned by self(), contents unspecified.
  /// Throws what SpanTable::allocate() throws.
  void* allocate(std::size_t bytes);
  /// A block of the class for records: their memory is never used for anything else, so that a
  /// stale pointer to one can still be read safely.
  void* allocate_record();
  /// Frees a block of the slab in span `index`. False when `block` is no live block of it.
  bool release(std::size_t index, std::uint32_t size_class, void* block) noexcept;
  /// Moves ownership of a live block; false when it is none.
  bool give(void* block, ProcessId to) noexcept;
  /// Moves ownership if `from` has it.
  bool give(void* block, ProcessId from, ProcessId to) noexcept;
  /// Frees all blocks of a dead process.
  void sweep(ProcessId dead) noexcept;
  /// True when `block` is a live block of the records' class.
  [[nodiscard]] bool is_record(const void* block) const noexcept;
  /// Usable bytes of a live block, 0 when it is none.
  [[nodiscard]] std::size_t size_of(const void* block) const noexcept;
  /// Blocks in use, in all slabs.
  [[nodiscard]] std::size_t blocks_in_use() const noexcept;

 private:
  struct Slab;

  void* allocate_class(std::uint32_t size_class);
  void* claim_in(const Slab& slab, std::uint32_t from) noexcept;
  void* claim_elsewhere(std::uint32_t size_class);
  std::uint32_t make_slab(std::uint32_t size_class);
  [[nodiscard]] Slab slab_at(std::size_t index, std::uint32_t size_class) const noexcept;
  [[nodiscard]] std::atomic<std::uint32_t>* word_of(const void* block) const noexcept;
  template <class Visit>
  void each_word(Visit&& visit) const noexcept;

  SpanTable& spans_;
  std::atomic<std::uint32_t>* hints_;  // in the header: by class, a span with room, 0 unknown
};

/// Forgets where this thread was: a forked child starts somewhere else than its parent.
void forget_slab_position() noexcept;

}  // namespace millrace::shm
