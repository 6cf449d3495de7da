// Proxies of a manager's locks, with threading's errors. X11, G13-G19.
#pragma once

#include <chrono>
#include <millrace/proxy.hpp>
#include <millrace/timeout.hpp>
#include <mutex>  // for the users' scoped_lock

namespace millrace {

namespace runtime {

/// Seconds, or None for ever.
Object seconds_of(Timeout timeout);

}  // namespace runtime

/// Of Lock, RLock, Semaphore and BoundedSemaphore; Lockable and TimedLockable. Errors are
/// threading's: std::runtime_error for a lock that is not acquired, ValueError for a
/// BoundedSemaphore's. **Beyond**: AbandonedLock for the next after a process that ended with a
/// lock; the lock is free then. Python: AcquirerProxy.
class AcquirerProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  void acquire() const { call("acquire"); }
  [[nodiscard]] bool acquire(Timeout timeout) const;
  [[nodiscard]] bool try_acquire() const { return call<bool>("acquire", false); }
  void release() const { call("release"); }

  void lock() const { acquire(); }
  [[nodiscard]] bool try_lock() const { return try_acquire(); }
  void unlock() const { release(); }
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(std::chrono::duration<Rep, Period> time) const {
    return acquire(Timeout(time));
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(std::chrono::time_point<Clock, Duration> when) const {
    return acquire(Timeout(when - Clock::now()));
  }
};

/// std::runtime_error without its lock. Python: ConditionProxy.
class ConditionProxy : public AcquirerProxy {
 public:
  using AcquirerProxy::AcquirerProxy;
  bool wait(Timeout timeout = {}) const { return call<bool>("wait", runtime::seconds_of(timeout)); }
  void notify(int n = 1) const { call("notify", n); }
  void notify_all() const { call("notify_all"); }
  /// Waits until pred(), which is called here; its last value.
  template <class Predicate>
  auto wait_for(Predicate pred, Timeout timeout = {}) const {
    const auto deadline = timeout.deadline();
    auto value = pred();
    while (!value) {
      const auto now = Timeout::Clock::now();
      if (now >= deadline) break;
      wait(timeout.infinite() ? Timeout() : Timeout(deadline - now));
      value = pred();
    }
    return value;
  }
};

/// Python: EventProxy.
class EventProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  [[nodiscard]] bool is_set() const { return call<bool>("is_set"); }
  void set() const { call("set"); }
  void clear() const { call("clear"); }
  bool wait(Timeout timeout = {}) const { return call<bool>("wait", runtime::seconds_of(timeout)); }
};

/// BrokenBarrierError as Python's; a client that ends while it waits breaks it. Python:
/// BarrierProxy.
class BarrierProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  int wait(Timeout timeout = {}) const { return call<int>("wait", runtime::seconds_of(timeout)); }
  void abort() const { call("abort"); }
  void reset() const { call("reset"); }
  [[nodiscard]] int parties() const { return call<int>("__getattribute__", "parties"); }
  [[nodiscard]] int n_waiting() const { return call<int>("__getattribute__", "n_waiting"); }
  [[nodiscard]] bool broken() const { return call<bool>("__getattribute__", "broken"); }
};

namespace runtime {

template <>
inline constexpr const char* kProxyClass<AcquirerProxy> = "AcquirerProxy";
template <>
inline constexpr const char* kProxyClass<ConditionProxy> = "ConditionProxy";
template <>
inline constexpr const char* kProxyClass<EventProxy> = "EventProxy";
template <>
inline constexpr const char* kProxyClass<BarrierProxy> = "BarrierProxy";

}  // namespace runtime
}  // namespace millrace
