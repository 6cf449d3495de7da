// Payload memory of one node: blocks that the parent fills, workers read and write, and the parent
// takes back. Only the parent allocates and frees, so no worker's death can harm it.
#pragma once

#include <cstddef>
#include <vector>

#include "shm/arena.hpp"

namespace millrace::runtime {

/// Blocks by size class, the most recently freed first: it is the one still in the cache.
class BlockCache {
 public:
  struct Block {
    std::byte* data = nullptr;
    std::size_t capacity = 0;
  };

  explicit BlockCache(const shm::Placement& placement) : placement_(placement) {}
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;
  ~BlockCache();

  /// A block of at least `bytes`. Throws std::system_error when the arena has no room.
  Block take(std::size_t bytes);
  /// Gives a block back.
  void give(Block block) noexcept;

 private:
  static constexpr std::size_t kSmallest = std::size_t{64} << 10;  // below it: the arena's slabs
  static constexpr int kClasses = 5;                               // 64 KiB to 1 MiB
  static constexpr std::size_t kSpan = std::size_t{2} << 20;

  static int class_of(std::size_t bytes) noexcept;

  shm::Placement placement_;
  std::vector<std::byte*> free_[kClasses];
  std::size_t blocks_[kClasses] = {};  // of each class, given out or not
  std::vector<std::byte*> spans_;
};

}  // namespace millrace::runtime
