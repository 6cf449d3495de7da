// Whose the references are that go into a message by which a process begins.
//
// The references of other messages, and those of handles in shared memory, are held by nobody in
// particular: whoever drops one takes it out of a count that all share, and a process killed in
// there leaves one too many for good. Those of such a message are its process's instead, from the
// moment they are made, before that process exists: its table of references (ref_table.hpp) counts
// them, and whenever it is dead, or was never made, its reaper drops what the table still holds.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "shm/layout.hpp"

namespace millrace::shm {

/// A block of the arena that is a part of a message: handles may lie in it.
struct MessageBlock {
  const void* begin = nullptr;
  std::size_t bytes = 0;
};

/// While one lives, references that this thread puts into a message or takes out of one, and those
/// of handles in the message's blocks, are those of process `id`: a reservation of this process's,
/// this process itself, or one that it reaps.
class InMessage {
 public:
  /// Blocks that are allocated meanwhile are added to `blocks`.
  InMessage(ProcessId id, std::vector<MessageBlock>& blocks) noexcept
      : id_(id), blocks_(&blocks), before_(std::exchange(current_, this)) {}
  /// For one block, or none.
  InMessage(ProcessId id, MessageBlock block) noexcept
      : id_(id), block_(block), before_(std::exchange(current_, this)) {}
  InMessage(const InMessage&) = delete;
  InMessage& operator=(const InMessage&) = delete;
  ~InMessage() { current_ = before_; }

  /// kNobody: no such message is under way in this thread.
  static ProcessId id() noexcept { return current_ == nullptr ? kNobody : current_->id_; }
  /// The same for a handle at `holder`.
  static ProcessId id_at(const void* holder) noexcept {
    return current_ != nullptr && current_->covers(holder) ? current_->id_ : kNobody;
  }
  /// Before a block is allocated: there will be room to add it. Throws std::bad_alloc.
  static void expect_block() {
    if (current_ != nullptr && current_->blocks_ != nullptr) current_->blocks_->emplace_back();
  }
  /// The block that was expected; {} when there is none.
  static void add_block(MessageBlock block) noexcept {
    if (current_ != nullptr && current_->blocks_ != nullptr) current_->blocks_->back() = block;
  }
  static void remove_block(const void* begin) noexcept {
    if (current_ == nullptr || current_->blocks_ == nullptr) return;
    std::erase_if(*current_->blocks_, [begin](const auto& one) { return one.begin == begin; });
  }

 private:
  friend class OutsideMessage;

  [[nodiscard]] bool covers(const void* holder) const noexcept {
    const auto in = [holder](const MessageBlock& block) {
      return static_cast<std::size_t>(static_cast<const std::byte*>(holder) -
                                      static_cast<const std::byte*>(block.begin)) < block.bytes;
    };
    if (blocks_ == nullptr) return in(block_);
    for (const MessageBlock& one : *blocks_) {
      if (in(one)) return true;
    }
    return false;
  }

  ProcessId id_;
  MessageBlock block_;
  std::vector<MessageBlock>* blocks_ = nullptr;
  InMessage* before_;

  static inline thread_local constinit InMessage* current_ = nullptr;
};

/// While one lives, this thread is at something else: what one object in shared memory refers to,
/// or another message.
class OutsideMessage {
 public:
  OutsideMessage() noexcept : before_(std::exchange(InMessage::current_, nullptr)) {}
  OutsideMessage(const OutsideMessage&) = delete;
  OutsideMessage& operator=(const OutsideMessage&) = delete;
  ~OutsideMessage() { InMessage::current_ = before_; }

 private:
  InMessage* before_;
};

}  // namespace millrace::shm
