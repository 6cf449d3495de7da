// Where a piece of a job is encoded: in the task's own slot while it is small enough, else in a
// block of the node's payload memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <millrace/serialize.hpp>

#include "runtime/base/block_cache.hpp"

namespace millrace::runtime {

class PieceWriter final : public wire::Writer {
 public:
  /// Begins a piece in `bytes` bytes at `place`; grows into blocks of `cache`.
  void begin(std::byte* place, std::size_t bytes, BlockCache& cache) noexcept {
    clear();
    cache_ = &cache;
    block_ = {};
    rebase(place, place, place + bytes);
  }
  /// Sees to it that the piece lies in a block with `reply` bytes free behind it.
  void make_room(std::size_t reply) {
    const std::size_t need = aligned(size()) + reply;
    if (block_.data == nullptr || block_.capacity < need) move_to(need);
  }
  /// The block, if the piece needed one; it is the caller's to give back.
  [[nodiscard]] BlockCache::Block block() const noexcept { return block_; }
  /// Gives block and references back: nobody has seen the piece.
  void drop() noexcept {
    revert(0);
    if (block_.data != nullptr) cache_->give(block_);
    block_ = {};
    rebase(nullptr, nullptr, nullptr);
  }
  /// The same when the piece has ended: a reply may lie where it was, `copy` is what was there.
  void drop(std::byte* copy) noexcept {
    if (block_.data == nullptr && holds_references()) rebase(copy, copy + size(), copy + size());
    drop();
  }
  /// Where a reply may begin behind `size` bytes of payload.
  static constexpr std::size_t aligned(std::size_t bytes) noexcept {
    return (bytes + 63) & ~std::size_t{63};
  }

 protected:
  void grow(std::size_t more) override {
    const std::size_t need = size() + more;
    move_to(need < 2 * size() ? 2 * size() : need);
  }

 private:
  void move_to(std::size_t bytes) {
    const std::size_t used = size();
    const BlockCache::Block next = cache_->take(bytes);
    if (used != 0) std::memcpy(next.data, data(), used);
    if (block_.data != nullptr) cache_->give(block_);
    block_ = next;
    rebase(next.data, next.data + used, next.data + next.capacity);
  }

  BlockCache* cache_ = nullptr;
  BlockCache::Block block_{};
};

}  // namespace millrace::runtime
