// A barrier: `parties` threads of any processes wait for each other, again and again.
//
// Any process may call anything. The state is one word {phase:8, count:24, generation:32}; beside
// it stand two rows of `parties` slots, {owner:32, generation:32}, one row for the generations of
// either parity: who has arrived in this one, and who had in the one before.
//
//   kFilling    `count` have arrived; the last one ends the generation
//   kActing     all have; the last one runs its action
//   kBroken     those inside leave with an error, and so does who comes, until reset
//   kResetting  those inside leave with an error; the last of them, or whoever comes, goes on
//
// An arrival takes a slot, then is counted by a compare-and-swap of the state. Invariants
//  1. The generation changes from kActing or the last arrival's kFilling (everybody passes), and
//     from kResetting once every slot of the row is empty or its owner dead. So who finds another
//     generation than the one it arrived in, and had not left before, has passed.
//  2. An index is given to one arrival: it is the count that its compare-and-swap changed.
//  3. A slot is taken by a compare-and-swap of one that is empty or of an older generation. Who
//     took one and then finds that the state has moved on empties it and begins anew.
//
// When a process dies between any two steps
//  - after it took a slot: its slot names it; those who wait look after a slice and break the
//    barrier, counted or not, acting or not; so does the last to come, for a death that is known,
//    and where they sleep for that of all who are inside;
//  - after it ended the generation, before it woke the others: they find out after a slice;
//  - in kResetting: the next to come goes on from there.
//  Who passed and was killed afterwards is found in the other row, and breaks the barrier for those
//  who wait for it. Who passed and ended in another way does not: a barrier may see processes come
//  and go.
//
// Progress: wait() blocks; everything else is lock-free. No system call unless some sleep.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/parking.hpp"

namespace millrace::shm {

class Barrier {
 public:
  static constexpr std::uint32_t kMostParties = (1U << 24U) - 1;

  static constexpr std::size_t bytes_for(std::uint32_t parties) noexcept {
    return sizeof(Barrier) + 2 * std::size_t{parties} * sizeof(std::uint64_t);
  }
  /// For one that nobody else sees yet, in zero-filled memory of bytes_for(parties).
  void start_with(std::uint32_t parties) noexcept { parties_ = parties; }
  [[nodiscard]] std::uint32_t parties() const noexcept { return parties_; }
  /// What is to be done when all are here: address of an object, 0 for nothing. The barrier's first
  /// link; whoever sets it, before anybody else sees the barrier, has counted it.
  void set_action(std::uint64_t address) noexcept { action_ = address; }
  [[nodiscard]] std::uint64_t action() const noexcept { return action_; }

  /// What wait() is told.
  struct Visit {
    ProcessId me = 0;
    WaitPolicy policy{};
    Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max();
    void (*act)(void*) = nullptr;  // called by the last one before all may pass
    void* argument = nullptr;
  };
  /// Arrives, waits for the others and returns how many had come before; -1 when the barrier is or
  /// becomes broken. A deadline that passes breaks it, and so does an exception of the policy or of
  /// the action, which comes through. Memory ordering: what each did before is seen by all after.
  std::int64_t wait(const Visit& visit);
  /// Breaks it: all who wait, and who come, fail until reset().
  void abort() noexcept;
  /// Makes it empty again; who waits fails.
  void reset() noexcept;

  /// How many wait; a moment ago.
  [[nodiscard]] std::uint32_t waiting() const noexcept;
  [[nodiscard]] bool broken() const noexcept;

 private:
  enum class Phase : std::uint8_t { kFilling, kActing, kBroken, kResetting };
  struct State {
    Phase phase = Phase::kFilling;
    std::uint32_t count = 0;
    std::uint32_t generation = 0;
  };
  struct Watch;
  using Slot = std::atomic<std::uint64_t>;

  static std::uint64_t pack(State s) noexcept;
  static State unpack(std::uint64_t word) noexcept;
  [[nodiscard]] State now() const noexcept;
  bool change(State from, State to) noexcept;
  [[nodiscard]] Slot* row(std::uint32_t generation) const noexcept;

  Slot* take_slot(ProcessId me, std::uint32_t generation, std::uint32_t first) noexcept;
  static void leave_slot(Slot& slot, ProcessId me, std::uint32_t generation) noexcept;
  Slot* enter(const Visit& visit, State& arrived);
  std::int64_t act(const Visit& visit, State arrived, Slot& slot);
  std::int64_t stay(const Visit& visit, State arrived, Slot& slot);
  std::int64_t leave(const Visit& visit, State arrived, Slot& slot) noexcept;
  template <class Ready>
  bool wait_for(const Visit& visit, std::uint32_t generation, Ready&& ready,
                Timeout::Clock::time_point deadline);
  void break_in(std::uint32_t generation) noexcept;
  void expire(std::uint32_t generation) noexcept;
  template <class Applies>
  void break_if(Applies&& applies) noexcept;
  void finish_reset(std::uint32_t generation) noexcept;

  std::uint64_t action_ = 0;  // see set_action(); constant once shared
  Slot state_;
  ParkingSpot spot_;
  std::uint32_t parties_ = 0;  // constant once shared
};

}  // namespace millrace::shm
