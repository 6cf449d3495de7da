// mp::dummy's locks: Python's threading, D05-D11, with the calls of mp's own. Handles: a copy
// refers to the same object. Errors are threading's (std::runtime_error where mp's locks have
// AssertionError or ValueError). All but Event and Barrier meet Lockable and TimedLockable. What
// blocks is ended by SIGINT after install_sigint(). Nothing here may be used in a forked child.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <utility>

namespace millrace::dummy {

/// What the locks have in common: acquire in all its forms. Derived offers `bool take(deadline)`.
template <class Derived>
class Acquirable {
 public:
  /// Waits for it and takes it.
  void acquire() const { (void)self().take(Timeout::Clock::time_point::max()); }
  /// The same for a limited time; false when it was not to be had.
  [[nodiscard]] bool acquire(Timeout timeout) const { return self().take(timeout.deadline()); }
  [[nodiscard]] bool try_acquire() const { return self().take(Timeout::Clock::time_point::min()); }

  // Lockable and TimedLockable.
  void lock() const { acquire(); }
  [[nodiscard]] bool try_lock() const { return try_acquire(); }
  void unlock() const { self().release(); }
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(std::chrono::duration<Rep, Period> time) const {
    return acquire(Timeout(time));
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(std::chrono::time_point<Clock, Duration> when) const {
    return acquire(Timeout(when - Clock::now()));
  }

  friend bool operator==(const Derived& a, const Derived& b) noexcept {
    return identity(a) == identity(b);
  }

 private:
  static const void* identity(const Derived& of) noexcept { return of.state_.get(); }
  [[nodiscard]] const Derived& self() const noexcept { return static_cast<const Derived&>(*this); }
};

/// A lock that any thread may release. Python: threading.Lock.
class Lock : public Acquirable<Lock> {
 public:
  Lock();
  /// std::runtime_error when it is not locked.
  void release() const;
  [[nodiscard]] bool locked() const;

 private:
  friend class Acquirable<Lock>;
  friend class Condition;
  struct State;
  bool take(Timeout::Clock::time_point deadline) const;
  std::shared_ptr<State> state_;
};

/// A lock that its owner, a thread, may take again. Python: threading.RLock.
class RLock : public Acquirable<RLock> {
 public:
  RLock();
  /// std::runtime_error for any thread but the owner.
  void release() const;
  [[nodiscard]] bool locked() const;

 private:
  friend class Acquirable<RLock>;
  friend class Condition;
  struct State;
  bool take(Timeout::Clock::time_point deadline) const;
  std::shared_ptr<State> state_;
};

/// A counter of permits. ValueError for a negative one. Python: threading.Semaphore.
class Semaphore : public Acquirable<Semaphore> {
 public:
  explicit Semaphore(long value = 1) : Semaphore(value, std::nullopt) {}
  /// Gives one permit. BoundedSemaphore: ValueError when there would be more than at first.
  void release() const;
  [[nodiscard]] long get_value() const;

 protected:
  Semaphore(long value, std::optional<long> limit);

 private:
  friend class Acquirable<Semaphore>;
  struct State;
  bool take(Timeout::Clock::time_point deadline) const;
  std::shared_ptr<State> state_;
};

/// Python: threading.BoundedSemaphore.
class BoundedSemaphore : public Semaphore {
 public:
  explicit BoundedSemaphore(long value = 1) : Semaphore(value, value) {}
};

/// A condition with its lock, an RLock of its own unless one is given. wait and notify without the
/// lock: std::runtime_error. Python: threading.Condition.
class Condition : public Acquirable<Condition> {
 public:
  Condition() : Condition(RLock()) {}
  explicit Condition(const RLock& lock);
  explicit Condition(const Lock& lock);
  void release() const;
  /// Releases the lock, however often it was taken, waits to be notified and takes it again; false
  /// when the time was over first.
  bool wait(Timeout timeout = {}) const;
  /// Waits until pred(); its last value.
  template <class Predicate>
  auto wait_for(Predicate pred, Timeout timeout = {}) const {
    const auto deadline = timeout.deadline();
    auto value = pred();
    while (!value) {
      if (!wait_until(deadline)) return pred();
      value = pred();
    }
    return value;
  }
  /// Wakes at most n of those that wait.
  void notify(std::size_t n = 1) const;
  void notify_all() const { notify(static_cast<std::size_t>(-1)); }

 private:
  friend class Acquirable<Condition>;
  struct State;
  bool take(Timeout::Clock::time_point deadline) const;
  bool wait_until(Timeout::Clock::time_point deadline) const;
  void take_uninterrupted() const;
  std::shared_ptr<State> state_;
};

/// A flag to wait for. Python: threading.Event.
class Event {
 public:
  Event();
  [[nodiscard]] bool is_set() const;
  void set() const;
  void clear() const;
  /// Waits until it is set; the flag.
  bool wait(Timeout timeout = {}) const;
  friend bool operator==(const Event&, const Event&) noexcept = default;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Lets threads go on together. ValueError for no parties. Python: threading.Barrier.
class Barrier {
 public:
  explicit Barrier(int parties, std::function<void()> action = {}, Timeout timeout = {});
  /// Waits for all parties; 0 to parties - 1, each once. One of them calls the action. A timeout,
  /// reset(), abort() or an action that throws is BrokenBarrierError for those that wait.
  int wait() const;
  int wait(Timeout timeout) const;
  /// Back to empty.
  void reset() const;
  /// Broken until reset().
  void abort() const;
  [[nodiscard]] int parties() const;
  [[nodiscard]] int n_waiting() const;
  [[nodiscard]] bool broken() const;
  friend bool operator==(const Barrier&, const Barrier&) noexcept = default;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace millrace::dummy
