// CPython's tests of locks, conditions, events, barriers, queues and pools as it runs them over a
// manager's proxies: each case names its counterpart, WithManagerTestX of _TestX in
// Lib/test/_test_multiprocessing.py. Where those sleep, these wait for what the sleep was for.
#include <chrono>
#include <millrace/managers.hpp>
#include <millrace/process.hpp>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/api/ported_support.hpp"

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kLong = 60s;

class PortedManagerTypes : public WithManager {
 protected:
  template <class F, class... Args>
  void start(int n, F f, const Args&... args) {
    for (int i = 0; i < n; ++i) children.emplace_back(f, args...).start();
  }
  void end_well() {
    for (Process& each : children) {
      EXPECT_TRUE(each.join());
      EXPECT_EQ(each.exitcode(), 0);
    }
    children.clear();
  }

  std::vector<Process> children;
};

// WithManagerTestLock.test_lock, test_lock_context
TEST_F(PortedManagerTypes, ALockExcludesAChild) {
  const auto lock = manager->Lock();
  lock.acquire();
  start(1, [](const AcquirerProxy& l) { require(!l.try_acquire() && !l.acquire(1ms)); }, lock);
  end_well();
  lock.release();
  EXPECT_THROW(lock.release(), std::runtime_error);
  start(1, [](const AcquirerProxy& l) { const std::scoped_lock guard(l); }, lock);
  end_well();
  EXPECT_TRUE(lock.try_acquire());
  lock.release();
}

TEST_F(PortedManagerTypes, AnRLockIsItsHoldersAlone) {  // WithManagerTestLock.test_rlock
  const auto lock = manager->RLock();
  for (int i = 0; i < 3; ++i) lock.acquire();
  start(1, [](const AcquirerProxy& l) { require(!l.try_acquire()); }, lock);
  end_well();
  for (int i = 0; i < 3; ++i) lock.release();
  EXPECT_THROW(lock.release(), std::runtime_error);
}

// WithManagerTestSemaphore.test_semaphore, test_bounded_semaphore, test_timeout
TEST_F(PortedManagerTypes, SemaphoresCountInAChild) {
  const auto take_two = [](const AcquirerProxy& s) {
    s.acquire();
    require(s.try_acquire() && !s.try_acquire() && !s.acquire(1ms));
    s.release();
    s.release();
  };
  const auto semaphore = manager->Semaphore(2);
  const auto bounded = manager->BoundedSemaphore(2);
  start(1, take_two, semaphore);
  start(1, take_two, bounded);
  end_well();
  semaphore.release();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(semaphore.try_acquire());
  EXPECT_FALSE(semaphore.try_acquire());
  for (int i = 0; i < 3; ++i) semaphore.release();
  EXPECT_THROW(bounded.release(), ValueError);
}

// Holds the condition from the word that it sleeps until it does.
void sleep_and_tell(const ConditionProxy& condition, const AcquirerProxy& sleeping,
                    const AcquirerProxy& woken) {
  const std::scoped_lock guard(condition);
  sleeping.release();
  require(condition.wait(kLong));
  woken.release();
}
void await(const AcquirerProxy& count, int n) {
  for (int i = 0; i < n; ++i) ASSERT_TRUE(count.acquire(kLong));
}
void notify(const ConditionProxy& condition, int n) {
  const std::scoped_lock guard(condition);
  condition.notify(n);
}

// WithManagerTestCondition.test_notify, test_notify_n
TEST_F(PortedManagerTypes, NotifyWakesSoMany) {
  const auto condition = manager->Condition();
  const auto sleeping = manager->Semaphore(0);
  const auto woken = manager->Semaphore(0);
  start(3, sleep_and_tell, condition, sleeping, woken);
  std::thread thread([&] { sleep_and_tell(condition, sleeping, woken); });
  await(sleeping, 4);
  notify(condition, 1);
  await(woken, 1);
  EXPECT_FALSE(woken.try_acquire());
  notify(condition, 2);
  await(woken, 2);
  EXPECT_FALSE(woken.try_acquire());
  notify(condition, 4);
  await(woken, 1);
  thread.join();
  end_well();
}

// WithManagerTestCondition.test_notify_all, test_timeout
TEST_F(PortedManagerTypes, NotifyAllWakesAll) {
  const auto condition = manager->Condition();
  const auto sleeping = manager->Semaphore(0);
  const auto woken = manager->Semaphore(0);
  {
    const std::scoped_lock guard(condition);
    EXPECT_FALSE(condition.wait(1ms)) << "nobody notifies";
  }
  start(3, sleep_and_tell, condition, sleeping, woken);
  await(sleeping, 3);
  {
    const std::scoped_lock guard(condition);
    condition.notify_all();
  }
  await(woken, 3);
  end_well();
}

// WithManagerTestCondition.test_waitfor, test_waitfor_timeout, test_wait_result
TEST_F(PortedManagerTypes, WaitForWaitsForItsPredicate) {
  const auto condition = manager->Condition();
  const auto state = manager->Value('i', 0);
  start(
      1,
      [](const ConditionProxy& c, const ValueProxy& v) {
        for (int i = 1; i < 5; ++i) {
          const std::scoped_lock guard(c);
          v.set(i);
          c.notify();
        }
      },
      condition, state);
  {
    const std::scoped_lock guard(condition);
    EXPECT_TRUE(condition.wait_for([&] { return state.get<int>() == 4; }, kLong));
    EXPECT_FALSE(condition.wait_for([&] { return state.get<int>() == 5; }, 1ms));
  }
  end_well();
}

TEST_F(PortedManagerTypes, AnEventIsSetByAChild) {  // WithManagerTestEvent.test_event
  const auto event = manager->Event();
  EXPECT_FALSE(event.is_set());
  EXPECT_FALSE(event.wait(0s));
  EXPECT_FALSE(event.wait(1ms));
  start(1, [](const EventProxy& e) { e.set(); }, event);
  EXPECT_TRUE(event.wait());
  EXPECT_TRUE(event.is_set());
  end_well();
  event.clear();
  EXPECT_FALSE(event.is_set());
}

// WithManagerTestBarrier.test_barrier, test_barrier_10, test_thousand: nobody is a round ahead.
TEST_F(PortedManagerTypes, ABarrierIsPassedInLockstep) {
  const auto barrier = manager->Barrier(3);
  const auto passed = manager->list({0, 0, 0});
  const auto rounds = [](const BarrierProxy& b, const ListProxy& all, int me) {
    for (int i = 1; i <= 100; ++i) {
      all[me] = i;
      b.wait(kLong);
      for (const Object& each : all) require(each.as<int>() == i);
      b.wait(kLong);
    }
  };
  start(1, rounds, barrier, passed, 0);
  start(1, rounds, barrier, passed, 1);
  EXPECT_NO_THROW(rounds(barrier, passed, 2));
  end_well();
  EXPECT_EQ(barrier.n_waiting(), 0);
  EXPECT_FALSE(barrier.broken());
}

// WithManagerTestBarrier.test_wait_return, test_action, test_single_thread
TEST_F(PortedManagerTypes, OnePartyIsNumberNoughtAndTheActionRunsOnce) {
  const Semaphore acted(0);
  const auto barrier = manager->Barrier(3, [acted] { acted.release(); });
  const auto numbers = manager->list();
  const auto pass = [](const BarrierProxy& b, const ListProxy& all) { all.append(b.wait(kLong)); };
  start(2, pass, barrier, numbers);
  pass(barrier, numbers);
  end_well();
  numbers.sort();
  EXPECT_EQ(numbers.slice(None, None), (List{0, 1, 2}));
  EXPECT_EQ(acted.get_value(), 1);
  const auto alone = manager->Barrier(1);
  EXPECT_EQ(alone.wait(), 0);
  EXPECT_EQ(alone.wait(), 0);
}

// Waits, and tells by what it was broken off.
void wait_broken(const BarrierProxy& barrier, const AcquirerProxy& broken) {
  try {
    barrier.wait(kLong);
  } catch (const BrokenBarrierError&) {
    broken.release();
  }
}
void await_waiting(const BarrierProxy& barrier, int n) {
  while (barrier.n_waiting() != n) std::this_thread::yield();
}

// WithManagerTestBarrier.test_abort, test_reset, test_abort_and_reset
TEST_F(PortedManagerTypes, AbortAndResetFreeThoseWhoWait) {
  const auto barrier = manager->Barrier(3);
  const auto broken = manager->Semaphore(0);
  start(2, wait_broken, barrier, broken);
  await_waiting(barrier, 2);
  barrier.reset();
  await(broken, 2);
  end_well();
  EXPECT_FALSE(barrier.broken());
  start(2, wait_broken, barrier, broken);
  await_waiting(barrier, 2);
  barrier.abort();
  await(broken, 2);
  end_well();
  EXPECT_TRUE(barrier.broken());
  EXPECT_THROW(barrier.wait(), BrokenBarrierError);
  barrier.reset();
  start(2, [](const BarrierProxy& b) { b.wait(kLong); }, barrier);
  barrier.wait(kLong);
  end_well();
}

// WithManagerTestBarrier.test_timeout, test_default_timeout
TEST_F(PortedManagerTypes, ATimeoutBreaksABarrierForAll) {
  const auto broken = manager->Semaphore(0);
  const auto barrier = manager->Barrier(3);
  start(1, wait_broken, barrier, broken);
  await_waiting(barrier, 1);
  EXPECT_THROW(barrier.wait(1ms), BrokenBarrierError);
  await(broken, 1);
  end_well();
  EXPECT_TRUE(barrier.broken());
  EXPECT_THROW(manager->Barrier(2, None, 1ms).wait(), BrokenBarrierError);
}

// WithManagerTestQueue.test_put, test_get, test_qsize, test_timeout
TEST_F(PortedManagerTypes, AChildEmptiesAFullQueueAndFillsIt) {
  const auto queue = manager->Queue(6);
  for (int i = 1; i <= 4; ++i) queue.put(i);
  queue.put(5, 1ms);
  queue.put_nowait(6);
  EXPECT_EQ(queue.qsize(), 6U);
  EXPECT_TRUE(queue.full());
  EXPECT_THROW(queue.put_nowait(7), queue::Full);
  EXPECT_THROW(queue.put(7, 1ms), queue::Full);
  start(
      1,
      [](const QueueProxy& q) {
        for (int i = 1; i <= 6; ++i) require(q.get<int>() == i);
        for (int i = 2; i <= 5; ++i) q.put(i);
      },
      queue);
  end_well();
  EXPECT_EQ(queue.get<int>(kLong), 2);
  EXPECT_EQ(queue.get_nowait<int>(), 3);
  EXPECT_EQ(queue.get<int>(), 4);
  EXPECT_EQ(queue.get<int>(), 5);
  EXPECT_TRUE(queue.empty());
  EXPECT_THROW(static_cast<void>(queue.get_nowait()), queue::Empty);
  EXPECT_THROW(static_cast<void>(queue.get(1ms)), queue::Empty);
}

// WithManagerTestQueue.test_fork, test_task_done
TEST_F(PortedManagerTypes, JoinWaitsForFourWorkers) {
  const auto queue = manager->JoinableQueue();
  queue.put(-1);
  start(
      4,
      [](const QueueProxy& q) {
        while (!q.get().is_none()) q.task_done();
        q.task_done();
      },
      queue);
  for (int i = 0; i < 10; ++i) queue.put(i);
  queue.join();
  for (int i = 0; i < 4; ++i) queue.put(None);
  queue.join();
  end_well();
  EXPECT_THROW(queue.task_done(), ValueError);
}

int square(int x) { return x * x; }
int product(int x, int y) { return x * y; }
int refuse(int x) { throw ValueError(std::to_string(x)); }

std::vector<int> numbers_to(int n) {
  std::vector<int> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// WithManagerTestPool.test_apply, test_map, test_starmap, test_empty_iterable, test_map_no_failfast
TEST_F(PortedManagerTypes, APoolMaps) {
  const auto pool = manager->Pool(2);
  EXPECT_EQ(pool.apply(square, 5), 25);
  const auto squares = pool.map(square, numbers_to(100));
  ASSERT_EQ(squares.size(), 100U);
  EXPECT_EQ(squares[99], 99 * 99);
  const std::vector<std::tuple<int, int>> pairs{{2, 3}, {4, 5}};
  EXPECT_EQ(pool.starmap(product, pairs), (std::vector<int>{6, 20}));
  EXPECT_TRUE(pool.map(square, std::vector<int>()).empty());
  EXPECT_THROW(pool.apply(refuse, 7), ValueError);
  EXPECT_THROW(pool.map(refuse, numbers_to(4)), ValueError);
  pool.close();
  pool.join();
}

// WithManagerTestPool.test_async, test_async_timeout, test_map_async, test_starmap_async,
// test_imap, test_imap_unordered
TEST_F(PortedManagerTypes, APoolAnswersLater) {
  const auto pool = manager->Pool(2);
  const auto later = pool.apply_async(square, 7);
  EXPECT_EQ(later.get(kLong), 49);
  EXPECT_TRUE(later.ready() && later.successful());
  EXPECT_EQ(pool.map_async(square, numbers_to(3)).get(), (std::vector<int>{0, 1, 4}));
  const std::vector<std::tuple<int, int>> pairs{{2, 3}, {4, 5}};
  EXPECT_EQ(pool.starmap_async(product, pairs).get(), (std::vector<int>{6, 20}));
  const auto failed = pool.apply_async(refuse, 1);
  failed.wait();
  EXPECT_FALSE(failed.successful());
  EXPECT_THROW(failed.get(), ValueError);
  const Semaphore gate(0);
  const auto slow = pool.apply_async(
      [gate](int x) {
        gate.acquire();
        return x;
      },
      1);
  EXPECT_THROW(slow.get(1ms), TimeoutError);
  EXPECT_FALSE(slow.ready());
  gate.release();
  EXPECT_EQ(slow.get(), 1);
  const auto each = pool.imap(square, numbers_to(10));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(each.next(), Object(i * i));
  EXPECT_FALSE(each.next().has_value());
  const auto any = pool.imap_unordered(square, numbers_to(10));
  int sum = 0;
  while (const auto got = any.next()) sum += got->as<int>();
  EXPECT_EQ(sum, 285);
  pool.close();
  pool.join();
}

// WithManagerTestPool.test_terminate, test_enter
TEST_F(PortedManagerTypes, APoolIsTerminatedWithWhatItDoes) {
  const Semaphore never(0);
  const auto pool = manager->Pool(2);
  const auto lost = pool.map_async(
      [never](int x) {
        never.acquire();
        return x;
      },
      numbers_to(10));
  EXPECT_THROW(pool.join(), ValueError);
  pool.terminate();
  pool.join();
  EXPECT_THROW(pool.apply(square, 1), ValueError);
}

}  // namespace
}  // namespace millrace::test
