// How a slab is laid out: follows from its size class alone, so that nothing in it need be trusted;
// and how long an empty one keeps its pages.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/slab_heap.hpp"

namespace millrace::shm {

inline constexpr std::size_t kHeadBytes = 64;
inline constexpr std::uint32_t kRecordClass = kSizeClasses - 1;
inline constexpr std::size_t kWordsPerPage = kPageBytes / sizeof(std::uint32_t);

struct SlabGeometry {
  std::uint32_t block_bytes = 0;
  std::uint32_t count = 0;
  std::uint32_t blocks_at = 0;
  std::uint32_t reciprocal = 0;  // 2^24 over the block's 64-byte units, rounded up
};

inline constexpr std::array<std::uint32_t, kSizeClasses> kBlockBytes = {
    64,   128,  192,  256,  384,   512,   768,   1024,  1536, 2048,
    3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 64};

constexpr std::array<SlabGeometry, kSizeClasses> make_slab_geometry() {
  std::array<SlabGeometry, kSizeClasses> all{};
  for (std::size_t c = 0; c < kSizeClasses; ++c) {
    SlabGeometry& g = all[c];
    g.block_bytes = kBlockBytes[c];
    g.count = static_cast<std::uint32_t>((kSpanBytes - kHeadBytes) /
                                         (g.block_bytes + sizeof(std::uint32_t)));
    const auto at = [&] {
      return (kHeadBytes + g.count * sizeof(std::uint32_t) + kCacheLine - 1) / kCacheLine *
             kCacheLine;
    };
    while (at() + std::size_t{g.count} * g.block_bytes > kSpanBytes) --g.count;
    g.blocks_at = static_cast<std::uint32_t>(at());
    const auto units = static_cast<std::uint32_t>(g.block_bytes / kCacheLine);
    g.reciprocal = ((1U << 24U) + units - 1) / units;
  }
  return all;
}

inline constexpr std::array<SlabGeometry, kSizeClasses> kSlabGeometry = make_slab_geometry();

constexpr std::array<std::uint8_t, kMaxSmallBytes / kCacheLine + 1> make_class_table() {
  std::array<std::uint8_t, kMaxSmallBytes / kCacheLine + 1> table{};
  std::uint8_t c = 0;
  for (std::size_t units = 0; units < table.size(); ++units) {
    while (kBlockBytes[c] < units * kCacheLine) ++c;
    table[units] = c;
  }
  return table;
}

inline constexpr auto kClassOf = make_class_table();

static_assert(
    [] {
      for (const SlabGeometry& g : kSlabGeometry) {
        for (std::uint64_t k = 0; k < g.count; ++k) {
          if (k * (g.block_bytes / kCacheLine) * g.reciprocal >> 24U != k) return false;
        }
      }
      return true;
    }(),
    "the reciprocal is exact for every block of every class");

/// How long a slab has to be without a live block before its pages go back to the system: long
/// enough for what comes in bursts, as pages cost more than what is put into them. Tests change it.
extern std::atomic<std::uint32_t> slab_rest_ms;

}  // namespace millrace::shm
