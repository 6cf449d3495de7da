// A counting semaphore: how many permits there are, and a turnstile for those who wait for one.
//
// Any process may call anything. It counts events and has no owner: what a dead process had taken
// stays taken. Memory of zeroes is a semaphore without permits.
//
// When a process dies between any two steps: each call changes the count in one read-modify-write,
// so it was made or not. Around it, as turnstile.hpp says.
// Progress: try_take() and give() are lock-free; take() blocks. No system call unless some wait.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/turnstile.hpp"

namespace millrace::shm {

template <class P>
class BasicSemaphoreWord {
 public:
  /// The largest count, SEM_VALUE_MAX of Linux.
  static constexpr std::uint32_t kMost = 0x7fffffff;

  /// For one that nobody else sees yet.
  void start_with(std::uint32_t count) noexcept {
    count_.store(count, std::memory_order_relaxed);  // shared later, by an edge of its own
  }

  /// As try_take(), but gives up where that would have to look closer.
  bool try_quickly() noexcept { return turns_.open() && grab(); }
  /// Takes a permit if there is one. Memory ordering: acquire of what came before its release.
  bool try_take() noexcept { return (turns_.open() || (count() != 0 && turns_.knock())) && grab(); }

  /// Waits for a permit; false at the pace's deadline.
  template <class Pacing>
  bool take(Pacing& pace) {
    const bool taken = turns_.wait([&] { return grab(); }, [] { return false; }, pace);
    if (taken && count() != 0) turns_.pass_on();
    return taken;
  }

  /// Adds a permit and wakes one who waits. False when there are kMost.
  /// Memory ordering: release of what the caller did before.
  bool give() noexcept {
    std::uint32_t seen = count_.load(std::memory_order_relaxed);  // a guess, the exchange decides
    while (seen < kMost) {
      if (give_at(seen)) return true;
    }
    return false;
  }
  /// The same, but gives up where somebody else changes the count.
  bool give_quickly() noexcept {
    std::uint32_t seen = count_.load(std::memory_order_relaxed);  // a guess, the exchange decides
    return seen < kMost && give_at(seen);
  }

  /// How many there are; true a moment ago.
  [[nodiscard]] std::uint32_t count() const noexcept {
    return count_.load(std::memory_order_relaxed);  // a number
  }

 private:
  bool give_at(std::uint32_t& seen) noexcept {
    // GIVE permit: release pairs with TAKE permit. seq_cst: before the look for sleepers
    // (turnstile.hpp)
    if (!count_.compare_exchange_strong(seen, seen + 1, std::memory_order_seq_cst,
                                        std::memory_order_relaxed)) {
      return false;
    }
    turns_.wake_one();
    return true;
  }
  bool grab() noexcept {
    std::uint32_t seen = count_.load(std::memory_order_relaxed);  // a guess, the exchange decides
    while (seen != 0) {
      // TAKE permit: acquire pairs with GIVE permit.
      if (count_.compare_exchange_weak(seen, seen - 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  typename P::template Atomic<std::uint32_t> count_{0};
  BasicTurnstile<P> turns_;
};

using SemaphoreWord = BasicSemaphoreWord<TurnPlatform>;
static_assert(sizeof(SemaphoreWord) == 16 && std::is_standard_layout_v<SemaphoreWord>);

}  // namespace millrace::shm
