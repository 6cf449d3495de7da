// Condition (S14-S20, S34), also when those who wait are killed.
// CPython: _TestCondition; its cases under each start method: ported_synchronize_test.cpp.
#include <millrace/millrace.hpp>
#include <numeric>
#include <sstream>
#include <vector>

#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

static_assert(mp::Serializable<mp::Condition>);
static_assert(sizeof(mp::Condition) == sizeof(void*));

// Waits until `n` wait for the condition.
void until_waiting(const mp::Condition& condition, int n) {
  const std::string end = ", " + std::to_string(n) + ")>";
  for (;;) {
    const std::string text = condition.repr();
    if (text.size() > end.size() && text.substr(text.size() - end.size()) == end) return;
    std::this_thread::yield();
  }
}

std::vector<mp::Process> waiters(const mp::Condition& condition, int n) {
  std::vector<mp::Process> all;
  for (int i = 0; i < n; ++i) {
    all.emplace_back([condition] {
      const std::scoped_lock guard(condition);
      if (condition.wait()) told()->fetch_add(1);
    });
    all.back().start();
  }
  until_waiting(condition, n);
  return all;
}

void notify(const mp::Condition& condition, int n) {
  const std::scoped_lock guard(condition);
  condition.notify(n);
}

TEST_F(Synchronize, ConditionNeedsItsLockS14S19) {
  const mp::Condition condition;
  EXPECT_THROW(condition.wait(), mp::AssertionError);
  EXPECT_THROW(condition.notify(), mp::AssertionError);
  EXPECT_THROW(condition.notify_all(), mp::AssertionError);
  EXPECT_THROW(condition.release(), mp::AssertionError);
  const mp::Lock lock;
  const mp::Condition over(lock);
  lock.acquire();
  std::thread([&] { EXPECT_THROW(over.notify(), mp::AssertionError); }).join();
  over.notify();
  over.release();
  EXPECT_FALSE(lock.locked());
}

TEST_F(Synchronize, ConditionReprNamesLockAndSleepersS34) {
  const mp::Condition condition;
  EXPECT_EQ(condition.repr(), "<Condition(<RLock(None, 0)>, 0)>");
  EXPECT_EQ(mp::Condition(mp::Lock()).repr(), "<Condition(<Lock(owner=None)>, 0)>");
}

TEST_F(Synchronize, NotifyWakesOneAtATimeS19) {
  const mp::Condition condition;
  auto all = waiters(condition, 3);
  for (int i = 1; i <= 3; ++i) {
    notify(condition, 1);
    until_told(i);
    until_waiting(condition, 3 - i);
    EXPECT_EQ(told()->load(), i);
  }
  notify(condition, 1);
  for (auto& p : all) p.join();
  EXPECT_EQ(told()->load(), 3);
}

TEST_F(Synchronize, NotifyWakesSeveralAndAllS19S20) {
  const mp::Condition condition;
  auto all = waiters(condition, 6);
  notify(condition, 2);
  until_told(2);
  until_waiting(condition, 4);
  {
    const std::scoped_lock guard(condition);
    condition.notify_all();
  }
  for (auto& p : all) p.join();
  EXPECT_EQ(told()->load(), 6);
}

TEST_F(Synchronize, WaitTimesOutWithTheLockHeldS15) {
  const mp::Condition condition;
  const std::scoped_lock guard(condition);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(condition.wait(10ms));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 10ms);
  condition.notify();  // nobody: not stored
  EXPECT_FALSE(condition.wait(1ms));
}

TEST_F(Synchronize, WaitUnwindsAndRestoresTheRecursionS17) {
  const mp::RLock lock;
  const mp::Condition condition(lock);
  lock.acquire();
  condition.acquire();
  EXPECT_EQ(lock.repr(), "<RLock(MainProcess, 2)>");
  mp::Process child([condition] { notify(condition, 1); });
  child.start();
  EXPECT_TRUE(condition.wait());
  EXPECT_EQ(lock.repr(), "<RLock(MainProcess, 2)>");
  condition.release();
  lock.release();
  child.join();
}

TEST_F(Synchronize, WaitForReturnsThePredicatesLastValueS18) {
  const mp::Condition condition;
  const mp::shared_array<int> flag(1);
  mp::Process child([condition, flag] {
    for (int i = 1; i <= 4; ++i) {
      const std::scoped_lock guard(condition);
      flag[0] = i;
      condition.notify();
    }
  });
  const std::scoped_lock guard(condition);
  child.start();
  EXPECT_EQ(condition.wait_for([&] { return flag[0] == 4 ? 17 : 0; }), 17);
  EXPECT_FALSE(condition.wait_for([&] { return flag[0] == 5; }, 10ms));
  EXPECT_TRUE(condition.wait_for([&] { return flag[0] == 4; }, 0s));
  child.join();
}

TEST_F(Synchronize, MoreWaitersThanOneBlockHolds) {
  const mp::Condition condition;
  std::vector<std::thread> all;
  for (int i = 0; i < 90; ++i) {
    all.emplace_back([&] {
      const std::scoped_lock guard(condition);
      condition.wait();
      told()->fetch_add(1);
    });
  }
  until_waiting(condition, 90);
  notify(condition, 30);
  until_told(30);
  until_waiting(condition, 60);
  notify(condition, 1000);
  for (auto& t : all) t.join();
  EXPECT_EQ(told()->load(), 90);
}

TEST_F(Synchronize, TheFirstToWaitIsNotifiedFirst) {
  const mp::Condition condition;
  std::vector<int> order;
  std::vector<std::thread> all;
  for (int i = 0; i < 5; ++i) {
    all.emplace_back([&, i] {
      const std::scoped_lock guard(condition);
      condition.wait();
      order.push_back(i);
      told()->fetch_add(1);
    });
    until_waiting(condition, i + 1);
  }
  for (int i = 1; i <= 5; ++i) {
    notify(condition, 1);
    until_told(i);
  }
  for (auto& t : all) t.join();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST_F(Synchronize, ANotificationIsNotLostWithAKilledWaiter) {
  const mp::Condition condition;
  auto all = waiters(condition, 1);
  mp::Process second([condition] {
    const std::scoped_lock guard(condition);
    if (condition.wait()) told()->fetch_add(10);
  });
  second.start();
  until_waiting(condition, 2);
  {
    const std::scoped_lock guard(condition);
    ::kill(static_cast<pid_t>(all[0].pid().value()), SIGSTOP);
    condition.notify();  // the one that stands still
  }
  all[0].kill();
  second.join();
  all[0].join();
  EXPECT_EQ(told()->load(), 10);
}

TEST_F(Synchronize, AWaiterIsToldThatItsLockWasAbandonedAndHoldsIt) {
  const mp::Lock lock;
  const mp::Condition condition(lock);
  mp::Process child([condition] {
    condition.acquire();
    condition.notify();
    ::raise(SIGKILL);
  });
  lock.acquire();
  child.start();
  EXPECT_THROW(condition.wait(), mp::AbandonedLock);
  EXPECT_TRUE(lock.locked()) << "as after any wait";
  lock.release();
  child.join();
}

}  // namespace
}  // namespace millrace::test
