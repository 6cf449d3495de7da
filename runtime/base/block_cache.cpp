#include "runtime/base/block_cache.hpp"

#include <bit>

namespace millrace::runtime {

BlockCache::~BlockCache() {
  for (std::byte* span : spans_) shm::Arena::instance().deallocate(span);
}

int BlockCache::class_of(std::size_t bytes) noexcept {
  const std::size_t size = std::bit_ceil(bytes < kSmallest ? kSmallest : bytes);
  return std::countr_zero(size) - std::countr_zero(kSmallest);
}

BlockCache::Block BlockCache::take(std::size_t bytes) {
  if (bytes <= kSmallest / 2) {
    const std::size_t size = std::bit_ceil(bytes < 64 ? std::size_t{64} : bytes);
    return {static_cast<std::byte*>(shm::Arena::instance().allocate(size, placement_)), size};
  }
  const int kind = class_of(bytes);
  if (kind >= kClasses) {
    return {static_cast<std::byte*>(shm::Arena::instance().allocate(bytes, placement_)), bytes};
  }
  const std::size_t size = kSmallest << kind;
  auto& list = free_[kind];
  if (list.empty()) {
    // Room for every block of this class there is: give() must not allocate.
    blocks_[kind] += kSpan / size;
    list.reserve(blocks_[kind]);
    spans_.reserve(spans_.size() + 1);
    auto* span = static_cast<std::byte*>(shm::Arena::instance().allocate(kSpan, placement_));
    spans_.push_back(span);
    // The lowest block last, so that it is taken first: a short job touches few pages.
    for (std::size_t at = kSpan; at != 0; at -= size) list.push_back(span + at - size);
  }
  std::byte* block = list.back();
  list.pop_back();
  return {block, size};
}

void BlockCache::give(Block block) noexcept {
  if (block.data == nullptr) return;
  const int kind = class_of(block.capacity);
  if (block.capacity < kSmallest || kind >= kClasses) {
    shm::Arena::instance().deallocate(block.data);
  } else {
    free_[kind].push_back(block.data);  // room was reserved when the span was cut up
  }
}

}  // namespace millrace::runtime
