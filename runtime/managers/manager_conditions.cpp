// Condition, Event and Barrier of a manager.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "runtime/managers/manager_locks.hpp"

namespace millrace::runtime {

namespace {

using Clock = Timeout::Clock;
using Guard = std::unique_lock<Monitor>;

// wait()'s argument: seconds from now, a negative number is none at all.
Clock::time_point deadline_of_wait(const Object& timeout) { return timeout_of(timeout).deadline(); }

// Each waiter has a ticket; notify() marks the oldest. The list has a lock of its own, so that
// waiters sleep beside the Condition's lock and not in it.
class ConditionReferent final : public TableReferent<ConditionReferent> {
 public:
  explicit ConditionReferent(std::shared_ptr<LockReferent> lock) : lock_(std::move(lock)) {}
  std::string class_name() const override { return "threading.Condition"; }
  std::string repr() override {
    const std::string lock = lock_->repr();
    const Guard guard(*monitor_);
    return "<Condition(" + lock + ", " +
           std::to_string(std::count(waiting_.begin(), waiting_.end(), false)) + ")>";
  }

  ManagerAnswer pass_on(ManagerCall& call) { return lock_->call(call); }
  ManagerAnswer wait(ManagerCall& call) {
    const Parameters given = call.bind({"timeout"});
    const Clock::time_point deadline = deadline_of_wait(given[0]);
    if (!lock_->owned(call.caller)) throw std::runtime_error("cannot wait on un-acquired lock");
    std::list<bool>::iterator ticket;
    {
      const Guard guard(*monitor_);
      ticket = waiting_.insert(waiting_.end(), false);
    }
    const std::uint64_t depth = lock_->give_all(call.caller);
    const bool notified = sleep(call.caller, ticket, deadline);
    lock_->take_all(call.caller, depth);
    return notified;
  }
  ManagerAnswer notify(ManagerCall& call) {
    const Parameters given = call.bind({"n"});
    check_owned(call);
    wake(given.has(0) ? given[0].as<std::int64_t>() : 1);
    return {};
  }
  ManagerAnswer notify_all(ManagerCall& call) {
    call.bind({});
    check_owned(call);
    wake(INT64_MAX);
    return {};
  }

  static constexpr Method kMethods[] = {
      {"acquire", &ConditionReferent::pass_on}, {"release", &ConditionReferent::pass_on},
      {"locked", &ConditionReferent::pass_on},  {"wait", &ConditionReferent::wait},
      {"notify", &ConditionReferent::notify},   {"notify_all", &ConditionReferent::notify_all}};

 private:
  void check_owned(ManagerCall& call) {
    if (!lock_->owned(call.caller)) throw std::runtime_error("cannot notify on un-acquired lock");
  }
  void wake(std::int64_t count) {
    const Guard guard(*monitor_);
    for (bool& each : waiting_) {
      if (count <= 0) break;
      if (each) continue;
      each = true;
      --count;
    }
    monitor_->changed();
  }
  // A waiter whose client is gone hands its notification on.
  bool sleep(ManagerCaller& caller, std::list<bool>::iterator ticket, Clock::time_point deadline) {
    Guard guard(*monitor_);
    try {
      const bool notified = caller.wait(
          monitor_, [&] { return *ticket; }, deadline);
      waiting_.erase(ticket);
      return notified;
    } catch (const CallerGone&) {
      const bool notified = *ticket;
      waiting_.erase(ticket);
      guard.unlock();
      if (notified) wake(1);
      throw;
    }
  }

  const std::shared_ptr<LockReferent> lock_;
  const std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  std::list<bool> waiting_;  // in the order of arrival; true: notified
};

class EventReferent final : public TableReferent<EventReferent> {
 public:
  std::string class_name() const override { return "threading.Event"; }
  std::string repr() override {
    const Guard guard(*monitor_);
    return "<threading.Event at " + address_text(this) + (set_ ? ": set>" : ": unset>");
  }
  ManagerAnswer is_set(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    return set_;
  }
  ManagerAnswer set(ManagerCall& call) {
    call.bind({});
    change(true);
    return {};
  }
  ManagerAnswer clear(ManagerCall& call) {
    call.bind({});
    change(false);
    return {};
  }
  ManagerAnswer wait(ManagerCall& call) {
    const Parameters given = call.bind({"timeout"});
    const Clock::time_point deadline = deadline_of_wait(given[0]);
    const Guard guard(*monitor_);
    // One that is set and cleared again while this waits has been set.
    const std::uint64_t before = times_set_;
    return call.caller.wait(
        monitor_, [&] { return set_ || times_set_ != before; }, deadline);
  }

  static constexpr Method kMethods[] = {{"is_set", &EventReferent::is_set},
                                        {"isSet", &EventReferent::is_set},
                                        {"set", &EventReferent::set},
                                        {"clear", &EventReferent::clear},
                                        {"wait", &EventReferent::wait}};

 private:
  void change(bool to) {
    const Guard guard(*monitor_);
    set_ = to;
    if (to) ++times_set_;
    monitor_->changed();
  }

  const std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  bool set_ = false;
  std::uint64_t times_set_ = 0;
};

// Fills until all parties are there, then drains until they have left. A party whose client ends
// while it waits breaks the barrier.
class BarrierReferent final : public TableReferent<BarrierReferent> {
 public:
  explicit BarrierReferent(BarrierPlan plan) : plan_(std::move(plan)) {
    if (plan_.parties < 1) throw ValueError("parties must be > 0");
  }
  std::string class_name() const override { return "threading.Barrier"; }
  std::string repr() override {
    const Guard guard(*monitor_);
    const std::string at = "<threading.Barrier at " + address_text(this);
    if (phase_ == Phase::broken) return at + ": broken>";
    return at + ": waiters=" + std::to_string(phase_ == Phase::filling ? waiting_ : 0) + "/" +
           std::to_string(plan_.parties) + ">";
  }

  ManagerAnswer wait(ManagerCall& call) {
    const Parameters given = call.bind({"timeout"});
    const Object& timeout = given[0].is_none() ? plan_.timeout : given[0];
    const Clock::time_point deadline = deadline_of_wait(timeout);
    Guard guard(*monitor_);
    const auto open = [this] { return phase_ != Phase::draining && phase_ != Phase::resetting; };
    (void)call.caller.wait(monitor_, open, Clock::time_point::max());
    if (phase_ == Phase::broken) throw BrokenBarrierError("the barrier is broken");
    const std::int64_t index = waiting_++;
    const Leaving leaving{*this};
    if (index + 1 == plan_.parties) {
      let_go();
    } else {
      stay(call.caller, deadline);
    }
    return index;
  }
  ManagerAnswer reset(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    if (waiting_ > 0) {
      if (phase_ == Phase::filling || phase_ == Phase::broken) phase_ = Phase::resetting;
    } else {
      phase_ = Phase::filling;
    }
    monitor_->changed();
    return {};
  }
  ManagerAnswer abort(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    break_it();
    return {};
  }
  ManagerAnswer attribute(ManagerCall& call) {
    const Parameters given = call.bind({"name"}, 1);
    const auto name = given[0].as<std::string>();
    const Guard guard(*monitor_);
    if (name == "parties") return plan_.parties;
    if (name == "n_waiting") return phase_ == Phase::filling ? waiting_ : 0;
    if (name == "broken") return phase_ == Phase::broken;
    throw AttributeError("'Barrier' object has no attribute '" + name + "'");
  }

  static constexpr Method kMethods[] = {{"__getattribute__", &BarrierReferent::attribute},
                                        {"wait", &BarrierReferent::wait},
                                        {"abort", &BarrierReferent::abort},
                                        {"reset", &BarrierReferent::reset}};

 private:
  enum class Phase { filling, draining, resetting, broken };
  struct Leaving {
    BarrierReferent& barrier;
    explicit Leaving(BarrierReferent& of) : barrier(of) {}
    Leaving(const Leaving&) = delete;
    ~Leaving() {
      const bool last = --barrier.waiting_ == 0;
      if (last && (barrier.phase_ == Phase::draining || barrier.phase_ == Phase::resetting)) {
        barrier.phase_ = Phase::filling;
      }
      if (last) barrier.monitor_->changed();
    }
  };

  void break_it() {
    phase_ = Phase::broken;
    monitor_->changed();
  }
  void let_go() {
    try {
      if (plan_.action) plan_.action();
    } catch (...) {
      break_it();
      throw;
    }
    phase_ = Phase::draining;
    monitor_->changed();
  }
  void stay(ManagerCaller& caller, Clock::time_point deadline) {
    try {
      if (!caller.wait(
              monitor_, [this] { return phase_ != Phase::filling; }, deadline)) {
        break_it();
      }
    } catch (const CallerGone&) {
      if (phase_ == Phase::filling) break_it();
      throw;
    }
    if (phase_ != Phase::draining) throw BrokenBarrierError("the barrier is broken");
  }

  const BarrierPlan plan_;
  const std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  std::int64_t waiting_ = 0;
  Phase phase_ = Phase::filling;
};

}  // namespace

std::shared_ptr<Referent> make_condition_referent(std::shared_ptr<LockReferent> lock) {
  return std::make_shared<ConditionReferent>(std::move(lock));
}
std::shared_ptr<Referent> make_event_referent() { return std::make_shared<EventReferent>(); }
std::shared_ptr<Referent> make_barrier_referent(BarrierPlan plan) {
  return std::make_shared<BarrierReferent>(std::move(plan));
}

}  // namespace millrace::runtime
