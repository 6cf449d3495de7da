// Memory that two authenticated programs of one host share beside the socket of their Connection:
// bytes of long messages lie in it, everything that is waited for stays in the socket.
//
// The connecting side makes it, a sealed memfd whose name holds a random number, and offers it by
// {process, descriptor, number}; the accepting side opens it through /proc. Only a process of the
// same kernel, user and pid namespace finds a memory of that name there, so the number proves all
// of this at once; whoever finds none goes on with the socket alone, and so does his peer. Which
// of the two a message takes is said in the message's head (socket_calls.hpp).
//
//   lane 0, from the connecting side to the accepting one  | head: 4 KiB | area |
//   lane 1, the other way                                  | head: 4 KiB | area |
//
// Invariants
// 1. The peer may write anything anywhere at any time. Nothing that is read here decides about an
//    address or a length: both sides count positions in memory of their own, and the two words of
//    the head only say how much room there is and whether to use the lane at all. At worst the
//    peer spoils the contents of messages between the two.
// 2. The size is sealed, so that no access faults.
// 3. A sender uses a lane once the receiver has mapped it; a receiver maps it when it has got a
//    long message over the socket. Connections without long messages cost a descriptor a side.
// 4. All processes that share an end have the descriptor: by fork, or as it travels.
//
// When a process dies between any two steps: the memory is the kernel's, and goes with its last
// descriptor and mapping. What the dead was about to say is told by the socket's end of file.
//
// Lost: SCM_RIGHTS (a relay between the two drops the descriptor, and TCP has none); files in
// /dev/shm (cannot be sealed: a peer that shortens one kills whoever looks at it); a ring that is
// waited at by futex (the descriptor of a Connection would no longer tell what is there, and the
// peer's death nothing at all).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/descriptor.hpp"

namespace millrace::runtime {

/// What a connecting side says that has no memory to offer.
inline constexpr std::string_view kNoOffer = "#MEMORY#";

/// Memory to offer to a peer, and the frame that does so.
struct OfferedMemory {
  Descriptor memory;
  std::string frame;
};
/// Where no memory can be had the frame says so. Throws std::bad_alloc.
OfferedMemory offer_memory();
/// The memory that a frame of the peer's offers; none when it cannot be had, or the frame is no
/// offer.
Descriptor accept_memory(std::string_view frame) noexcept;

/// One direction of the memory, mapped into this process.
class PeerLane {
 public:
  /// As long as a piece may lie in it unread: small enough to stay in the cpus' caches.
  static constexpr std::size_t kArea = std::size_t{1} << 20U;
  static constexpr std::size_t kHead = 4096;

  PeerLane() noexcept = default;
  PeerLane(const PeerLane&) = delete;
  PeerLane& operator=(const PeerLane&) = delete;
  ~PeerLane() { unmap(); }

  /// Maps it if it is not; false if that fails. `lane`: 0 or 1.
  bool map(const Descriptor& memory, std::uint32_t lane) noexcept;
  void unmap() noexcept;
  [[nodiscard]] bool mapped() const noexcept { return head_ != nullptr; }

  // The rest only once it is mapped. Positions count all bytes that ever went through the lane.

  /// The receiver can read here from now on.
  void open() noexcept {
    // PUBLISH lane: nothing but the word itself is read after it
    head_->open.store(1, std::memory_order_release);
  }
  [[nodiscard]] bool is_open() const noexcept {
    // OBSERVE lane: as there
    return head_->open.load(std::memory_order_acquire) == 1;
  }
  /// How many bytes fit behind `sent`, at most to the end of the area.
  [[nodiscard]] std::size_t room(std::uint64_t sent) const noexcept {
    // OBSERVE taken: what lies there was copied before it is written over
    const std::uint64_t unread = sent - head_->taken.load(std::memory_order_acquire);
    if (unread > kArea) return 0;  // the peer's word is not to be believed
    const std::uint64_t free = kArea - unread;
    return free < contiguous(sent) ? free : contiguous(sent);
  }
  /// The receiver has read everything before `position`.
  void take(std::uint64_t position) noexcept {
    // PUBLISH taken: after the copies
    head_->taken.store(position, std::memory_order_release);
  }
  [[nodiscard]] std::byte* at(std::uint64_t position) const noexcept {
    return area_ + position % kArea;
  }
  /// From there to the end of the area.
  [[nodiscard]] static std::size_t contiguous(std::uint64_t position) noexcept {
    return kArea - position % kArea;
  }

 private:
  struct Head {
    alignas(64) std::atomic<std::uint64_t> taken;
    alignas(64) std::atomic<std::uint32_t> open;
  };
  static_assert(sizeof(Head) <= kHead && std::atomic<std::uint64_t>::is_always_lock_free);

  Head* head_ = nullptr;
  std::byte* area_ = nullptr;
};

}  // namespace millrace::runtime
