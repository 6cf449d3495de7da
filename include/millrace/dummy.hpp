// mp::dummy: the module on threads. A program that names dummy::Process, dummy::Queue, ... runs in
// one process. Python: multiprocessing.dummy.
#pragma once

#include <functional>
#include <millrace/dummy_process.hpp>
#include <millrace/dummy_queues.hpp>
#include <millrace/dummy_sync.hpp>
#include <millrace/dummy_values.hpp>
#include <millrace/thread_pool.hpp>
#include <utility>

namespace millrace::dummy {

/// Python: multiprocessing.dummy.Pool, a ThreadPool.
using Pool = ThreadPool;

/// What a manager makes, here. Python: multiprocessing.dummy.Manager, which gives the module
/// itself.
class Manager {
 public:
  [[nodiscard]] dummy::Lock Lock() const { return {}; }
  [[nodiscard]] dummy::RLock RLock() const { return {}; }
  [[nodiscard]] dummy::Semaphore Semaphore(long value = 1) const { return dummy::Semaphore(value); }
  [[nodiscard]] dummy::BoundedSemaphore BoundedSemaphore(long value = 1) const {
    return dummy::BoundedSemaphore(value);
  }
  [[nodiscard]] dummy::Condition Condition() const { return {}; }
  template <class L>
  [[nodiscard]] dummy::Condition Condition(const L& lock) const {
    return dummy::Condition(lock);
  }
  [[nodiscard]] dummy::Event Event() const { return {}; }
  [[nodiscard]] dummy::Barrier Barrier(int parties, std::function<void()> action = {},
                                       Timeout timeout = {}) const {
    return dummy::Barrier(parties, std::move(action), timeout);
  }
  template <class T>
  [[nodiscard]] dummy::Queue<T> Queue(int maxsize = 0) const {
    return dummy::Queue<T>(maxsize);
  }
  template <class T>
  [[nodiscard]] dummy::JoinableQueue<T> JoinableQueue(int maxsize = 0) const {
    return dummy::Queue<T>(maxsize);
  }
  template <class T>
  [[nodiscard]] dummy::Value<T> Value(T value) const {
    return dummy::Value<T>(std::move(value));
  }
  template <class T, class R>
  [[nodiscard]] dummy::Array<T> Array(R&& items) const {
    return dummy::Array<T>(std::forward<R>(items));
  }
  [[nodiscard]] dummy::Pool Pool(int processes) const { return dummy::Pool(processes); }
  void shutdown() const noexcept {}
};

}  // namespace millrace::dummy
