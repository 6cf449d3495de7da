// Where an item is encoded on its way into a queue.
#include <algorithm>
#include <cstring>
#include <millrace/queue_handles.hpp>

#include "shm/arena.hpp"

namespace millrace::runtime {

void ItemWriter::grow(std::size_t more) {
  const std::size_t need = size() + more;
  move_to(std::max(need, 2 * size()));
}

void ItemWriter::move_to_block() { move_to(std::max<std::size_t>(size(), 1)); }

void ItemWriter::move_to(std::size_t bytes) {
  auto* next = static_cast<std::byte*>(shm::allocate(bytes));
  const std::size_t used = size();
  std::memcpy(next, data(), used);
  shm::deallocate(block_);
  block_ = next;
  rebase(next, next + used, next + bytes);
}

void ItemWriter::sent() noexcept {
  clear();
  block_ = nullptr;
  rebase(here_, here_, here_ + sizeof here_);
}

void ItemWriter::drop() noexcept {
  revert(0);
  shm::deallocate(block_);
}

}  // namespace millrace::runtime
