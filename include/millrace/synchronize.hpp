// Locks, semaphores, conditions, events and barriers that processes share.
// Python: multiprocessing.synchronize.
//
// All of them are handles: a copy refers to the same object, calls are const, and they may be
// arguments, captures, items and messages under every start method. They lie in the program's
// arena, have no names and no system resources, and cost no system call while nobody waits.
//
// Common to all: any thread of any process may call; a blocked call ends with the deadline it was
// given, with what it waits for, or, after mp::install_sigint(), by KeyboardInterrupt (S35). Making
// one throws std::system_error (ENOMEM) when the arena is full. Acquiring, and coming back from a
// wait, sees everything that was done before the matching release, set, notify or arrival.
#pragma once

#include <sys/types.h>

#include <concepts>
#include <cstddef>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/none.hpp>
#include <millrace/shared_handle.hpp>
#include <millrace/timeout.hpp>
#include <mutex>  // for the users' scoped_lock and unique_lock
#include <string>
#include <type_traits>
#include <utility>

namespace millrace {

namespace runtime {
struct HeldLock;
}  // namespace runtime

/// A lock's owner ended while it held it: what the lock guards may be half changed. Whoever catches
/// this holds the lock, for repair; it is released when the exception is destroyed, unless keep()
/// was called. Not so when a Condition's wait() throws it: the lock is the caller's, as it was
/// before. One that arrives from another process holds nothing. Python: none, the lock stays locked
/// for ever.
class AbandonedLock : public ProcessError {
 public:
  /// `held`: what to release with the exception; null holds nothing.
  explicit AbandonedLock(pid_t pid, std::shared_ptr<runtime::HeldLock> held = nullptr);
  /// The process that ended.
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Makes the catcher the lock's owner: it stays acquired until it is released as usual.
  void keep() const noexcept;

 private:
  pid_t pid_;
  std::shared_ptr<runtime::HeldLock> held_;
};

/// A Lock or an RLock, whichever it was made from: what Condition, Value and Array refer to.
class AnyLock : public shm::SharedHandle, public LockCalls<AnyLock> {
 public:
  using SharedType = AnyLock;
  /// For the library: an object that exists.
  AnyLock(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  /// As Lock's or RLock's.
  void release() const;
  [[nodiscard]] bool locked() const;
  [[nodiscard]] std::string repr() const;

 protected:
  enum class Kind { lock, rlock };
  explicit AnyLock(Kind kind);

 private:
  friend class LockCalls<AnyLock>;
  friend class Lock;
  friend class RLock;
  bool take(Timeout timeout) const;
};

/// A lock that is not recursive and has no owner: any thread of any process may release it.
/// acquire() in a thread that holds it waits for somebody else to release it.
/// **Beyond Python**: when a process ends holding it, the next acquire(), try_acquire() too, throws
/// AbandonedLock; and no waiter starves. Python: multiprocessing.Lock, S01-S04, S08.
class Lock : public shm::SharedHandle, public LockCalls<Lock> {
 public:
  using SharedType = AnyLock;
  /// A free lock.
  Lock();
  /// For the library: an object that exists.
  Lock(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}
  operator AnyLock() const {
    return {shm::Existing{}, object()};
  }  // NOLINT: wherever any lock will do

  /// Frees it; one who waits goes on. Throws ValueError when it is not acquired.
  void release() const;
  /// True when any process holds it.
  [[nodiscard]] bool locked() const;
  /// "<Lock(owner=None)>"; the owner's name for its holder, else SomeOtherThread or
  /// SomeOtherProcess. Python: S34.
  [[nodiscard]] std::string repr() const;

 private:
  friend class LockCalls<Lock>;
  bool take(Timeout timeout) const;
};

/// A lock that its holder, a thread of a process, may acquire again; it is free when it was
/// released as often. **Beyond Python**: as Lock. Python: multiprocessing.RLock, S05-S08.
class RLock : public shm::SharedHandle, public LockCalls<RLock> {
 public:
  using SharedType = AnyLock;
  /// A free lock.
  RLock();
  /// For the library: an object that exists.
  RLock(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}
  operator AnyLock() const {
    return {shm::Existing{}, object()};
  }  // NOLINT: wherever any lock will do

  /// Takes one acquire() back. Throws AssertionError in a thread that does not hold it.
  void release() const;
  /// True when any process holds it.
  [[nodiscard]] bool locked() const;
  /// "<RLock(None, 0)>", "<RLock(MainProcess, 2)>", "<RLock(SomeOtherProcess, nonzero)>".
  [[nodiscard]] std::string repr() const;

 private:
  friend class LockCalls<RLock>;
  bool take(Timeout timeout) const;
};

/// A counter of permits: acquire() waits until there is one and takes it, release() adds one.
/// It counts events and has no owner: what a process that ended had acquired is not given back.
/// Python: multiprocessing.Semaphore, S09-S12.
class Semaphore : public shm::SharedHandle, public LockCalls<Semaphore> {
 public:
  using SharedType = Semaphore;
  /// Throws std::system_error (EINVAL) for a negative value.
  explicit Semaphore(int value = 1);
  /// For the library: an object that exists.
  Semaphore(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  /// Adds a permit. Throws ValueError when there are 2147483647.
  void release() const;
  /// How many permits there are.
  [[nodiscard]] int get_value() const;
  /// "<Semaphore(value=2)>".
  [[nodiscard]] std::string repr() const;

 private:
  friend class LockCalls<Semaphore>;
  bool take(Timeout timeout) const;
};

/// A semaphore that never has more permits than at first: four bytes of shared memory each.
/// **Beyond Python**: the permits of a process that ended come back. Any process may release; it
/// gives back one of its own permits if it has any. Python: multiprocessing.BoundedSemaphore, S13.
class BoundedSemaphore : public shm::SharedHandle, public LockCalls<BoundedSemaphore> {
 public:
  using SharedType = BoundedSemaphore;
  /// Throws std::system_error (EINVAL) for a negative value.
  explicit BoundedSemaphore(int value = 1);
  /// For the library: an object that exists.
  BoundedSemaphore(shm::Existing, shm::ObjectRef object) noexcept
      : SharedHandle(std::move(object)) {}

  /// Throws ValueError when none is acquired.
  void release() const;
  /// How many permits there are to be had.
  [[nodiscard]] int get_value() const;
  /// "<BoundedSemaphore(value=1, maxvalue=1)>".
  [[nodiscard]] std::string repr() const;

 private:
  friend class LockCalls<BoundedSemaphore>;
  bool take(Timeout timeout) const;
};

/// A flag to wait for. Python: multiprocessing.Event, S21-S25.
class Event : public shm::SharedHandle {
 public:
  using SharedType = Event;
  /// Not set.
  Event();
  /// For the library: an object that exists.
  Event(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  [[nodiscard]] bool is_set() const;
  /// Sets the flag; all who wait go on, also if it is cleared at once (**beyond Python**, where
  /// they may miss it).
  void set() const;
  void clear() const;
  /// Waits until the flag is set: true. False at the deadline.
  bool wait(Timeout timeout = {}) const;
  /// "<Event at 0x... unset>".
  [[nodiscard]] std::string repr() const;
};

/// A condition variable over a lock, a new RLock by default; several may share one lock. wait() and
/// the notify calls throw AssertionError in a thread that does not hold it.
/// **Beyond Python**: notify() does not wait for those it woke; a notification whose waiter was
/// killed before it went on reaches another. Python: multiprocessing.Condition, S14-S20.
class Condition : public shm::SharedHandle, public LockCalls<Condition> {
 public:
  using SharedType = Condition;
  Condition();
  explicit Condition(const AnyLock& lock);
  /// For the library: an object that exists.
  Condition(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  /// Releases the lock, as the lock's own.
  void release() const;
  /// Releases the lock altogether, waits until notified, and acquires it again, as often as it was
  /// held. True when it was notified; false at the deadline. However it ends the lock is held
  /// again; AbandonedLock says that a process died holding it meanwhile.
  bool wait(Timeout timeout = {}) const;
  /// Waits until `ready()` is true, which is called with the lock held; what it returned last.
  template <std::invocable Ready>
  auto wait_for(Ready&& ready, Timeout timeout = {}) const {
    const Timeout::Clock::time_point deadline = timeout.deadline();
    auto result = ready();
    while (!result) {
      const auto now = Timeout::Clock::now();
      if (now >= deadline) break;
      wait(timeout.infinite() ? timeout : Timeout(deadline - now));
      result = ready();
    }
    return result;
  }
  /// Wakes at most `n` of those who wait, the first ones.
  void notify(int n = 1) const;
  void notify_all() const;
  /// "<Condition(<RLock(None, 0)>, 0)>": the lock and how many wait.
  [[nodiscard]] std::string repr() const;

 private:
  friend class LockCalls<Condition>;
  bool take(Timeout timeout) const;
};

namespace runtime {

/// Calls the action that was encoded by a Parcel.
using ActionRunner = void (*)(const std::byte* content, std::size_t bytes);
template <class F>
void run_action(const std::byte* content, std::size_t bytes) {
  wire::Reader in(content, bytes);
  F f = wire::unpack<F>(in);
  (void)f();
}

/// What runs when all are at a barrier; runner 0: nothing.
struct BarrierAction {
  FunctionId runner = 0;
  const wire::Writer* content = nullptr;
};
shm::ObjectRef make_barrier(int parties, Timeout timeout, const BarrierAction& action);
/// Keeps something as long as this process lives.
void keep_for_life(std::shared_ptr<const void> thing);

template <class F>
shm::ObjectRef make_acting_barrier(int parties, Timeout timeout, const F& f) {
  auto parcel = std::make_shared<const wire::Parcel<F>>(f);
  wire::Writer content;
  parcel->write(content);
  shm::ObjectRef made = make_barrier(parties, timeout, {id_of<&run_action<F>>(), &content});
  // What the captures refer to, if they do, must outlive every process that may run the action.
  if constexpr (!std::is_trivially_copyable_v<F>) keep_for_life(std::move(parcel));
  return made;
}

}  // namespace runtime

/// A place where `parties` threads of any processes wait for each other, again and again.
/// **Beyond Python**: a process that is killed inside wait(), or after it passed, breaks it.
/// Python: multiprocessing.Barrier, S26-S33.
class Barrier : public shm::SharedHandle {
 public:
  using SharedType = Barrier;
  /// `timeout` is what wait() uses when it is given none. ValueError for less than one party.
  explicit Barrier(int parties, NoneType action = {}, Timeout timeout = {});
  /// `action` is called by one of the parties, the last to come, before all go on. It travels as
  /// callables do (TypeError for captures of private memory); handles it captures live as long as
  /// the program.
  template <class F>
  requires(Sendable<F>&& std::invocable<std::decay_t<F>&>)
      Barrier(int parties, F&& action, Timeout timeout = {})
      : SharedHandle(runtime::make_acting_barrier<std::decay_t<F>>(parties, timeout, action)) {}
  /// For the library: an object that exists.
  Barrier(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  /// Waits for the others. Returns how many had come before, 0 to parties - 1. Throws
  /// BrokenBarrierError when the barrier is broken or becomes so: by a deadline, an action that
  /// threw (to the one that ran it: its own exception), abort(), reset(), or a death.
  int wait(Timeout timeout = {}) const;  // NOLINT(modernize-use-nodiscard): Python's form
  /// Makes it empty; those who wait get BrokenBarrierError.
  void reset() const;
  /// Breaks it until reset().
  void abort() const;
  [[nodiscard]] int parties() const;
  /// How many wait.
  [[nodiscard]] int n_waiting() const;
  [[nodiscard]] bool broken() const;
  /// "<multiprocessing.synchronize.Barrier at 0x...: waiters=0/3>".
  [[nodiscard]] std::string repr() const;
};

}  // namespace millrace
