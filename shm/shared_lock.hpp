// Lock and RLock as they lie in shared memory: a LockWord, which thread took it, and how often.
//
// Invariants
//  1. The LockWord alone decides who holds the lock. Thread and count are written by the holder
//     only, after it took the word and before it gives it back.
//  2. holder names a thread only while that thread holds the lock, or after its process died
//  holding
//     it, or for a moment when somebody else gave the lock back. So "the word names my process and
//     holder names me" is true for the holder and for nobody else: a process that took the word and
//     has not written holder yet finds there nothing or the dead, whose pid is not its own.
//
// When a process dies between any two steps: the word names it (lock_word.hpp). Thread and count
// are written anew by whoever inherits the lock.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/caller.hpp"
#include "shm/lock_word.hpp"

namespace millrace::shm {

/// How a lock was acquired.
enum class Got { no, yes, abandoned };

class SharedLock {
 public:
  struct Result {
    Got got = Got::no;
    std::uint32_t pid = 0;  // of the dead process, when abandoned
  };
  enum class Released { yes, unlocked, not_owner };

  /// For one that its maker has not shared yet. Zero-filled memory is a free lock, not recursive.
  void make_recursive() noexcept { recursive_ = 1; }
  [[nodiscard]] bool recursive() const noexcept { return recursive_ != 0; }

  /// As try_acquire(), but gives up where that would have to look closer.
  bool try_quickly(const Caller& me) noexcept {
    if (!word_.try_quickly(me.id)) return false;
    entered(me);
    return true;
  }
  /// Takes the lock, or once more if it is recursive and this thread's. Does not block. Abandoned:
  /// its owner had died; it is the caller's now.
  Result try_acquire(const Caller& me) { return fast(me) ? Result{Got::yes, 0} : try_slow(me); }
  /// The same, waiting until the deadline.
  Result acquire(const Caller& me, Timeout deadline) {
    return fast(me) ? Result{Got::yes, 0} : wait(me, deadline, Interrupts::heeded);
  }
  /// The same without end or interruption: a condition's waiter must have its lock again.
  Result acquire_uninterrupted(const Caller& me) {
    return fast(me) ? Result{Got::yes, 0} : wait(me, Timeout(), Interrupts::ignored);
  }

  /// Gives it back once. A lock that is not recursive may be released by anybody.
  Released release(const Caller& me) noexcept {
    if (recursive()) {
      if (!is_mine(me)) return Released::not_owner;
      // relaxed: written by the holder only
      const std::uint32_t count = count_.load(std::memory_order_relaxed);
      if (count > 1) {
        count_.store(count - 1, std::memory_order_relaxed);
        return Released::yes;
      }
    }
    return free() ? Released::yes : Released::unlocked;
  }
  /// Gives it back altogether, whoever calls: false when it was free.
  bool free() noexcept {
    holder_.store(0, std::memory_order_relaxed);  // ordered by the word, see invariant 2
    return word_.give();
  }

  [[nodiscard]] bool is_mine(const Caller& me) const noexcept {
    // relaxed: only this thread writes this value here, see invariant 2
    return holder_.load(std::memory_order_relaxed) == me.name() && word_.owner() == me.id;
  }
  /// How often the holder has taken it. Exact for the holder.
  [[nodiscard]] std::uint32_t count() const noexcept {
    return count_.load(std::memory_order_relaxed);  // written by the holder only
  }
  /// For the holder: as often as it was taken before it gave it back altogether.
  void set_count(std::uint32_t count) noexcept {
    count_.store(count, std::memory_order_relaxed);  // see count()
  }
  [[nodiscard]] ProcessId owner() const noexcept { return word_.owner(); }

 private:
  bool fast(const Caller& me) {
    if (recursive() && is_mine(me)) {
      again();
      return true;
    }
    if (!word_.try_take(me.id)) return false;
    entered(me);
    return true;
  }
  void entered(const Caller& me) noexcept {
    // relaxed: ordered by the word, see the invariants
    holder_.store(me.name(), std::memory_order_relaxed);
    count_.store(1, std::memory_order_relaxed);
  }
  void again();
  Result inherited(const Caller& me, ProcessId from);
  Result try_slow(const Caller& me);
  Result wait(const Caller& me, Timeout timeout, Interrupts interrupts);

  LockWord word_;
  std::uint32_t recursive_ = 0;           // constant once shared
  std::atomic<std::uint64_t> holder_{0};  // Caller::name() of the holder
  std::atomic<std::uint32_t> count_{0};   // by the holder
};
static_assert(sizeof(SharedLock) <= kCacheLine);

}  // namespace millrace::shm
