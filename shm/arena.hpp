// The arena: one sparse memory file mapped at the same address in every process of the program.
//
// A pointer into it means the same everywhere, and it has no name: when the last process is gone,
// the kernel frees it. Its size is fixed at creation and sealed; memory is used as it is touched.
// Inherited by fork. An exec'ed child gets the descriptor (by argument, never by an environment
// variable that its own children would inherit) and calls attach().
//
// Any thread of any process may call anything. Two copies of the library in one process (each
// linked statically into a plugin) share the arena: the second one joins the first one's.
// What happens when a process dies between two steps is told in span_table.hpp and slab_heap.hpp:
// memory is FREE or belongs to the dead process, whose reaper sweeps it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/placement.hpp>

#include "shm/layout.hpp"
#include "shm/slab_heap.hpp"
#include "shm/span_table.hpp"

namespace millrace::shm {

struct ArenaHeader;

/// What is in use, for tests and statistics.
struct ArenaUsage {
  std::size_t span_bytes = 0;       // spans in use, those of slabs included
  std::size_t slab_bytes = 0;       // those of slabs, which are never given back
  std::size_t small_blocks = 0;     // blocks in use in slabs
  std::uint64_t refused_frees = 0;  // deallocate() calls that named no live block
};

class Arena {
 public:
  /// The program's arena; made on first use. Its size is MILLRACE_ARENA_SIZE (a number with an
  /// optional K, M, G or T; ValueError when it is not) or 1 TiB, halved until the limits on address
  /// space and file size allow it. Throws std::system_error naming the request.
  static Arena& instance() {
    // CREATE arena: acquire pairs with the release in install(), arena.cpp
    Arena* arena = current_.load(std::memory_order_acquire);
    return arena != nullptr ? *arena : create();
  }
  /// Maps the arena behind `fd` in an exec'ed process, before anything else uses the library. Takes
  /// the descriptor over. Throws std::system_error, or Corrupt when it is not an arena of this
  /// version of the library.
  static Arena& attach(int fd);
  /// True when this process has an arena.
  static bool exists() noexcept {
    return current_.load(std::memory_order_acquire) != nullptr;  // CREATE arena: see instance()
  }
  /// True when `p` points into the arena.
  static bool contains(const void* p) noexcept {
    // relaxed: written once, before any address in the arena exists
    return reinterpret_cast<std::uintptr_t>(p) - kArenaBase <
           mapped_bytes_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// The memory file, close-on-exec; -1 in a second copy of the library that could not find it.
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] ArenaHeader& header() const noexcept;
  [[nodiscard]] ArenaRoot& root() const noexcept;
  [[nodiscard]] SpanTable& spans() noexcept { return spans_; }
  [[nodiscard]] SlabHeap& slabs() noexcept { return slabs_; }

  /// Memory of at least `bytes`, aligned to 64 bytes, contents unspecified. Up to 32 KiB from
  /// slabs, more in whole spans of 2 MiB. Belongs to self() until it is freed or given away.
  /// Throws std::system_error (ENOMEM) naming the request, ValueError for a node that is not there.
  void* allocate(std::size_t bytes, const Placement& placement = {});
  /// The same, reading as zero.
  void* allocate_zeroed(std::size_t bytes, const Placement& placement = {});
  /// Frees what allocate() returned, in any process. A pointer that names no live block frees
  /// nothing and is counted (usage().refused_frees): shared memory may have been damaged by others.
  void deallocate(void* block) noexcept;
  /// Counts a request to free what is no live block.
  void refuse_free() noexcept;
  /// Moves ownership: memory lives as long as its owner, kNobody's until it is freed.
  void give(void* block, ProcessId to) noexcept;
  /// Moves ownership from `from`; false when the block is not its.
  bool give(void* block, ProcessId from, ProcessId to) noexcept;
  /// Frees whatever a dead process owned. Idempotent; any number of processes may do it at once.
  void sweep(ProcessId dead) noexcept;

  /// Bytes of spans in use.
  [[nodiscard]] std::size_t used_bytes() const noexcept;
  [[nodiscard]] ArenaUsage usage() const noexcept;

  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

 private:
  struct Mapping;

  explicit Arena(const Mapping& mapping) noexcept;
  static Arena& create();
  static Arena& install(const Mapping& mapping);

  static inline constinit std::atomic<Arena*> current_{nullptr};
  static inline constinit std::atomic<std::size_t> mapped_bytes_{0};

  std::byte* base_;
  std::size_t size_;
  int fd_;
  SpanTable spans_;
  SlabHeap slabs_;
};

/// Arena::instance().allocate(), for the many callers who need nothing else of it.
inline void* allocate(std::size_t bytes, const Placement& placement = {}) {
  return Arena::instance().allocate(bytes, placement);
}
/// Arena::instance().deallocate().
inline void deallocate(void* block) noexcept { Arena::instance().deallocate(block); }

}  // namespace millrace::shm
