// Condition: a lock and the list of those who wait.
#include <exception>
#include <limits>
#include <millrace/synchronize.hpp>

#include "runtime/sync/synchronize.hpp"
#include "shm/waiter_list.hpp"

namespace millrace {
namespace {

// The object. Its links: the lock, and the list's next block.
struct State {
  shm::ObjectRef lock;
  shm::WaiterList waiters;
};
static_assert(sizeof(shm::ObjectRef) == 8);

State& state_of(const shm::ObjectRef& object) {
  return runtime::payload_of<State>(object, "Condition");
}

shm::SharedLock& lock_of(const State& state) {
  return runtime::payload_of<shm::SharedLock>(state.lock, "Condition");
}

shm::ObjectRef make_condition(const AnyLock& lock) {
  shm::ObjectRef made = runtime::make_object<Condition>(sizeof(State), 2);
  static_cast<State*>(made.payload())->lock = lock.object();
  return made;
}

void rescue(void* waiters) { static_cast<shm::WaiterList*>(waiters)->rescue(); }

// One call of wait(), from the lock held to the lock held again.
class Wait {
 public:
  Wait(State& state, const shm::Caller& me)
      : state_(state),
        lock_(lock_of(state)),
        me_(me),
        slot_(state.waiters.enter(me.id)),
        count_(lock_.count()) {
    lock_.free();
  }

  bool sleep(Timeout::Clock::time_point deadline) {
    shm::WaitPolicy policy = runtime::wait_policy();
    policy.on_long_wait = &rescue;
    policy.argument = &state_.waiters;
    bool notified = false;
    std::exception_ptr interrupted;
    try {
      notified = slot_.wait(policy, deadline);
    } catch (...) {
      interrupted = std::current_exception();
    }
    const bool chosen = notified || !slot_.give_up(me_.id);
    const shm::SharedLock::Result result = lock_.acquire_uninterrupted(me_);
    lock_.set_count(count_);
    if (chosen) slot_.leave();
    if (interrupted != nullptr) {
      if (chosen) state_.waiters.notify(1);  // not used up
      std::rethrow_exception(interrupted);
    }
    if (result.got == shm::Got::abandoned) throw AbandonedLock(static_cast<pid_t>(result.pid));
    return chosen;
  }

 private:
  State& state_;
  shm::SharedLock& lock_;
  const shm::Caller& me_;
  shm::WaiterList::Slot& slot_;
  std::uint32_t count_;
};

}  // namespace

Condition::Condition() : Condition(RLock()) {}
Condition::Condition(const AnyLock& lock) : SharedHandle(make_condition(lock)) {}

bool Condition::take(Timeout timeout) const {
  return runtime::take_lock(state_of(object()).lock, timeout);
}
void Condition::release() const { runtime::release_lock(state_of(object()).lock); }

bool Condition::wait(Timeout timeout) const {
  State& state = state_of(object());
  const shm::Caller& me = shm::this_caller();
  if (!lock_of(state).is_mine(me)) {
    throw AssertionError("must acquire() condition before using wait()");
  }
  const auto deadline = timeout.deadline();
  return Wait(state, me).sleep(deadline);
}

void Condition::notify(int n) const {
  State& state = state_of(object());
  if (!lock_of(state).is_mine(shm::this_caller())) throw AssertionError("lock is not owned");
  if (n > 0) state.waiters.notify(static_cast<std::uint64_t>(n));
}

void Condition::notify_all() const { notify(std::numeric_limits<int>::max()); }

std::string Condition::repr() const {
  const State& state = state_of(object());
  return "<Condition(" + AnyLock(shm::Existing{}, state.lock).repr() + ", " +
         std::to_string(state.waiters.waiting()) + ")>";
}

}  // namespace millrace
