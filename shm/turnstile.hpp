// A turnstile: threads of many processes take turns at something that can be taken and given back,
// a lock or a permit. Which it is stands beside it; `take` is the caller's own attempt to get one.
//
// Who finds one takes it, without a queue: handing over to a sleeper costs as much as thousands of
// turns. So that no waiter starves all the same, one that has waited for `late()` closes the gate:
// newcomers go to sleep instead of trying, and what is given back next is for those who slept.
//
//   waiter                                       giver
//   1 late: hurry = 1                            a give back (a read-modify-write)
//   2 waking = 0; key = spot.prepare()           b store-load barrier (a is one on x86-64)
//   3 woken, late or gate open: take() -> done   c nobody asleep: open the gate, leave
//   4 interrupted -> leave; sleep until woken,   d waking -> leave
//     a slice at most                            e waking = now; spot.notify_one() -> leave
//                                                f it found nobody: waking = 0, barrier, again at c
//
// Invariants
//  1. No wake-up is lost: parking.hpp's argument, with take() as the condition. Who is woken tries
//     before it may leave, also at its deadline.
//  2. hurry is advice. It keeps newcomers out, never one who was woken or is late. Who takes
//  without
//     having been late, or late without having been woken, opens the gate; who was woken late
//     leaves it closed for those behind, in the order in which they fell asleep. Whoever gives when
//     nobody is behind opens it (c; it looks for sleepers again afterwards, so a newcomer that it
//     does not see sees the gate open), and so does a newcomer that finds something to take behind
//     it (knock), as a dead giver may have left it.
//  3. A slice grows with the wait's age (an eighth, within bounds): a waiter looks after the dead
//     within an eighth of what it has waited anyhow, and spends next to nothing on it.
//  4. waking says since when a waiter has been woken and has not looked: givers do not wake another
//     one meanwhile, since that costs them more than a turn. Who was woken clears it in 2: either a
//     giver sees it cleared and wakes, or the look in 3 sees what was given; one who took and sees
//     more passes on. Who set it and then woke nobody clears it too and looks for sleepers again in
//     f, for those who were seen by givers that relied on it. Left behind by the dead it is void
//     soon.
//
// When a process dies between any two steps
//  - as a waiter: hurry may stay (2); a wake-up that it took with it is made good by the next giver
//    or by the sleepers' slices;
//  - as a giver after a: somebody sleeps although there is something to take, for a slice at most,
//    or until a newcomer knocks.
//
// Progress: open() is wait-free, wake_one() and knock() are lock-free (another round for another
// that falls asleep); wait() blocks. A waiter that is late waits for the turns of those who slept
// before it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>

#include "shm/interrupt.hpp"
#include "shm/parking.hpp"

namespace millrace::shm {

/// What a turnstile is built on; the models put their own in its place.
struct TurnPlatform {
  template <class T>
  using Atomic = std::atomic<T>;
  using Spot = ParkingSpot;
  static void store_load_barrier() noexcept { shm::store_load_barrier(); }
  /// store_load_barrier() right behind a seq_cst read-modify-write, which is one on x86-64.
  static void barrier_after_rmw() noexcept {
#if defined(__x86_64__)
    asm volatile("" ::: "memory");
#else
    shm::store_load_barrier();
#endif
  }
  /// Between two loads.
  static void load_load_barrier() noexcept {
#if defined(__x86_64__)
    asm volatile("" ::: "memory");
#else
    shm::store_load_barrier();
#endif
  }
  /// A time, never 0, and whether it is one of the last milliseconds (on cpus with a clock of 24
  /// MHz the last second).
  static std::uint32_t stamp() noexcept {
    const auto now = static_cast<std::uint32_t>(ticks() >> kStampShift);
    return now != 0 ? now : 1;
  }
  static bool recent(std::uint32_t stamp) noexcept {
    return stamp != 0 && static_cast<std::uint32_t>(ticks() >> kStampShift) - stamp < 8;
  }
  static constexpr int kStampShift = 22;
};

/// Whether SIGINT ends a wait, after mp::install_sigint().
enum class Interrupts { heeded, ignored };

/// How long one wait has lasted and may last, and whether it may be interrupted. Used by one
/// thread.
class Pace {
 public:
  using Clock = Timeout::Clock;
  static constexpr std::chrono::nanoseconds kPatience = std::chrono::milliseconds(10);
  static constexpr std::chrono::nanoseconds kShortest = std::chrono::microseconds(500);
  static constexpr std::chrono::nanoseconds kLongest = std::chrono::milliseconds(100);

  explicit Pace(Clock::time_point deadline, Interrupts interrupts = Interrupts::heeded) noexcept
      : start_(Clock::now()), now_(start_), deadline_(deadline) {
    if (interrupts == Interrupts::heeded) call_.emplace();
  }

  /// The deadline has passed.
  [[nodiscard]] bool over() const noexcept { return now_ >= deadline_; }
  /// It has lasted long enough to keep newcomers out.
  [[nodiscard]] bool late() const noexcept { return now_ - start_ >= kPatience; }
  /// When to look again though nobody wakes, `shortest` from now at the earliest.
  [[nodiscard]] Clock::time_point until(
      std::chrono::nanoseconds shortest = kShortest) const noexcept {
    const auto slice = std::clamp<Clock::duration>((now_ - start_) / 8, shortest, kLongest);
    return deadline_ - now_ > slice ? now_ + slice : deadline_;
  }
  void tick() noexcept { now_ = Clock::now(); }
  /// While it exists, SIGINT rouses the spot.
  [[nodiscard]] InterruptibleSleep sleep(ParkingSpot& spot) const noexcept {
    return InterruptibleSleep(call_ ? &spot : nullptr);
  }
  /// Throws KeyboardInterrupt if SIGINT has asked for it.
  void check() const {
    if (call_) call_->check();
  }

 private:
  std::optional<BlockingCall> call_;
  Clock::time_point start_;
  Clock::time_point now_;
  Clock::time_point deadline_;
};

/// The turnstile described at the head of this file. Zero-filled memory is one with nobody waiting.
template <class P>
class BasicTurnstile {
 public:
  /// True when a newcomer may try to take.
  [[nodiscard]] bool open() const noexcept {
    return hurry_.load(std::memory_order_relaxed) == 0;  // advice, see invariant 2
  }

  /// Call it right behind the seq_cst read-modify-write that gave something back.
  void wake_one() noexcept {
    P::barrier_after_rmw();
    if (spot_.maybe_asleep() || !open()) [[unlikely]]
      wake();
  }
  /// For a newcomer that finds something to take behind a closed gate: true when nobody is waiting
  /// for it, and the gate is open.
  bool knock() noexcept {
    pass_on();
    return open();
  }
  /// For one who has waited and taken, when there is more to take: whoever gave it may have left
  /// the wake-up to the one that was under way.
  void pass_on() noexcept {
    P::store_load_barrier();
    wake();
  }

  /// Waits for a turn. `take()` tries to get one; `look()` is asked after a slice in which nobody
  /// woke this waiter, to see whether those it waits for are alive, and may get one by that. False
  /// at the deadline. `look` and `pace` may throw.
  template <class Take, class Look, class Pacing>
  bool wait(Take&& take, Look&& look, Pacing& pace) {
    bool woken = false;
    for (;;) {
      const bool late = pace.late();
      if (late) hurry_.store(1, std::memory_order_relaxed);  // advice, see invariant 2
      waking_.store(0, std::memory_order_relaxed);           // before prepare(), see invariant 4
      [[maybe_unused]] const auto sleep = pace.sleep(spot_);
      const auto key = spot_.prepare();
      if ((woken || late || open()) && take()) {
        if (!(late && woken)) open_gate();
        return true;
      }
      if (pace.over()) {
        if (late) open_gate();
        return false;
      }
      pace.check();
      const int outcome = spot_.wait(key, pace.until());
      woken = outcome != ETIMEDOUT;  // EAGAIN: between prepare() and here
      pace.tick();
      if (outcome == ETIMEDOUT && look()) {
        open_gate();
        return true;
      }
    }
  }

 private:
  // Behind a barrier. In each round somebody fell asleep since the one before. Not inlined: its
  // registers would be saved, and the stores of that drained, on the way to every exchange.
  [[gnu::noinline]] void wake() noexcept {
    for (;;) {
      if (!spot_.maybe_asleep()) {
        if (open()) return;
        hurry_.store(0, std::memory_order_relaxed);  // before the barrier, see invariant 2
        P::store_load_barrier();
        if (!spot_.maybe_asleep()) return;
      }
      P::load_load_barrier();  // nobody wakes: seen after the sleeper, see invariant 4
      if (P::recent(waking_.load(std::memory_order_relaxed))) return;
      waking_.store(P::stamp(), std::memory_order_relaxed);  // before notify_one()'s barrier
      if (spot_.notify_one()) return;
      waking_.store(0, std::memory_order_relaxed);  // before the barrier, see invariant 4
      P::store_load_barrier();
    }
  }
  void open_gate() noexcept {
    if (!open()) hurry_.store(0, std::memory_order_relaxed);  // advice, see invariant 2
  }

  typename P::Spot spot_;
  typename P::template Atomic<std::uint32_t> hurry_{0};   // written by waiters, read by all
  typename P::template Atomic<std::uint32_t> waking_{0};  // by givers and waiters, read by givers
};

using Turnstile = BasicTurnstile<TurnPlatform>;
static_assert(sizeof(Turnstile) == 12 && std::is_standard_layout_v<Turnstile>);

/// A few looks at something that its holder may give back at once, before going to sleep; about
/// five microseconds. They become rarer: each takes the cache line away from a holder that may have
/// many short turns.
template <class Take>
bool spin_a_little(Take&& take) {
  for (int pauses = 8; pauses <= 256; pauses *= 2) {
    for (int i = 0; i < pauses; ++i) cpu_relax();
    if (take()) return true;
  }
  for (int i = 0; i < 2; ++i) {
    sched_yield();
    if (take()) return true;
  }
  return false;
}

}  // namespace millrace::shm
