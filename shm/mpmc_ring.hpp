// The queue of mpmc_core.hpp over memory it is handed, with waiting: the heap for threads, the
// arena between processes.
//
//   header | geometry | head | tail | items spot | room spot | - |     one line each
//   slots  | state, value |                                            where: mpmc_core.hpp
//
// A value of up to 8 bytes takes 32 bytes of memory, of up to 24 bytes 64, of up to 56 bytes 128.
//
// Any thread of any process may push and pop, as the id it is known by in the deaths view. Threads
// of one process share its id: then the order of that process's items is the order of their claims.
//
// Wake-ups: try_push and try_pop wake nobody; push and pop do, and so must a caller of the former
// by wake_consumer() and wake_producer() when others may wait. One waiter is woken per value or
// free slot. A slot may become free, or readable, while the one before it still blocks the way, so
// the waiter that was woken for it sleeps again; when the way is clear only one wake-up comes.
// Therefore whoever has slept and then succeeded wakes the next one while there may be more.
//
// When a process dies it may take a wake-up along: whoever establishes the death calls rouse(). Who
// waits without being roused looks again after a slice, and asks the kernel after the owner of the
// slot in its way.
#pragma once

#include <bit>
#include <cstddef>
#include <new>
#include <type_traits>

#include "shm/mpmc_core.hpp"
#include "shm/parking.hpp"

namespace millrace::shm {

/// The first lines of a ring. See the head of this file.
struct MpmcHeader {
  // Written at creation, read by attach().
  alignas(64) std::uint64_t magic;
  std::uint64_t slot_count;
  std::uint64_t slot_bytes;
  MpmcHints hints;
  // Consumers sleep on items, producers on room; written only around sleeps.
  alignas(64) ParkingSpot items;
  alignas(64) ParkingSpot room;
  alignas(64) std::uint64_t reserved;  // so that slots begin where 128 bytes do if the ring does
};
static_assert(sizeof(MpmcHeader) == 6 * 64);

/// The smallest allowed count of slots at or above `wanted`; ValueError if it is beyond reason.
std::uint64_t mpmc_slot_count(std::size_t wanted);
void mpmc_create(void* memory, std::uint64_t slot_count, std::uint64_t slot_bytes);
/// The count of slots of the ring made in these `bytes`; Corrupt if there is none with such slots.
std::uint64_t mpmc_attach(const void* memory, std::size_t bytes, std::uint64_t slot_bytes);

/// A ring as one process sees it, its geometry checked once. Cheap to copy; owns nothing.
template <class T>
class MpmcRing : public MpmcCore<T> {
  static_assert(std::is_trivially_copyable_v<T>, "values cross processes as bytes");
  using Core = MpmcCore<T>;
  using Slot = typename Core::Slot;

 public:
  using Scan = typename Core::Scan;

  /// How much memory a ring of at least `slot_count` slots takes.
  static std::size_t bytes_for(std::size_t slot_count) {
    return sizeof(MpmcHeader) + Core::spread(mpmc_slot_count(slot_count)) * sizeof(Slot);
  }
  /// Makes an empty ring in 64-byte aligned memory of bytes_for(slot_count) bytes.
  static MpmcRing create(void* memory, std::size_t slot_count) {
    const std::uint64_t count = mpmc_slot_count(slot_count);
    MpmcRing ring(memory, count);
    for (std::uint64_t i = 0; i < Core::spread(count); ++i) new (&ring.slots_[i]) Slot{};
    mpmc_create(memory, count, sizeof(Slot));
    return ring;
  }
  /// The ring that create() made in these `bytes` of memory, in any process; Corrupt if it is none.
  static MpmcRing attach(void* memory, std::size_t bytes) {
    return {memory, mpmc_attach(memory, bytes, sizeof(Slot))};
  }

  [[nodiscard]] std::uint64_t slot_count() const noexcept { return this->mask_ + 1; }

  /// Waits until there is room and puts the value in; false when the deadline passed.
  template <DeathsView V>
  bool push(V& view, std::uint32_t me, const T& value, const WaitPolicy& policy = {},
            Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max()) {
    std::uint32_t blocker = 0;
    const auto attempt = [&] {
      return this->try_push(view, me, value, &blocker) == RingResult::done;
    };
    const Outcome outcome = wait(view, header_->room, attempt, blocker, policy, deadline);
    if (outcome == Outcome::slept && this->maybe_room()) wake_producer();
    if (outcome != Outcome::failed) wake_consumer();
    return outcome != Outcome::failed;
  }

  /// Waits for a value and takes it; false when the deadline passed.
  template <DeathsView V>
  bool pop(V& view, std::uint32_t me, Scan& scan, T& value, const WaitPolicy& policy = {},
           Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max()) {
    const auto attempt = [&] { return this->try_pop(view, me, scan, value) == RingResult::done; };
    const Outcome outcome = wait(view, header_->items, attempt, scan.blocker, policy, deadline);
    if (outcome == Outcome::slept && this->maybe_item()) wake_consumer();
    if (outcome != Outcome::failed) wake_producer();
    return outcome != Outcome::failed;
  }

  /// Wakes one sleeping consumer, or producer, if there is one; after a try_push, or a try_pop.
  void wake_consumer() noexcept { header_->items.notify_one(); }
  void wake_producer() noexcept { header_->room.notify_one(); }
  /// Wakes everybody: for whoever establishes a death.
  void rouse() noexcept {
    header_->items.rouse();
    header_->room.rouse();
  }

 private:
  enum class Outcome { at_once, slept, failed };

  MpmcRing(void* memory, std::uint64_t count) noexcept
      : Core(static_cast<MpmcHeader*>(memory)->hints,
             reinterpret_cast<Slot*>(static_cast<MpmcHeader*>(memory) + 1), count),
        header_(static_cast<MpmcHeader*>(memory)) {}

  template <DeathsView V, class Attempt>
  static Outcome wait(V& view, ParkingSpot& spot, Attempt& attempt, std::uint32_t& blocker,
                      const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
    if (attempt()) return Outcome::at_once;
    // A caller's own look at whom it waits for comes first, then the owner of the slot in the way.
    struct Look {
      V& view;
      std::uint32_t& blocker;
      const WaitPolicy& policy;
    } look{view, blocker, policy};
    WaitPolicy looking = policy;
    looking.argument = &look;
    looking.on_long_wait = [](void* argument) {
      auto& [seen_by, owner, outer] = *static_cast<Look*>(argument);
      if (outer.on_long_wait != nullptr) outer.on_long_wait(outer.argument);
      if (owner != 0) seen_by.check_alive(owner);
    };
    return wait_until(spot, attempt, looking, deadline) ? Outcome::slept : Outcome::failed;
  }

  MpmcHeader* header_;
};

}  // namespace millrace::shm
