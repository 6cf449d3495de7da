// Lock, RLock, Semaphore and BoundedSemaphore of a manager.
//
// When a client ends (SIGKILL at any instruction: the kernel closes its connections) its waiting
// calls end by CallerGone, then client_gone() marks what it held: a Lock or RLock as abandoned, for
// its next taker to be told; permits of a BoundedSemaphore come back.
#include "runtime/managers/manager_locks.hpp"

#include <cmath>
#include <limits>
#include <millrace/synchronize.hpp>
#include <stdexcept>

namespace millrace::runtime {

namespace {

using Clock = Timeout::Clock;
using Guard = std::unique_lock<Monitor>;

// What both locks do: who holds it, how often, and whether its holder has ended.
template <class Self>
class AnyLockReferent : public LockReferent {
 public:
  struct Method {
    std::string_view name;
    ManagerAnswer (AnyLockReferent::*run)(ManagerCall& call);
  };
  std::vector<std::string> public_methods() const override {
    return {"acquire", "locked", "release"};
  }
  bool has_method(std::string_view name) const override { return find(name) != nullptr; }
  ManagerAnswer call(ManagerCall& call) override {
    const Method* const method = find(call.method);
    if (method == nullptr) throw AttributeError(std::string(call.method));
    return (this->*method->run)(call);
  }

  bool take(ManagerCaller& caller, Clock::time_point deadline) override {
    const Guard guard(*monitor_);
    const auto free = [&] { return depth_ == 0 || self().may_retake(owner_, caller); };
    if (!caller.wait(monitor_, free, deadline)) return false;
    if (abandoned_ != 0) throw AbandonedLock(std::exchange(abandoned_, 0));
    owner_ = caller.id();
    client_ = caller.client().id;
    ++depth_;
    if (depth_ == 1) caller.client().holds(shared_from_this());
    return true;
  }
  void give(ManagerCaller& caller) override {
    const Guard guard(*monitor_);
    if (depth_ == 0 || !self().may_release(owner_, caller))
      throw std::runtime_error(Self::kRefusal);
    if (--depth_ == 0) monitor_->changed();
  }
  bool owned(ManagerCaller& caller) override {
    const Guard guard(*monitor_);
    return depth_ != 0 && self().may_release(owner_, caller);
  }
  std::uint64_t give_all(ManagerCaller&) override {
    const Guard guard(*monitor_);
    monitor_->changed();
    return std::exchange(depth_, 0);
  }
  void take_all(ManagerCaller& caller, std::uint64_t depth) override {
    take(caller, Clock::time_point::max());
    const Guard guard(*monitor_);
    depth_ = depth;
  }
  void client_gone(const ManagerClient& client) override {
    const Guard guard(*monitor_);
    if (depth_ == 0 || client_ != client.id) return;
    depth_ = 0;
    abandoned_ = client.pid;
    monitor_->changed();
  }
  std::string repr() override {
    const Guard guard(*monitor_);
    return std::string(depth_ == 0 ? "<unlocked " : "<locked ") + class_name() + " object at " +
           address_text(this) + ">";
  }

 private:
  Self& self() noexcept { return static_cast<Self&>(*this); }
  static const Method* find(std::string_view name) noexcept {
    for (const Method& each : kMethods) {
      if (each.name == name) return &each;
    }
    return nullptr;
  }
  ManagerAnswer do_acquire(ManagerCall& call) {
    return take(call.caller,
                deadline_of_acquire(call.bind({"blocking", "timeout"}), AcquireRules::lock));
  }
  ManagerAnswer do_release(ManagerCall& call) {
    call.bind({});
    give(call.caller);
    return {};
  }
  ManagerAnswer do_locked(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    return depth_ != 0;
  }
  static constexpr Method kMethods[] = {{"acquire", &AnyLockReferent::do_acquire},
                                        {"release", &AnyLockReferent::do_release},
                                        {"__enter__", &AnyLockReferent::do_acquire},
                                        {"__exit__", &AnyLockReferent::do_release},
                                        {"locked", &AnyLockReferent::do_locked}};

  const std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  std::uint64_t depth_ = 0;
  std::uint64_t owner_ = 0;   // the connection that took it
  std::uint64_t client_ = 0;  // and its client
  pid_t abandoned_ = 0;       // the process that ended with it
};

class PlainLock final : public AnyLockReferent<PlainLock> {
 public:
  static constexpr const char* kRefusal = "release unlocked lock";
  std::string class_name() const override { return "_thread.lock"; }
  static bool may_retake(std::uint64_t, ManagerCaller&) noexcept { return false; }
  static bool may_release(std::uint64_t, ManagerCaller&) noexcept { return true; }
};

class ReentrantLock final : public AnyLockReferent<ReentrantLock> {
 public:
  static constexpr const char* kRefusal = "cannot release un-acquired lock";
  std::string class_name() const override { return "_thread.RLock"; }
  static bool may_retake(std::uint64_t owner, ManagerCaller& caller) noexcept {
    return owner == caller.id();
  }
  static bool may_release(std::uint64_t owner, ManagerCaller& caller) noexcept {
    return owner == caller.id();
  }
};

class SemaphoreReferent final : public TableReferent<SemaphoreReferent> {
 public:
  SemaphoreReferent(std::int64_t value, bool bounded)
      : value_(value), limit_(value), bounded_(bounded) {
    if (value < 0) throw ValueError("semaphore initial value must be >= 0");
  }
  std::string class_name() const override {
    return bounded_ ? "threading.BoundedSemaphore" : "threading.Semaphore";
  }
  std::string repr() override {
    const Guard guard(*monitor_);
    return "<" + class_name() + " at " + address_text(this) + ": value=" + std::to_string(value_) +
           ">";
  }
  void client_gone(const ManagerClient& client) override {
    const Guard guard(*monitor_);
    const auto taken = taken_.find(client.id);
    if (taken == taken_.end()) return;
    value_ += taken->second;
    taken_.erase(taken);
    monitor_->changed();
  }

  ManagerAnswer acquire(ManagerCall& call) {
    const Parameters given = call.bind({"blocking", "timeout"});
    const Clock::time_point deadline = deadline_of_acquire(given, AcquireRules::semaphore);
    const Guard guard(*monitor_);
    if (!call.caller.wait(
            monitor_, [this] { return value_ > 0; }, deadline))
      return false;
    --value_;
    if (bounded_ && call.caller.client().ends_with_process) {
      ++taken_[call.caller.client().id];
      call.caller.client().holds(shared_from_this());
    }
    return true;
  }
  ManagerAnswer release(ManagerCall& call) {
    const Parameters given = call.bind({"n"});
    const std::int64_t count = given.has(0) ? given[0].as<std::int64_t>() : 1;
    if (count < 1) throw ValueError("n must be one or more");
    const Guard guard(*monitor_);
    if (bounded_ && count > limit_ - value_) throw ValueError("Semaphore released too many times");
    if (count > std::numeric_limits<std::int64_t>::max() - value_) {
      throw OverflowError("a Semaphore's value beyond 64 bits");
    }
    value_ += count;
    forget(call.caller.client().id, count);
    monitor_->changed();
    return {};
  }
  ManagerAnswer get_value(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    return value_;
  }

  static constexpr Method kMethods[] = {{"acquire", &SemaphoreReferent::acquire},
                                        {"release", &SemaphoreReferent::release},
                                        {"get_value", &SemaphoreReferent::get_value}};

 private:
  // Permits have no owner: one that another client gives back is taken off whoever has one.
  void forget(std::uint64_t client, std::int64_t count) {
    while (count > 0 && !taken_.empty()) {
      auto from = taken_.find(client);
      if (from == taken_.end()) from = taken_.begin();
      const std::int64_t fewer = std::min(count, from->second);
      count -= fewer;
      from->second -= fewer;
      if (from->second == 0) taken_.erase(from);
    }
  }

  const std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  std::int64_t value_;
  const std::int64_t limit_;
  const bool bounded_;
  std::map<std::uint64_t, std::int64_t> taken_;  // permits of a BoundedSemaphore, by client
};

constexpr std::chrono::duration<double> kLongest = std::chrono::nanoseconds::max();

}  // namespace

Clock::time_point deadline_of_acquire(const Parameters& given, AcquireRules rules) {
  const bool blocking = given.flag(0, true);
  const Object& timeout = given[1];
  const bool lock = rules == AcquireRules::lock;
  const bool limited = !timeout.is_none() && !(lock && timeout == Object(-1));
  if (!blocking) {
    if (limited) throw ValueError("can't specify a timeout for a non-blocking call");
    return Clock::time_point::min();
  }
  if (!limited) return Clock::time_point::max();
  if (lock) {
    if (is_negative(timeout)) throw ValueError("timeout value must be a non-negative number");
    const auto seconds = timeout.as<double>();
    if (std::isnan(seconds)) throw ValueError("Invalid value NaN (not a number)");
    if (seconds > kLongest.count()) throw OverflowError("timeout value is too large");
  }
  return timeout_of(timeout).deadline();
}

std::shared_ptr<LockReferent> make_lock_referent() { return std::make_shared<PlainLock>(); }
std::shared_ptr<LockReferent> make_rlock_referent() { return std::make_shared<ReentrantLock>(); }
std::shared_ptr<Referent> make_semaphore_referent(std::int64_t value, bool bounded) {
  return std::make_shared<SemaphoreReferent>(value, bounded);
}

}  // namespace millrace::runtime
