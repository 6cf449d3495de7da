// Locks that a fork never copies held (P10).
//
// A child of fork() has one thread; a mutex that another thread of the parent held at that moment
// would stay locked in the child for ever. Every ForkMutex is therefore taken by the forking thread
// just before each fork() of the process, whoever calls it (pthread_atfork), and given back on both
// sides: what it guards is whole in the child. Locks are taken in the order of their levels.
//
// Rules for its user: inside the lock neither fork nor call out to code that might; take a second
// ForkMutex only if its level is higher.
#pragma once

#include <mutex>

namespace millrace::runtime {

/// A std::mutex that is free in every forked child. Objects live for ever (namespace scope or
/// leaked).
class ForkMutex {
 public:
  /// The order in which locks are taken.
  enum class Level {
    pool = 10,
    context = 15,
    process = 20,
    finalizers = 30,
    names = 40,
    crypto = 45,
    log = 50
  };

  explicit ForkMutex(Level level) noexcept;
  ForkMutex(const ForkMutex&) = delete;
  ForkMutex& operator=(const ForkMutex&) = delete;

  void lock() { mutex_.lock(); }
  bool try_lock() { return mutex_.try_lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  friend struct ForkHandlers;

  std::mutex mutex_;
  Level level_;
  ForkMutex* next_ = nullptr;  // by level; written under the list's own lock only
};

/// Runs `hook` in the child of every fork() of this process, in the only thread there is, before
/// fork() returns and after the locks are free. For the life of the process; order of registration.
void run_after_fork_in_child(void (*hook)() noexcept);

}  // namespace millrace::runtime
