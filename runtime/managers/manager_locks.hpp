// The locks of a manager: Python's threading, G13-G19, between clients. Unlike mp's own they are
// not in shared memory: only the server touches them.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

/// What a Condition may be made from: a Lock or an RLock.
class LockReferent : public Referent {
 public:
  /// Waits for it and takes it; false at the deadline. Throws AbandonedLock, and holds nothing
  /// then, when its owner ended: whoever asks next gets it.
  virtual bool take(ManagerCaller& caller, Timeout::Clock::time_point deadline) = 0;
  virtual void give(ManagerCaller& caller) = 0;
  /// True when this caller may wait for or notify a Condition of this lock.
  virtual bool owned(ManagerCaller& caller) = 0;
  /// Gives it up however often it was taken, and takes it as often again.
  virtual std::uint64_t give_all(ManagerCaller& caller) = 0;
  virtual void take_all(ManagerCaller& caller, std::uint64_t depth) = 0;
};

std::shared_ptr<LockReferent> make_lock_referent();
std::shared_ptr<LockReferent> make_rlock_referent();
/// Throws ValueError for a negative value.
std::shared_ptr<Referent> make_semaphore_referent(std::int64_t value, bool bounded);
std::shared_ptr<Referent> make_event_referent();
/// Throws ValueError for no parties.
struct BarrierPlan {
  std::int64_t parties = 0;
  std::function<void()> action = {};
  Object timeout = {};
};
std::shared_ptr<Referent> make_barrier_referent(BarrierPlan plan);
std::shared_ptr<Referent> make_condition_referent(std::shared_ptr<LockReferent> lock);

/// acquire()'s arguments as a deadline: threading's rules. `unlimited` is the timeout that stands
/// for none beside None.
enum class AcquireRules { lock, semaphore };
Timeout::Clock::time_point deadline_of_acquire(const Parameters& given, AcquireRules rules);

}  // namespace millrace::runtime
