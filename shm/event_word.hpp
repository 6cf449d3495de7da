// An event: a flag that processes wait for. One word {epoch:31, set:1}; the epoch changes whenever
// the flag becomes set, so that who waits when it is set goes on even if it is cleared at once.
//
// Any process may call anything; zero-filled memory is an event that is not set.
//
// When a process dies between any two steps: the word changes in one read-modify-write; dead
// between it and the wake-up, a setter leaves waiters that find out within a slice, or with the
// next set(). Progress: set(), clear() and is_set() are lock-free; wait() blocks. No system call
// unless some wait.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/parking.hpp"

namespace millrace::shm {

class EventWord {
 public:
  /// Memory ordering: acquire of what came before set().
  [[nodiscard]] bool is_set() const noexcept {
    return (word_.load(std::memory_order_acquire) & kSet) != 0;  // OBSERVE event: pairs with set()
  }

  /// Sets the flag and wakes all who wait. Memory ordering: release.
  void set() noexcept {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);  // a guess, the exchange decides
    // PUBLISH event: release pairs with OBSERVE event; the barrier of notify_all() follows. When it
    // is set already the setter before may have died before it woke anybody.
    while ((seen & kSet) == 0 &&
           !word_.compare_exchange_weak(seen, (seen + kEpoch) | kSet, std::memory_order_acq_rel,
                                        std::memory_order_relaxed)) {
    }
    spot_.notify_all();
  }

  void clear() noexcept {
    word_.fetch_and(~kSet, std::memory_order_relaxed);  // nothing is published by it
  }

  /// Waits until it is set, or was set in the meantime; false at the deadline.
  bool wait(const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
    // OBSERVE event: acquire
    const std::uint32_t before = word_.load(std::memory_order_acquire);
    if ((before & kSet) != 0) return true;
    const auto ready = [&] {
      // OBSERVE event: acquire
      const std::uint32_t now = word_.load(std::memory_order_acquire);
      return (now & kSet) != 0 || (now ^ before) >= kEpoch;
    };
    return wait_until(spot_, ready, policy, deadline);
  }

 private:
  static constexpr std::uint32_t kSet = 1;
  static constexpr std::uint32_t kEpoch = 2;

  std::atomic<std::uint32_t> word_{0};
  ParkingSpot spot_;
};
static_assert(sizeof(EventWord) == 8 && std::is_standard_layout_v<EventWord>);

}  // namespace millrace::shm
