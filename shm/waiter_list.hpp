// Who waits for a condition: one slot a waiter, in blocks of shared memory chained to each other.
//
// Waiters are entered, and chosen to be notified, by whoever holds the condition's lock; they leave
// and pass on without it. A slot's word is {owner:26, state:2}, one of
//   0         free
//   kWaiting  its owner sleeps, or is about to
//   kNotified it may go on: it clears the slot when it has the lock again, or was killed
//
// Invariants
//  1. A slot is taken by a compare-and-swap of 0 to its owner, and freed by its owner, or by
//  whoever
//     finds the owner dead. notify() changes kWaiting to kNotified, once per notification.
//  2. A notification is used up when its waiter clears the slot. One whose waiter died before that
//     is passed on to another, by notify() or by a waiter that has waited for a slice: nobody's
//     death swallows it.
//  3. Who came first is notified first: order grows with each entry (it is written before the word,
//     under the lock; two of one order, left by a dead waiter, do no harm).
//
// When a process dies between any two steps
//  - a block was made and not chained: it belongs to the dead and goes with it;
//  - as a waiter: its slot names it (1, 2);
//  - as a notifier, between word and wake-up: the waiter finds out after a slice.
//
// Progress: enter() and notify() look at each slot once; wait() blocks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/parking.hpp"

namespace millrace::shm {

class WaiterList {
 public:
  static constexpr std::size_t kSlots = 40;

  class Slot {
   public:
    /// Waits until notified; false at the deadline, after which give_up() decides. May throw what
    /// the policy throws.
    bool wait(const WaitPolicy& policy, Timeout::Clock::time_point deadline);
    /// The owner does not wait any more. False: it was notified and has to leave() later.
    bool give_up(ProcessId me) noexcept;
    /// The owner, notified, has gone on.
    void leave() noexcept;

   private:
    friend class WaiterList;
    std::atomic<std::uint32_t> word_;
    std::atomic<std::uint32_t> order_;
    ParkingSpot spot_;
    std::uint32_t unused_;
  };

  /// A slot for the caller, who holds the lock. Throws std::system_error when there is no memory
  /// for more.
  Slot& enter(ProcessId me);
  /// Notifies the first `n` that wait; the caller holds the lock.
  void notify(std::uint64_t n);
  /// Passes on what was notified to the dead. Any thread, with or without the lock.
  void rescue() noexcept;
  /// How many wait; each did a moment ago.
  [[nodiscard]] std::uint32_t waiting() const noexcept;

 private:
  template <class Visit>
  void each(Visit&& visit) const;
  [[nodiscard]] WaiterList* next() const noexcept;
  void add_block();
  bool notify_first() noexcept;
  void notify_everybody() noexcept;
  template <class Gone>
  void rescue_from(Gone&& gone) noexcept;

  // Address of a block of the same layout, or 0; the object's first link, so it comes first.
  // Written once, under the lock.
  std::atomic<std::uint64_t> next_;
  std::atomic<std::uint32_t> last_order_;  // of the first block, under the lock
  std::uint32_t unused_;
  mutable std::array<Slot, kSlots> slots_;
};

}  // namespace millrace::shm
