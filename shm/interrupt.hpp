// Interrupting waits: how SIGINT reaches calls that sleep on words and descriptors.
//
// A process that has called enable_interrupts() turns the signal into a request. The request is
// taken once, by a call of the library that is blocked, and is thrown there as KeyboardInterrupt:
// by the main thread's while that one is blocked, else by any other's. A request that nobody takes
// stays and meets the next call that has to wait.
//
//   waiter                                       signal handler (any thread)
//   1 its spot stands in the table               a requested = 1
//   2 key = spot.prepare()                       b write the descriptor
//   3 condition true -> done                     c rouse() every spot in the table
//   4 requested -> KeyboardInterrupt
//   5 spot.wait(key)
//
// Invariants
//  1. No request is slept through. Either 1 comes before the look in c, and the rouse changes the
//     word: before 2, then a was before 4; between 2 and 5, then 5 does not sleep; after, then it
//     wakes. Or c's look comes before 1, and a before 4.
//  2. No wake-up is lost to a request. rouse() wakes every sleeper, and each looks at its condition
//     again, before it looks at the request: what a wake-up announced is taken or left for others,
//     never dropped. Whoever throws leaves at most the sleepers bit behind, which is harmless.
//  3. The handler touches a spot only while its place in the table says `busy`; the spot's owner
//     waits for that before its memory may go.
//
// When a process dies between any two steps nothing is left behind: all of this is its own, but for
// the epochs of spots, where an additional one means nothing. A forked child starts without a
// request, with an empty table and a descriptor of its own.
//
// Progress: the handler is bounded by the size of the table; a waiter's steps are wait-free but for
// the owner's wait in 3.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstddef>
#include <millrace/timeout.hpp>
#include <span>

namespace millrace::shm {

struct Platform;
template <class P>
class BasicParkingSpot;
using ParkingSpot = BasicParkingSpot<Platform>;

/// From now on waits of this process can be interrupted. Once; std::system_error when there is no
/// descriptor.
void enable_interrupts();

namespace interrupts {
/// Written by enable_interrupts() only. A stale false costs one wait its interruption by a signal
/// whose handler was installed while the wait began.
extern std::atomic<bool> enabled;
}  // namespace interrupts

/// True once enable_interrupts() was called.
[[nodiscard]] inline bool interrupts_enabled() noexcept {
  return interrupts::enabled.load(std::memory_order_relaxed);  // see there
}

/// For the signal's handler: requests an interruption. False when an earlier request has waited for
/// more than a second: nobody listens, the signal had better do what it does by default.
/// Async-signal-safe.
bool request_interrupt() noexcept;

/// A blocking call of the user's that may be interrupted. While one of the main thread exists, no
/// other thread takes a request.
class BlockingCall {
 public:
  BlockingCall() noexcept : counted_(interrupts_enabled() && enter()) {}
  BlockingCall(const BlockingCall&) = delete;
  BlockingCall& operator=(const BlockingCall&) = delete;
  ~BlockingCall() {
    if (counted_) leave();
  }

  /// Throws KeyboardInterrupt if there is a request for this thread; the request is over then.
  void check() const {
    if (interrupts_enabled()) take();
  }
  /// True when check() would throw.
  [[nodiscard]] static bool requested() noexcept { return interrupts_enabled() && is_requested(); }
  /// ppoll() that a request interrupts (KeyboardInterrupt) and other signals do not. Returns how
  /// many are ready, 0 at the deadline; std::system_error when the kernel refuses. Blocks.
  int poll(std::span<pollfd> fds, Timeout::Clock::time_point deadline) const;

 private:
  static bool enter() noexcept;
  static void leave() noexcept;
  static void take();
  static bool is_requested() noexcept;

  bool counted_;
};

/// While it exists, a request rouses the spot. Make it before spot.prepare(). Null: no spot.
class InterruptibleSleep {
 public:
  explicit InterruptibleSleep(ParkingSpot* spot) noexcept
      : place_(spot != nullptr && interrupts_enabled() ? enter(spot) : kNowhere) {}
  InterruptibleSleep(const InterruptibleSleep&) = delete;
  InterruptibleSleep& operator=(const InterruptibleSleep&) = delete;
  ~InterruptibleSleep() {
    if (place_ != kNowhere) leave();
  }

 private:
  static constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);

  static std::size_t enter(ParkingSpot* spot) noexcept;
  void leave() const noexcept;

  std::size_t place_;
};

}  // namespace millrace::shm
