// The locks of mp::dummy: D05-D11, with threading's errors.
#include <signal.h>

#include <atomic>
#include <millrace/dummy.hpp>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
namespace dummy = millrace::dummy;
using namespace std::chrono_literals;

class DummySync : public millrace::test::LeakCheck {
 protected:
  void SetUp() override {
    ::signal(SIGALRM, &millrace::test::on_hang);
    ::alarm(100);
    LeakCheck::SetUp();
  }
  void TearDown() override {
    LeakCheck::TearDown();
    ::alarm(0);
  }
};

TEST_F(DummySync, ALockExcludes) {
  const dummy::Lock lock;
  int counter = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const std::scoped_lock guard(lock);
        ++counter;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(counter, 8000);
  EXPECT_TRUE(lock.try_acquire());
  EXPECT_TRUE(lock.locked());
  EXPECT_FALSE(lock.try_acquire());
  EXPECT_FALSE(lock.acquire(5ms));
  EXPECT_FALSE(lock.acquire(-1s));
  std::thread([lock] { lock.release(); }).join();  // anybody may
  EXPECT_THROW(lock.release(), std::runtime_error);
  const dummy::Lock same(lock);
  EXPECT_EQ(same, lock);
  EXPECT_NE(dummy::Lock(), lock);
}

TEST_F(DummySync, AnRLockBelongsToItsThread) {
  const dummy::RLock lock;
  lock.acquire();
  EXPECT_TRUE(lock.try_acquire());
  std::thread([lock] {
    EXPECT_FALSE(lock.try_acquire());
    EXPECT_THROW(lock.release(), std::runtime_error);
  }).join();
  lock.release();
  EXPECT_TRUE(lock.locked());
  lock.release();
  EXPECT_FALSE(lock.locked());
  EXPECT_THROW(lock.release(), std::runtime_error);
  std::unique_lock timed(lock, 1s);
  EXPECT_TRUE(timed.owns_lock());
}

TEST_F(DummySync, SemaphoresCount) {
  const dummy::Semaphore semaphore(2);
  EXPECT_TRUE(semaphore.try_acquire());
  EXPECT_TRUE(semaphore.try_acquire());
  EXPECT_FALSE(semaphore.acquire(1ms));
  for (int i = 0; i < 5; ++i) semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 5);
  const dummy::BoundedSemaphore bounded(1);
  EXPECT_THROW(bounded.release(), mp::ValueError);
  EXPECT_THROW(dummy::Semaphore(-1), mp::ValueError);
}

TEST_F(DummySync, AConditionWakesAsManyAsItIsTold) {
  const dummy::Condition condition;
  std::atomic<int> woken{0};
  std::atomic<int> inside{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      const std::scoped_lock guard(condition);
      const std::scoped_lock again(condition);  // an RLock: wait releases both
      ++inside;
      EXPECT_TRUE(condition.wait());
      ++woken;
    });
  }
  for (;;) {
    const std::scoped_lock guard(condition);
    if (inside == 3) break;  // all wait: each had the lock to count itself
  }
  EXPECT_THROW(condition.notify(), std::runtime_error);
  EXPECT_THROW(condition.wait(), std::runtime_error);
  {
    const std::scoped_lock guard(condition);
    condition.notify();
  }
  while (woken < 1) std::this_thread::yield();
  {
    const std::scoped_lock guard(condition);
    EXPECT_FALSE(condition.wait(10ms));
    EXPECT_EQ(woken, 1);
    condition.notify_all();
  }
  for (auto& thread : threads) thread.join();
  const std::scoped_lock guard(condition);
  EXPECT_FALSE(condition.wait_for([] { return false; }, 1ms));
  EXPECT_TRUE(condition.wait_for([] { return true; }));
}

TEST_F(DummySync, AnEventLetsEverybodyGo) {
  const dummy::Event event;
  EXPECT_FALSE(event.wait(1ms));
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([event] { EXPECT_TRUE(event.wait()); });
  }
  event.set();
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(event.is_set());
  event.clear();
  EXPECT_FALSE(event.is_set());
}

TEST_F(DummySync, ABarrierGivesEachPartyItsNumber) {
  std::atomic<int> actions{0};
  const dummy::Barrier barrier(3, [&] { ++actions; });
  std::atomic<int> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) sum += barrier.wait();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(sum, 500 * 3);
  EXPECT_EQ(actions, 500);
}

TEST_F(DummySync, ABrokenBarrierThrowsUntilReset) {
  const dummy::Barrier barrier(2);
  EXPECT_THROW(barrier.wait(1ms), mp::BrokenBarrierError);
  EXPECT_TRUE(barrier.broken());
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  barrier.reset();
  EXPECT_FALSE(barrier.broken());
  std::thread waiter([&] { EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError); });
  while (barrier.n_waiting() == 0) std::this_thread::yield();
  barrier.reset();
  waiter.join();
  std::thread other([&] { EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError); });
  while (barrier.n_waiting() == 0) std::this_thread::yield();
  barrier.abort();
  other.join();
  EXPECT_EQ(barrier.parties(), 2);
  EXPECT_THROW(dummy::Barrier(0), mp::ValueError);
  const dummy::Barrier throwing(1, [] { throw std::out_of_range("action"); });
  EXPECT_THROW(throwing.wait(), std::out_of_range);
  EXPECT_TRUE(throwing.broken());
}

}  // namespace
