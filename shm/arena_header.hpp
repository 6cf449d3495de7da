// What lies at the arena's base.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/process_table.hpp"
#include "shm/ref_table.hpp"
#include "shm/slab_heap.hpp"
#include "shm/span_table.hpp"

namespace millrace::shm {

inline constexpr std::uint64_t kArenaMagic = 0x6563617272696c6d;  // "mlirrace" backwards, as bytes
inline constexpr std::uint32_t kArenaVersion = 1;

/// All bytes zero is a valid header but for the first line, which create() writes, the magic last.
/// The span words and page states follow it: their number depends on the arena's size.
struct ArenaHeader {
  std::atomic<std::uint64_t> magic;  // published last: everything else is valid
  std::uint32_t version;
  std::uint32_t header_bytes;  // sizeof(ArenaHeader), a second check on the version
  std::uint64_t size;
  std::atomic<std::uint64_t> refused_frees;
  SpanCounters counters;
  alignas(kCacheLine) std::atomic<std::uint32_t> slab_hints[kSizeClasses];
  alignas(kCacheLine) ArenaRoot root;
  ProcessTable processes;
  alignas(kCacheLine) RefTable arena_references;
  RefTable references[kMaxProcesses];
};

/// Byte offsets of the tables behind the header in an arena of `size` bytes.
struct ArenaTables {
  std::size_t words;
  std::size_t pages;
  std::size_t end;

  static constexpr ArenaTables of(std::size_t size) noexcept {
    const std::size_t spans = size / kSpanBytes;
    ArenaTables t{};
    t.words = (sizeof(ArenaHeader) + kPageBytes - 1) / kPageBytes * kPageBytes;
    t.pages = t.words + spans * sizeof(std::uint64_t);
    t.end = t.pages + spans * sizeof(std::uint16_t);
    return t;
  }
};

/// The process table of the arena that this process has: for whoever holds a shared object.
inline ProcessTable& process_table_there() noexcept {
  return reinterpret_cast<ArenaHeader*>(kArenaBase)
      ->processes;  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace millrace::shm
