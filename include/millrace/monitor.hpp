// A lock with waiting, between threads of one process: what the module dummy is made of.
#pragma once

#include <memory>
#include <millrace/timeout.hpp>

namespace millrace::runtime {

/// One lock and one thing to wait for: that something the lock protects has changed. Wait in a
/// loop. A Lockable.
class Monitor {
 public:
  Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;
  ~Monitor();

  void lock();
  void unlock();
  /// With the lock, after a change: whoever waits looks again.
  void changed() noexcept;
  /// With the lock: releases it, sleeps until changed() or the deadline, takes it again. False when
  /// the deadline has passed. KeyboardInterrupt after install_sigint(), with the lock held: what
  /// the caller waits for is its own to look at first.
  bool wait(Timeout::Clock::time_point deadline);

  /// With the lock: waits until `ready()`; false when the deadline passed first.
  template <class Ready>
  bool wait_for(Ready&& ready, Timeout::Clock::time_point deadline) {
    while (!ready()) {
      if (!wait(deadline)) return ready();
    }
    return true;
  }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::runtime
