// A lane: a ring of bytes from which one process allocates its messages' payloads. Other processes
// release them, in any order; nobody takes a lock.
//
//   Lane      head, tail: positions in units of 64 bytes, counted on for ever; the owner's
//   unit 0..  messages, each a 16-byte MessageHead and its payload, contiguous, whole units
//
// try_allocate() is called by one thread at a time, of the process that owns the lane; release() by
// anybody, once for each message. Invariants
//  1. [tail, head) is filled with messages without a gap; a message that would cross the end of the
//     ring is preceded by a filler, which is born free.
//  2. A message's units are constant from before head passes it until tail passes it. Only its
//     state changes, taken to free, once.
//  3. Progress: both operations are wait-free but for the steps of tail over free messages, each of
//     which is passed once.
// A process killed between any two steps: the owner leaves either no message or a whole one that
// was not sent; whoever takes the lane over, or buries it, calls sweep() and says which messages
// are still on their way. A releaser leaves a message taken, to be swept likewise.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/placement.hpp>

#include "shm/layout.hpp"

namespace millrace::shm {

class Lane {
 public:
  /// A lane of at least `capacity_bytes` for messages and their heads, owned as arena memory by
  /// this process. Throws what Arena::allocate() throws.
  static Lane* create(std::size_t capacity_bytes, const Placement& placement = {});
  /// Frees the lane; no message of it may be in use.
  static void destroy(Lane* lane) noexcept;

  /// Room for `bytes` (aligned to 16), nullptr when it is not there now, or never is because
  /// `bytes` exceed largest_message(). Throws Corrupt when the lane was damaged.
  void* try_allocate(std::size_t bytes);
  /// Gives a message back. False, and nothing done, when it is none or was given back before.
  /// Memory ordering: release; what was read from the message comes before what is written next.
  static bool release(void* message) noexcept;

  /// Releases every message for which `in_flight(message)` is false. For the process that takes the
  /// lane over from a dead owner, before it allocates.
  template <class InFlight>
  void sweep(InFlight&& in_flight) {
    for (void* m = first_taken(); m != nullptr; m = next_taken(m)) {
      if (!in_flight(m)) release(m);
    }
  }

  [[nodiscard]] std::size_t capacity() const noexcept { return units_ * kCacheLine; }
  [[nodiscard]] std::size_t largest_message() const noexcept;
  /// Messages taken and not released, for tests.
  [[nodiscard]] std::size_t messages_in_use();

  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

 private:
  struct MessageHead;

  explicit Lane(std::uint64_t units) noexcept : units_(units) {}
  [[nodiscard]] MessageHead& at(std::uint64_t position) noexcept;
  [[nodiscard]] std::uint64_t units_at(std::uint64_t position);
  void reclaim();
  void append(std::uint64_t units, std::uint32_t state) noexcept;
  void* taken_from(std::uint64_t position);
  void* first_taken();
  void* next_taken(void* message);

  const std::uint64_t units_;
  alignas(kCacheLine) std::atomic<std::uint64_t> head_{0};
  std::atomic<std::uint64_t> tail_{0};
};

}  // namespace millrace::shm
