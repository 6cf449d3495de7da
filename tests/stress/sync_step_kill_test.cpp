// Locks, semaphores, conditions and events: their user ended at every instruction of what
// it does. Afterwards they work, and say what Python could not.
#include <gtest/gtest.h>

#include <millrace/synchronize.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "shm/barrier.hpp"
#include "shm/caller.hpp"
#include "shm/permits.hpp"
#include "shm/shared_lock.hpp"
#include "tests/shm/in_child.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace {
namespace {

using namespace std::chrono_literals;
using stress::step_kill;
using stress::StepKillCase;

constexpr long kFewest = 40;

void expect_unbroken(const stress::StepKillResult& result) {
  EXPECT_EQ(result.broken, 0);
  EXPECT_GE(result.kills, kFewest);
  EXPECT_GT(result.instructions, 0) << "the operation did not come to its end";
  ::testing::Test::RecordProperty("kills", static_cast<int>(result.kills));
}

// Takes the lock from whoever may have died with it. `told` counts who had.
template <class L>
bool works(const L& lock, int& told) {
  try {
    if (!lock.acquire(30s)) return false;
    lock.release();
  } catch (const AbandonedLock& e) {
    ++told;
    if (e.pid() != stress::step_kill_victim) return false;
  }
  if (lock.locked()) return false;
  return lock.try_acquire() && (lock.release(), !lock.locked());
}

template <class L>
class LockKill : public ::testing::Test {};
using Locks = ::testing::Types<Lock, RLock>;
TYPED_TEST_SUITE(LockKill, Locks);

TYPED_TEST(LockKill, AcquireAndRelease) {
  std::optional<TypeParam> lock;
  int told = 0;
  StepKillCase c;
  c.setup = [&] { lock.emplace(); };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] {
    lock->acquire();
    lock->release();
  };
  c.frozen = [&](long) {
    if (lock->try_acquire()) lock->release();
    return true;
  };
  c.check = [&](long, bool) { return works(*lock, told); };
  expect_unbroken(step_kill(c));
  EXPECT_GT(told, 5) << "it was killed while it held the lock as well";
}

TYPED_TEST(LockKill, AWaitThatEndsAtItsDeadline) {
  std::optional<TypeParam> lock;
  int told = 0;
  StepKillCase c;
  c.stride = 23;
  c.setup = [&] {
    lock.emplace();
    lock->acquire();
  };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { (void)lock->acquire(1ns); };
  c.check = [&](long, bool) {
    lock->release();
    return works(*lock, told) && told == 0;
  };
  expect_unbroken(step_kill(c));
}

TYPED_TEST(LockKill, TakingTheLockOfTheDead) {
  std::optional<TypeParam> lock;
  pid_t first = 0;
  StepKillCase c;
  c.stride = 3;
  c.setup = [&] {
    lock.emplace();
    first = test::start_child([&] {
      lock->acquire();
      ::raise(SIGKILL);
      return 0;
    });
    test::wait_for(first);
  };
  c.prepare = [] { shm::this_caller(); };
  // Below the handle, whose exception is a long way to step through.
  c.operation = [&] {
    static_cast<shm::SharedLock*>(lock->object().payload())->try_acquire(shm::this_caller());
  };
  c.check = [&](long, bool) {
    try {
      lock->acquire();
      lock->release();
    } catch (const AbandonedLock& e) {
      if (e.pid() != first && e.pid() != stress::step_kill_victim) return false;
    }
    return !lock->locked();
  };
  expect_unbroken(step_kill(c));
}

TEST(SyncKill, SemaphoreAcquireAndRelease) {
  std::optional<Semaphore> sem;
  StepKillCase c;
  c.setup = [&] { sem.emplace(2); };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] {
    sem->acquire();
    sem->release();
  };
  c.frozen = [&](long) {
    const bool got = sem->try_acquire();
    if (got) sem->release();
    return got;
  };
  c.check = [&](long, bool finished) {
    const int left = sem->get_value();
    return (left == 2 || (left == 1 && !finished)) && sem->try_acquire();
  };
  expect_unbroken(step_kill(c));
}

TEST(SyncKill, BoundedSemaphorePermitsComeBack) {
  std::optional<BoundedSemaphore> sem;
  StepKillCase c;
  c.setup = [&] { sem.emplace(2); };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] {
    sem->acquire();
    sem->acquire();
    (void)sem->try_acquire();
    sem->release();
  };
  c.check = [&](long, bool) {
    for (int i = 0; i < 2; ++i) {
      if (!sem->acquire(30s)) return false;
    }
    if (sem->try_acquire()) return false;
    sem->release();
    sem->release();
    return sem->get_value() == 2;
  };
  expect_unbroken(step_kill(c));
}

TEST(SyncKill, PermitsNeverUsedBeforeComeBackToo) {
  constexpr int kUsed = shm::Permits::kUsedAtOnce;
  std::optional<BoundedSemaphore> sem;
  StepKillCase c;
  c.setup = [&] {
    sem.emplace(kUsed + 2);
    for (int i = 0; i < kUsed; ++i) sem->acquire();
  };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] {
    sem->acquire();
    sem->release();
  };
  c.check = [&](long, bool) {
    for (int i = 0; i < 2; ++i) {
      if (!sem->acquire(30s)) return false;
    }
    if (sem->try_acquire()) return false;
    for (int i = 0; i < kUsed + 2; ++i) sem->release();
    return sem->get_value() == kUsed + 2;
  };
  expect_unbroken(step_kill(c));
}

TEST(SyncKill, ConditionWaitAndNotify) {
  std::optional<Condition> condition;
  StepKillCase c;
  c.stride = 41;
  c.setup = [&] { condition.emplace(); };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] {
    condition->acquire();
    condition->wait(0ns);
    condition->notify();
    condition->release();
  };
  c.check = [&](long, bool) {
    try {
      condition->acquire();
    } catch (const AbandonedLock& e) {
      e.keep();
    }
    std::thread notifier([&] {
      condition->acquire();
      condition->notify();
      condition->release();
    });
    const bool notified = condition->wait(30s);
    condition->release();
    notifier.join();
    return notified;
  };
  expect_unbroken(step_kill(c));
}

// A barrier of two, and a user of it that waits with short slices.
class BarrierKill : public ::testing::Test {
 protected:
  void make() { barrier_.emplace(2); }
  [[nodiscard]] shm::Barrier& word() const {
    return *static_cast<shm::Barrier*>(barrier_->object().payload());
  }
  [[nodiscard]] std::int64_t wait(Timeout timeout = {}) const {
    shm::Barrier::Visit visit{shm::self(), {}, timeout.deadline()};
    visit.policy.slice = 1ms;
    return word().wait(visit);
  }
  // Two come: whatever they are told, they do not stay.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> two() const {
    std::int64_t other = 0;
    std::thread second([&] { other = wait(); });
    const std::int64_t own = wait();
    second.join();
    return {own, other};
  }
  [[nodiscard]] bool works_after_reset() const {
    word().reset();
    const auto [a, b] = two();
    return a >= 0 && b >= 0 && a + b == 1 && word().waiting() == 0 && !word().broken();
  }

  std::optional<Barrier> barrier_;
};

TEST_F(BarrierKill, AsTheFirstWhoGivesUp) {
  int broken = 0;
  StepKillCase c;
  c.stride = 9;  // each takes some slices of those who find out
  c.setup = [&] { make(); };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { (void)wait(0ns); };
  c.check = [&](long, bool finished) {
    const auto [a, b] = two();
    broken += a < 0 || b < 0;
    if (finished && (a >= 0 || b >= 0)) return false;  // who gives up breaks it
    return works_after_reset();
  };
  expect_unbroken(step_kill(c));
  EXPECT_GT(broken, 5) << "it was killed inside as well";
}

TEST_F(BarrierKill, AsTheLastWhoLetsTheOtherPass) {
  std::thread first;
  std::int64_t told = 0;
  int passed = 0;
  int broken = 0;
  StepKillCase c;
  c.stride = 2;
  c.setup = [&] {
    make();
    first = std::thread([&] { told = wait(); });
    while (word().waiting() == 0) std::this_thread::yield();
  };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { (void)wait(); };
  c.check = [&](long, bool finished) {
    // The other passes, or is told of the death; or the victim never came, and it waits on.
    std::int64_t own = -1;
    if (word().waiting() != 0) own = wait();
    first.join();
    ++(told >= 0 ? passed : broken);
    return (!finished || (told == 0 && own == -1)) && works_after_reset();
  };
  expect_unbroken(step_kill(c));
  EXPECT_GT(passed, 5);
  EXPECT_GT(broken, 0) << "it was killed between its arrival and its being counted";
}

TEST(SyncKill, EventSetAndClear) {
  std::optional<Event> event;
  StepKillCase c;
  c.setup = [&] { event.emplace(); };
  c.operation = [&] {
    event->set();
    event->clear();
    event->set();
  };
  c.frozen = [&](long) {
    (void)event->is_set();
    return true;
  };
  c.check = [&](long, bool) {
    event->clear();
    std::thread setter([&] { event->set(); });
    const bool set = event->wait(30s);
    setter.join();
    return set && event->is_set();
  };
  expect_unbroken(step_kill(c));
}

}  // namespace
}  // namespace millrace
