// Waiting and waking on words in shared memory: futexes, a parking spot (an eventcount of one
// 32-bit word), and the ladder every blocking call climbs: spin, yield, park.
//
// A *spot* stands beside a condition (a ring has items, a ring has room, a job is done). Waiters of
// one spot wait for the same condition; any number of threads of any processes may wait on it and
// wake it. The word is {epoch:31, sleepers:1}; zero-filled memory is a spot nobody sleeps on.
//
//   waiter                                    waker
//   1 word |= sleepers     (key)              a make the condition true
//   2 store-load barrier                      b store-load barrier
//   3 look at the condition: true -> leave    c word has no sleepers bit -> leave, no system call
//   4 futex_wait(word, key)                   d word += one epoch; futex_wake(one or all)
//
// Invariants
//  1. No wake-up is lost. Of the two barriers (2 and b) one comes first: either 3 sees a, or c sees
//     1. In the second case either the word changed before 4 (the kernel refuses to sleep), or the
//     waiter sleeps before d wakes.
//  2. Whoever sleeps in the kernel sleeps with the sleepers bit set, except between the two steps
//  of
//     `clear`: the bit is taken away by compare-and-swap and *then* everybody is woken, so a waiter
//     that fell asleep just before is roused and looks again.
//  3. A false bit costs system calls once: the wake that finds nobody removes it. A sleeper that
//     dies, times out or finds its condition true leaves nothing else behind.
//
// When a process dies between any two steps
//  - as a waiter: only the bit may be left (3). A sleeper that notify_one() chose and that dies
//    before it acts takes that wake-up with it;
//  - as a waker: after a, or within d or `clear`, somebody may sleep although the condition holds.
//  Both are healed by the rule for whoever establishes a death: call rouse() on every spot the dead
//  process may have waited on or woken. Without that call a sleeper still looks again by itself
//  after WaitPolicy::slice, so a missed wake-up costs at most one slice.
//
// Progress: prepare() and the notify calls are wait-free; wait() blocks.
#pragma once

#include <sched.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdint>
#include <millrace/timeout.hpp>
#include <optional>
#include <type_traits>

#include "shm/interrupt.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define MILLRACE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MILLRACE_TSAN 1
#endif
#endif

namespace millrace::shm {

/// A hint to the cpu that this thread spins.
inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

/// Orders every earlier store of this thread before every later load of it.
/// Memory ordering: a seq_cst fence. ThreadSanitizer does not know fences; nothing that it checks
/// rests on this one, so there it is a read-modify-write of a word of the thread's own.
inline void store_load_barrier() noexcept {
#if defined(MILLRACE_TSAN)
  thread_local std::atomic<std::uint32_t> own{0};
  // BARRIER: nobody else reads the word; pairs with the other side's BARRIER.
  own.fetch_add(1, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);  // BARRIER: pairs with the other side's
#endif
}

/// A fast clock of this machine that never runs backwards on one cpu; see ticks_per_us().
inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  std::uint64_t value = 0;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
  return static_cast<std::uint64_t>(Timeout::Clock::now().time_since_epoch().count());
#endif
}

/// How many ticks() pass in a microsecond, at least 1. Measured (100 us) on first use.
std::uint64_t ticks_per_us() noexcept;

/// Sleeps while `word == expected`, until woken or until `deadline`; the word may be shared between
/// processes. Returns 0 when woken, else EAGAIN (the word differs), ETIMEDOUT or EINTR.
int futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
               Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max()) noexcept;

/// Wakes at most `count` sleepers of the word and returns how many it woke. Always a system call.
int futex_wake(const std::atomic<std::uint32_t>& word, int count) noexcept;

/// What a parking spot is built on; the models put their own in its place.
struct Platform {
  template <class T>
  using Atomic = std::atomic<T>;
  static void store_load_barrier() noexcept { shm::store_load_barrier(); }
  static int wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                  Timeout::Clock::time_point deadline) noexcept {
    return futex_wait(word, expected, deadline);
  }
  static int wake(const std::atomic<std::uint32_t>& word, int count) noexcept {
    return futex_wake(word, count);
  }
};

/// The eventcount described at the head of this file. Lives in memory that all its users share;
/// waiters of one spot must wait for one condition (else wake all of them).
template <class P>
class BasicParkingSpot {
 public:
  using Key = std::uint32_t;

  /// Announces a sleeper. The caller must look at its condition after this and before wait().
  /// Memory ordering: a store-load barrier between the announcement and that look.
  Key prepare() noexcept {
    // SLEEP: seq_cst against LOOK for sleepers; a stale condition cannot be read after the barrier
    // unless the waker reads this bit.
    const Key key = word_.fetch_or(kSleepers, std::memory_order_seq_cst) | kSleepers;
    P::store_load_barrier();
    return key;
  }

  /// Sleeps unless somebody woke the spot since prepare(). Returns as futex_wait() does; the caller
  /// looks at its condition again whatever is returned. A caller that does not wait just leaves.
  int wait(Key key, Timeout::Clock::time_point deadline) noexcept {
    return P::wait(word_, key, deadline);
  }

  /// Wakes one sleeper, if there is any; call it after making the condition true for one waiter.
  /// No system call when nobody sleeps. May be called by any thread of any process. False when none
  /// was asleep: whoever was about to looks again.
  bool notify_one() noexcept {
    if (!anyone()) return false;
    // EPOCH: changes the word under waiters between prepare() and wait(); release is enough, the
    // condition itself travels by its own edge.
    const Key seen = word_.fetch_add(kEpoch, std::memory_order_release) + kEpoch;
    if (P::wake(word_, 1) != 0) return true;
    clear(seen);
    return false;
  }

  /// Wakes every sleeper. No system call when nobody sleeps.
  void notify_all() noexcept {
    if (!anyone()) return;
    clear(word_.load(std::memory_order_relaxed));  // only a guess for the compare-and-swap
  }

  /// True when somebody may sleep here. Without a barrier of its own: for callers that look again
  /// and again, or that have just executed one.
  [[nodiscard]] bool maybe_asleep() const noexcept {
    // LOOK for sleepers: relaxed, see above; pairs with SLEEP.
    return (word_.load(std::memory_order_relaxed) & kSleepers) != 0;
  }

  /// Wakes everybody whatever the word says: for the reaper, after a death. Always a system call.
  void rouse() noexcept {
    word_.fetch_add(kEpoch, std::memory_order_release);  // EPOCH, see notify_one()
    P::wake(word_, INT_MAX);
  }

 private:
  static constexpr Key kSleepers = 1;
  static constexpr Key kEpoch = 2;

  bool anyone() noexcept {
    P::store_load_barrier();  // LOOK for sleepers: between the caller's condition and the look at
                              // the bit
    return maybe_asleep();
  }

  // Takes the bit away and bumps the epoch, then wakes all that went to sleep before it was gone.
  // If the word moved on meanwhile the bit stays (harmless, invariant 3), the sleepers wake anyhow.
  void clear(Key seen) noexcept {
    const Key next = (seen & ~kSleepers) + kEpoch;
    // EPOCH, see notify_one(); acquire too, whoever clears has seen what it clears.
    if (!word_.compare_exchange_strong(seen, next, std::memory_order_acq_rel,
                                       std::memory_order_relaxed)) {
      // EPOCH, see notify_one().
      word_.fetch_add(kEpoch, std::memory_order_release);
    }
    P::wake(word_, INT_MAX);
  }

  typename P::template Atomic<std::uint32_t> word_{0};  // {epoch:31, sleepers:1}; see the head
};

using ParkingSpot = BasicParkingSpot<Platform>;
static_assert(sizeof(ParkingSpot) == 4 && std::is_standard_layout_v<ParkingSpot>);

/// How a caller is willing to wait. The default fits any placement: two yields, then park.
struct WaitPolicy {
  /// Spin this long first. Only where the waker runs on another cpu than this thread.
  std::chrono::nanoseconds spin{0};
  /// Give the cpu away this many times before parking.
  int yields = 2;
  /// A parked waiter looks again after this long even if nobody wakes it.
  std::chrono::nanoseconds slice{std::chrono::milliseconds{500}};
  /// Called with `argument` after every slice in which nothing happened, to see whether those
  /// waited for are alive; may throw.
  void (*on_long_wait)(void* argument) = nullptr;
  void* argument = nullptr;
  /// The wait is a user's: SIGINT ends it by KeyboardInterrupt (interrupt.hpp). What `ready` takes
  /// is never lost to it.
  bool interruptible = false;
};

/// Spins until `ready()` or until the budget is used up; returns the last ready().
template <class Ready>
bool spin_until(Ready&& ready, std::chrono::nanoseconds budget) {
  if (ready()) return true;
  if (budget.count() <= 0) return false;
  const std::uint64_t start = ticks();
  const std::uint64_t limit = static_cast<std::uint64_t>(budget.count()) * ticks_per_us() / 1000;
  do {
    for (int look = 0; look < 64; ++look) {
      cpu_relax();
      if (ready()) return true;
    }
  } while (ticks() - start < limit);
  return false;
}

/// Waits until `ready()` is true: spins, yields, parks, as the policy says. Returns true when it
/// became true, false when the deadline passed first. `ready` must be cheap, read with acquire, and
/// may take what it finds. Blocks; any thread of any process may call it. Throws KeyboardInterrupt
/// if the policy says so.
template <class Ready>
bool wait_until(ParkingSpot& spot, Ready&& ready, const WaitPolicy& policy,
                Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max()) {
  if (spin_until(ready, policy.spin)) return true;
  for (int i = 0; i < policy.yields; ++i) {
    sched_yield();
    if (ready()) return true;
  }
  std::optional<BlockingCall> call;
  if (policy.interruptible) call.emplace();
  for (;;) {
    const auto now = Timeout::Clock::now();
    if (now >= deadline) return ready();
    const InterruptibleSleep sleep(call ? &spot : nullptr);
    const ParkingSpot::Key key = spot.prepare();
    if (ready()) return true;
    if (call) call->check();
    const auto until = deadline - now > policy.slice ? now + policy.slice : deadline;
    const int outcome = spot.wait(key, until);
    if (ready()) return true;
    if (outcome == ETIMEDOUT && policy.on_long_wait != nullptr)
      policy.on_long_wait(policy.argument);
  }
}

}  // namespace millrace::shm
