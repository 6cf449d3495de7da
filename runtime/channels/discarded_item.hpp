// An item of a queue that nobody will take, while what it refers to is given back.
//
// That is done by decoding it, as only its type knows what is inside (discard_item<T>). What would
// ask another process to become usable looks here first, and only gives its reference back: this is
// done by destructors, and for the dead.
#pragma once

#include <cstddef>
#include <millrace/wire/buffer.hpp>

namespace millrace::runtime {

/// While it exists this thread gives back what the bytes refer to. They may nest.
class DiscardedItem {
 public:
  DiscardedItem(const std::byte* item, std::size_t bytes) noexcept;
  DiscardedItem(const DiscardedItem&) = delete;
  DiscardedItem& operator=(const DiscardedItem&) = delete;
  ~DiscardedItem();

  /// True when `in`, which owns what it refers to, stands in such an item: messages that a value's
  /// destructor reads meanwhile are none.
  static bool is_read_by(wire::Reader& in) noexcept;

 private:
  const std::byte* const begin_;
  const std::byte* const end_;
  const DiscardedItem* const outer_;
};

}  // namespace millrace::runtime
