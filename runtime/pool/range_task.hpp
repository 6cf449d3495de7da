// A task of a small range job: one chunk, or several that one worker got together.
//
// The task carries its own cursor: the word {limit:32, next:32}, in the line of the slot that the
// worker holds anyway. Chunks [0, next) were begun, one after the other, chunks [next, limit) are
// nobody's yet. Claiming the task claims chunk 0. The worker raises `next`, the parent lowers
// `limit` to `next`, both by compare-and-swap, so a chunk is the worker's or the parent's, never
// both's, and what the parent took stays taken.
//
// Death between any two steps: of a dead worker `next` says how far it came: chunk next - 1 may
// have run in part, those before have ended, those behind were not begun. The word is beyond the
// reach of a reply (worker.cpp), so that holds while the worker replies, too.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "runtime/pool/pool_shared.hpp"

namespace millrace::runtime {

/// What lies in the slot of such a task.
struct RangeTask {
  std::uint64_t entry;  ///< FunctionId of the RangeEntry
  std::uint64_t first;
  std::uint64_t last;
  std::uint64_t chunk;   ///< items of each chunk but the last
  std::uint64_t cursor;  ///< see ChunkCursor
};
static_assert(sizeof(RangeTask) == TaskRing::Slot::kInlineBytes);
static_assert(sizeof(Far) <= offsetof(RangeTask, cursor), "a reply leaves the cursor alone");

/// The cursor of a RangeTask, where it lies.
class ChunkCursor {
 public:
  explicit ChunkCursor(std::byte* task) noexcept
      : word_(*reinterpret_cast<std::uint64_t*>(task + offsetof(RangeTask, cursor))) {}

  /// Of a task of `chunks` chunks that nobody has claimed.
  static constexpr std::uint64_t fresh(std::uint64_t chunks) noexcept { return chunks << 32 | 1; }

  /// The worker: claims the next chunk. False when none is left.
  [[nodiscard]] bool claim() noexcept {
    // relaxed: the word alone decides whose a chunk is; what the chunk needs came with the task.
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    while (next(seen) < limit(seen)) {
      // CLAIM chunk: relaxed, see above
      if (word_.compare_exchange_weak(seen, seen + 1, std::memory_order_relaxed,
                                      std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  /// The parent: takes back what was not begun; how many chunks were.
  std::uint64_t close() noexcept {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);  // relaxed: as in claim()
    while (next(seen) < limit(seen) &&
           // TAKE chunks: relaxed, as CLAIM chunk
           !word_.compare_exchange_weak(seen, next(seen) << 32 | next(seen),
                                        std::memory_order_relaxed, std::memory_order_relaxed)) {
    }
    return next(seen);
  }

  /// How many chunks were begun.
  [[nodiscard]] std::uint64_t begun() const noexcept {
    return next(word_.load(std::memory_order_relaxed));  // relaxed: as in claim()
  }

 private:
  static constexpr std::uint64_t next(std::uint64_t word) noexcept { return word & 0xffffffffU; }
  static constexpr std::uint64_t limit(std::uint64_t word) noexcept { return word >> 32; }

  std::atomic_ref<std::uint64_t> word_;
};

}  // namespace millrace::runtime
