// A lock: one word that names the process that holds it, and a turnstile for those who wait.
//
// Any process may call anything; who gives back need not be who took (Python's Lock has no owner).
// The word is the owner's ProcessId, 0 = free; zero-filled memory is a free lock.
//
// Invariants
//  1. The word changes from 0 to an owner, from an owner to 0, and from a dead owner to a live one,
//     each by one read-modify-write. So at every instant the lock is free or names its owner: there
//     is no moment at which a death would leave it held by nobody in particular.
//  2. Who takes a dead owner's place learns so, once: the compare-and-swap is won by one.
//
// When a process dies between any two steps
//  - while it holds: the word names it; the next to come takes its place (inherit), a waiter within
//    a slice of the turnstile;
//  - in take(), before the compare-and-swap: as any dead waiter of a turnstile;
//  - in give(), behind the exchange: the lock is free, a sleeper may find that out a slice late.
//
// Progress: try_take(), give(), inherit() are wait-free but for what `gone` costs; take() blocks.
// No system call while there is no contention.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/turnstile.hpp"

namespace millrace::shm {

template <class P>
class BasicLockWord {
 public:
  /// How a call of take() went: `from` is the dead process whose place was taken, else 0.
  struct Taken {
    bool taken = false;
    ProcessId from = 0;
  };

  /// As try_take(), but gives up where that would have to look closer.
  bool try_quickly(ProcessId me) noexcept { return turns_.open() && grab(me); }
  /// Takes the lock if it is free. Memory ordering: acquire of what its last holder did.
  bool try_take(ProcessId me) noexcept {
    if (!turns_.open() && (owner() != 0 || !turns_.knock())) return false;
    return grab(me);
  }

  /// Takes the place of an owner of which `gone(owner)` says that it is dead. Returns the dead
  /// one's id, 0 when there was none or another was faster.
  template <class Gone>
  ProcessId inherit(ProcessId me, Gone&& gone) {
    // INHERIT lock: acquire pairs with TAKE lock; whatever the dead owner wrote last is visible by
    // its death, which `gone` has observed.
    ProcessId dead = word_.load(std::memory_order_acquire);
    if (dead == 0 || dead == me || !gone(dead)) return 0;
    // TAKE lock: acq_rel, as in grab(), and hands on what the one before released.
    const bool won = word_.compare_exchange_strong(dead, me, std::memory_order_acq_rel,
                                                   std::memory_order_relaxed);
    return won ? dead : 0;
  }

  /// Waits for the lock. `gone` is asked about the owner after every slice without news.
  template <class Gone, class Pacing>
  Taken take(ProcessId me, Gone&& gone, Pacing& pace) {
    Taken result;
    result.taken = turns_.wait([&] { return grab(me); },
                               [&] {
                                 result.from = inherit(me, gone);
                                 return result.from != 0;
                               },
                               pace);
    return result;
  }

  /// Frees the lock and wakes one who waits. False when it was free.
  /// Memory ordering: release of what was done under the lock.
  bool give() noexcept {
    // GIVE lock: release pairs with TAKE lock. seq_cst: before the look for sleepers
    // (turnstile.hpp)
    if (word_.exchange(0, std::memory_order_seq_cst) == 0) return false;
    turns_.wake_one();
    return true;
  }

  /// Who holds it, 0: nobody. A stale answer is one that was true a moment ago.
  [[nodiscard]] ProcessId owner() const noexcept {
    return word_.load(
        std::memory_order_relaxed);  // a number; the lock itself orders what it guards
  }
  /// True when a look is worth a try.
  [[nodiscard]] bool looks_free() const noexcept { return owner() == 0 && turns_.open(); }

 private:
  bool grab(ProcessId me) noexcept {
    ProcessId free = 0;
    // TAKE lock: acquire pairs with GIVE lock, the next holder sees what the last one did.
    return word_.compare_exchange_strong(free, me, std::memory_order_acquire,
                                         std::memory_order_relaxed);
  }

  typename P::template Atomic<std::uint32_t> word_{0};
  BasicTurnstile<P> turns_;
};

using LockWord = BasicLockWord<TurnPlatform>;
static_assert(sizeof(LockWord) == 16 && std::is_standard_layout_v<LockWord>);

}  // namespace millrace::shm
