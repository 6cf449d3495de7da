// The locks of mp::dummy.
#include <unistd.h>

#include <algorithm>
#include <list>
#include <millrace/dummy_sync.hpp>
#include <millrace/job.hpp>
#include <millrace/monitor.hpp>
#include <mutex>
#include <stdexcept>
#include <variant>

#include "shm/interrupt.hpp"

namespace millrace::dummy {

using runtime::Monitor;
using Clock = Timeout::Clock;
using Guard = std::unique_lock<Monitor>;

// Lock

struct Lock::State {
  Monitor monitor;
  bool locked = false;
};

Lock::Lock() : state_(std::make_shared<State>()) {}

bool Lock::take(Clock::time_point deadline) const {
  const Guard guard(state_->monitor);
  if (!state_->monitor.wait_for([this] { return !state_->locked; }, deadline)) return false;
  state_->locked = true;
  return true;
}

void Lock::release() const {
  const Guard guard(state_->monitor);
  if (!state_->locked) throw std::runtime_error("release unlocked lock");
  state_->locked = false;
  state_->monitor.changed();
}

bool Lock::locked() const {
  const Guard guard(state_->monitor);
  return state_->locked;
}

// RLock

struct RLock::State {
  Monitor monitor;
  std::uintptr_t owner = 0;  // runtime::thread_token()
  std::size_t depth = 0;
};

RLock::RLock() : state_(std::make_shared<State>()) {}

bool RLock::take(Clock::time_point deadline) const {
  const Guard guard(state_->monitor);
  const std::uintptr_t self = runtime::thread_token();
  const auto free = [&] { return state_->depth == 0 || state_->owner == self; };
  if (!state_->monitor.wait_for(free, deadline)) return false;
  state_->owner = self;
  ++state_->depth;
  return true;
}

void RLock::release() const {
  const Guard guard(state_->monitor);
  if (state_->depth == 0 || state_->owner != runtime::thread_token()) {
    throw std::runtime_error("cannot release un-acquired lock");
  }
  if (--state_->depth == 0) state_->monitor.changed();
}

bool RLock::locked() const {
  const Guard guard(state_->monitor);
  return state_->depth != 0;
}

// Semaphore

struct Semaphore::State {
  Monitor monitor;
  long value;
  std::optional<long> limit;
};

Semaphore::Semaphore(long value, std::optional<long> limit) : state_(std::make_shared<State>()) {
  if (value < 0) throw ValueError("semaphore initial value must be >= 0");
  state_->value = value;
  state_->limit = limit;
}

bool Semaphore::take(Clock::time_point deadline) const {
  const Guard guard(state_->monitor);
  if (!state_->monitor.wait_for([this] { return state_->value > 0; }, deadline)) return false;
  --state_->value;
  return true;
}

void Semaphore::release() const {
  const Guard guard(state_->monitor);
  if (state_->limit && state_->value >= *state_->limit) {
    throw ValueError("Semaphore released too many times");
  }
  ++state_->value;
  state_->monitor.changed();
}

long Semaphore::get_value() const {
  const Guard guard(state_->monitor);
  return state_->value;
}

// Condition. Each waiter has a ticket of its own in the list; notify() takes tickets out of it, so
// that exactly those wake that waited then.

struct Condition::State {
  explicit State(std::variant<Lock, RLock> of) : lock(std::move(of)) {}
  std::variant<Lock, RLock> lock;
  Monitor monitor;
  std::list<bool*> waiting;  // each points to "was notified" on its waiter's stack
};

Condition::Condition(const RLock& lock) : state_(std::make_shared<State>(lock)) {}
Condition::Condition(const Lock& lock) : state_(std::make_shared<State>(lock)) {}

bool Condition::take(Clock::time_point deadline) const {
  return std::visit([deadline](const auto& lock) { return lock.take(deadline); }, state_->lock);
}

void Condition::release() const {
  std::visit([](const auto& lock) { lock.release(); }, state_->lock);
}

bool Condition::wait(Timeout timeout) const { return wait_until(timeout.deadline()); }

bool Condition::wait_until(Clock::time_point deadline) const {
  std::size_t depth = 1;
  const RLock* const again = std::get_if<RLock>(&state_->lock);
  if (again != nullptr) {
    const Guard guard(again->state_->monitor);
    const bool mine = again->state_->owner == runtime::thread_token();
    depth = mine ? again->state_->depth : 0;
  } else if (!std::get<Lock>(state_->lock).locked()) {
    depth = 0;
  }
  if (depth == 0) throw std::runtime_error("cannot wait on un-acquired lock");
  bool notified = false;
  Guard guard(state_->monitor);
  const auto place = state_->waiting.insert(state_->waiting.end(), &notified);
  for (std::size_t i = 0; i < depth; ++i) release();
  // The lock is the caller's again whatever ends the wait.
  const auto come_back = [&] {
    if (!notified) state_->waiting.erase(place);
    guard.unlock();
    for (std::size_t i = 0; i < depth; ++i) take_uninterrupted();
  };
  try {
    state_->monitor.wait_for([&notified] { return notified; }, deadline);
  } catch (...) {
    come_back();
    throw;
  }
  come_back();
  return notified;
}

// After SIGINT the lock is taken all the same, and the signal meets the next call.
void Condition::take_uninterrupted() const {
  bool interrupted = false;
  for (;;) {
    try {
      acquire();
      break;
    } catch (const KeyboardInterrupt&) {
      interrupted = true;
    }
  }
  if (interrupted) (void)shm::request_interrupt();
}

void Condition::notify(std::size_t n) const {
  const bool held = std::visit(
      [](const auto& lock) {
        if constexpr (std::same_as<std::remove_cvref_t<decltype(lock)>, RLock>) {
          const Guard guard(lock.state_->monitor);
          return lock.state_->depth != 0 && lock.state_->owner == runtime::thread_token();
        } else {
          return lock.locked();
        }
      },
      state_->lock);
  if (!held) throw std::runtime_error("cannot notify on un-acquired lock");
  const Guard guard(state_->monitor);
  for (; n > 0 && !state_->waiting.empty(); --n) {
    *state_->waiting.front() = true;
    state_->waiting.pop_front();
  }
  state_->monitor.changed();
}

// Event

struct Event::State {
  Monitor monitor;
  bool set = false;
  std::uint64_t sets = 0;  // who waits goes on even if it is cleared at once
};

Event::Event() : state_(std::make_shared<State>()) {}

bool Event::is_set() const {
  const Guard guard(state_->monitor);
  return state_->set;
}

void Event::set() const {
  const Guard guard(state_->monitor);
  state_->set = true;
  ++state_->sets;
  state_->monitor.changed();
}

void Event::clear() const {
  const Guard guard(state_->monitor);
  state_->set = false;
}

bool Event::wait(Timeout timeout) const {
  const Guard guard(state_->monitor);
  const std::uint64_t before = state_->sets;
  return state_->monitor.wait_for([&] { return state_->set || state_->sets != before; },
                                  timeout.deadline());
}

// Barrier

struct Barrier::State {
  State(int n, std::function<void()> what, Timeout limit)
      : parties(n), action(std::move(what)), timeout(limit) {}
  Monitor monitor;
  const int parties;
  const std::function<void()> action;
  const Timeout timeout;
  int arrived = 0;
  bool releasing = false;  // the action runs, or those of a full round leave
  bool broken = false;
  std::uint64_t round = 0;   // how many were full or reset
  std::uint64_t failed = 0;  // rounds below this one that were broken

  void break_it() {
    broken = true;
    monitor.changed();
  }
};

Barrier::Barrier(int parties, std::function<void()> action, Timeout timeout)
    : state_(std::make_shared<State>(parties, std::move(action), timeout)) {
  if (parties < 1) throw ValueError("parties must be > 0");
}

int Barrier::wait() const { return wait(state_->timeout); }

int Barrier::wait(Timeout timeout) const {
  State& s = *state_;
  Guard guard(s.monitor);
  const auto deadline = timeout.deadline();
  // A round that is being let go is not joined any more.
  s.monitor.wait_for([&s] { return !s.releasing || s.broken; }, Clock::time_point::max());
  if (s.broken) throw BrokenBarrierError("the barrier is broken");
  const int index = s.arrived++;
  const std::uint64_t round = s.round;
  if (s.arrived == s.parties) {
    s.releasing = true;
    try {
      if (s.action) {
        guard.unlock();
        s.action();
        guard.lock();
      }
    } catch (...) {
      if (!guard.owns_lock()) guard.lock();
      s.releasing = false;
      --s.arrived;
      s.break_it();
      throw;
    }
    ++s.round;
    s.monitor.changed();
  } else {
    bool complete = false;
    try {
      complete = s.monitor.wait_for([&] { return s.round != round || s.broken; }, deadline);
    } catch (...) {
      --s.arrived;
      s.break_it();
      throw;
    }
    if (!complete) s.break_it();
    if (s.round == round || round < s.failed) {
      if (--s.arrived == 0) s.releasing = false;
      s.monitor.changed();
      throw BrokenBarrierError("the barrier is broken");
    }
  }
  if (--s.arrived == 0) s.releasing = false;
  s.monitor.changed();
  return index;
}

void Barrier::reset() const {
  State& s = *state_;
  Guard guard(s.monitor);
  if (s.arrived > 0 && !s.releasing) {
    s.failed = ++s.round;  // those that wait fail, and leave
    s.releasing = true;
    s.monitor.changed();
  }
  s.broken = false;
}

void Barrier::abort() const {
  const Guard guard(state_->monitor);
  state_->break_it();
}

int Barrier::parties() const { return state_->parties; }

int Barrier::n_waiting() const {
  const Guard guard(state_->monitor);
  return state_->releasing ? 0 : state_->arrived;
}

bool Barrier::broken() const {
  const Guard guard(state_->monitor);
  return state_->broken;
}

}  // namespace millrace::dummy
