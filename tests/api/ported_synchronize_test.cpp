// CPython's tests of what processes synchronise by, over its three start methods: each case names
// its counterpart in _TestLock, _TestSemaphore, _TestCondition and _TestEvent of
// Lib/test/_test_multiprocessing.py. Where those sleep, these wait for what the sleep was for.
#include <chrono>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/ported_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

class PortedSynchronize : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedSynchronize, all_methods(), method_name);

TEST_P(PortedSynchronize, ALockExcludesAChild) {  // _TestLock.test_lock, test_lock_context
  const mp::Lock lock;
  EXPECT_TRUE(lock.acquire());
  EXPECT_EQ(run_spawned([lock] {
              if (lock.try_acquire()) throw mp::SystemExit(1);
              lock.release();
              const std::scoped_lock guard(lock);
            }),
            0);
  EXPECT_THROW(lock.release(), mp::ValueError);
}

TEST_P(PortedSynchronize, AnRLockIsItsHoldersAlone) {  // _TestLock.test_rlock
  const mp::RLock lock;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(lock.acquire());
  EXPECT_EQ(run_spawned([lock] {
              if (lock.try_acquire()) throw mp::SystemExit(1);
              try {
                lock.release();
              } catch (const mp::AssertionError&) {
                throw mp::SystemExit(7);
              }
            }),
            7);
  for (int i = 0; i < 3; ++i) lock.release();
  EXPECT_THROW(lock.release(), mp::AssertionError);
}

template <class S>
void take_two(const S& semaphore) {
  const auto expect = [](bool right) {
    if (!right) throw mp::SystemExit(1);
  };
  expect(semaphore.get_value() == 2);
  expect(semaphore.acquire() && semaphore.get_value() == 1);
  expect(semaphore.acquire() && semaphore.get_value() == 0);
  expect(!semaphore.try_acquire() && !semaphore.acquire(1ms) && semaphore.get_value() == 0);
  semaphore.release();
  expect(semaphore.get_value() == 1);
  semaphore.release();
  expect(semaphore.get_value() == 2);
}

// _TestSemaphore.test_semaphore, test_bounded_semaphore, test_timeout
TEST_P(PortedSynchronize, SemaphoresCountInAChild) {
  const mp::Semaphore semaphore(2);
  EXPECT_EQ(run_spawned(take_two<mp::Semaphore>, semaphore), 0);
  semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 3);
  const mp::BoundedSemaphore bounded(2);
  EXPECT_EQ(run_spawned(take_two<mp::BoundedSemaphore>, bounded), 0);
  EXPECT_THROW(bounded.release(), mp::ValueError);
  EXPECT_EQ(bounded.get_value(), 2);
}

void sleep_and_tell(const mp::Condition& condition, const Count& sleeping, const Count& woken) {
  const std::scoped_lock guard(condition);
  sleeping.release();
  if (!condition.wait()) throw mp::SystemExit(1);
  woken.release();
}

void sleep_in_vain(const mp::Condition& condition, const Count& sleeping, const Count& woken) {
  const std::scoped_lock guard(condition);
  sleeping.release();
  if (condition.wait(10ms)) throw mp::SystemExit(1);
  woken.release();
}

void notify(const mp::Condition& condition, int n) {
  const std::scoped_lock guard(condition);
  condition.notify(n);
}

void take(const Count& count, int n) {
  for (int i = 0; i < n; ++i) count.acquire();
}

// Processes and threads of this one that wait for a condition: `n` of each.
class Sleepers {
 public:
  using Body = void (*)(const mp::Condition&, const Count&, const Count&);
  Sleepers(int n, Body body, const mp::Condition& condition, const Count& woken)
      : processes_(started(n, body, condition, sleeping_, woken)) {
    for (int i = 0; i < n; ++i) {
      threads_.emplace_back([=, this] { EXPECT_NO_THROW(body(condition, sleeping_, woken)); });
    }
    take(sleeping_, 2 * n);
  }
  Sleepers(const Sleepers&) = delete;
  Sleepers& operator=(const Sleepers&) = delete;
  ~Sleepers() {
    end_well(processes_);
    for (auto& t : threads_) t.join();
  }

 private:
  Count sleeping_{0};
  std::vector<mp::Process> processes_;
  std::vector<std::thread> threads_;
};

// Nobody waits, and nothing was stored.
void expect_idle(const mp::Condition& condition) {
  EXPECT_EQ(condition.repr(), "<Condition(<RLock(None, 0)>, 0)>");
}

TEST_P(PortedSynchronize, NotifyWakesAProcessAndAThread) {  // _TestCondition.test_notify
  const mp::Condition condition;
  const Count woken(0);
  {
    const Sleepers sleepers(1, sleep_and_tell, condition, woken);
    EXPECT_EQ(woken.get_value(), 0);
    notify(condition, 1);
    take(woken, 1);
    EXPECT_EQ(woken.get_value(), 0) << "the other one sleeps";
    notify(condition, 1);
    take(woken, 1);
  }
  expect_idle(condition);
}

TEST_P(PortedSynchronize, NotifyAllWakesAll) {  // _TestCondition.test_notify_all
  const mp::Condition condition;
  const Count woken(0);
  { const Sleepers timed_out(3, sleep_in_vain, condition, woken); }
  take(woken, 6);
  expect_idle(condition);
  {
    const Sleepers sleepers(3, sleep_and_tell, condition, woken);
    EXPECT_EQ(woken.get_value(), 0);
    const std::scoped_lock guard(condition);
    condition.notify_all();
  }
  EXPECT_EQ(woken.get_value(), 6);
  expect_idle(condition);
}

TEST_P(PortedSynchronize, NotifyWakesSoMany) {  // _TestCondition.test_notify_n
  const mp::Condition condition;
  const Count woken(0);
  {
    const Sleepers sleepers(3, sleep_and_tell, condition, woken);
    notify(condition, 2);
    take(woken, 2);
    EXPECT_EQ(woken.get_value(), 0) << "no third one";
    notify(condition, 4);
  }
  EXPECT_EQ(woken.get_value(), 4);
  notify(condition, 3);
  expect_idle(condition);
}

TEST_P(PortedSynchronize, WaitForWaitsForItsPredicate) {  // _TestCondition.test_waitfor
  const mp::Condition condition;
  const mp::Value<int> state(-1);
  auto child = started(
      1,
      [](const mp::Condition& c, const mp::Value<int>& s) {
        const std::scoped_lock guard(c);
        s.set(0);
        c.notify();
        if (!c.wait_for([&] { return s.get() == 4; }) || s.get() != 4) throw mp::SystemExit(1);
      },
      condition, state);
  {
    const std::scoped_lock guard(condition);
    EXPECT_TRUE(condition.wait_for([&] { return state.get() == 0; }));
  }
  for (int i = 0; i < 4; ++i) {
    const std::scoped_lock guard(condition);
    state.update([](int& value) { ++value; });
    condition.notify();
  }
  end_well(child);
}

// _TestCondition.test_waitfor_timeout, test_timeout
TEST_P(PortedSynchronize, WaitForEndsAtItsTimeout) {
  const mp::Condition condition;
  const mp::Value<int> state(0);
  const mp::Semaphore ready(0);
  auto child = started(
      1,
      [](const mp::Condition& c, const mp::Value<int>& s, const mp::Semaphore& r) {
        r.release();
        const std::scoped_lock guard(c);
        const auto start = std::chrono::steady_clock::now();
        if (c.wait_for([&] { return s.get() == 4; }, 50ms)) throw mp::SystemExit(1);
        if (std::chrono::steady_clock::now() - start < 50ms) throw mp::SystemExit(2);
      },
      condition, state, ready);
  ready.acquire();
  for (int i = 0; i < 3; ++i) {  // never 4
    const std::scoped_lock guard(condition);
    state.update([](int& value) { ++value; });
    condition.notify();
  }
  end_well(child);
}

// _TestCondition.test_wait_result; its SIGINT: synchronize_sigint_test.cpp
TEST_P(PortedSynchronize, WaitTellsWhetherItWasNotified) {
  const mp::Condition condition;
  const std::scoped_lock guard(condition);
  EXPECT_FALSE(condition.wait(0s));
  EXPECT_FALSE(condition.wait(10ms));
  auto child = started(1, notify, condition, 1);
  EXPECT_TRUE(condition.wait());
  end_well(child);
}

TEST_P(PortedSynchronize, AnEventIsSetByAChild) {  // _TestEvent.test_event
  const mp::Event event;
  EXPECT_FALSE(event.wait(0s));
  event.set();
  EXPECT_TRUE(event.wait());
  event.clear();
  auto child = started(
      1, [](const mp::Event& e) { e.set(); }, event);
  EXPECT_TRUE(event.wait());
  EXPECT_TRUE(event.is_set());
  end_well(child);
}

}  // namespace
}  // namespace millrace::test
