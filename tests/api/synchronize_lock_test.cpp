// Lock and RLock (S01-S08, S34, S36), and what becomes of them when their holder dies.
// CPython: _TestLock; its cases under each start method: ported_synchronize_test.cpp.
#include <millrace/millrace.hpp>
#include <sstream>
#include <vector>

#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

static_assert(sizeof(mp::Lock) == sizeof(void*));
static_assert(mp::Serializable<mp::Lock> && mp::Serializable<mp::RLock> &&
              mp::Serializable<mp::AnyLock>);
template <class L>
concept WaitsForANumber = requires(const L& lock) {
  lock.acquire(1);
};
static_assert(!WaitsForANumber<mp::Lock> && !WaitsForANumber<mp::Semaphore>);

TEST_F(Synchronize, LockIsTakenOnceAndReleasedOnceS01S04) {
  const mp::Lock lock;
  EXPECT_TRUE(lock.acquire());
  EXPECT_FALSE(lock.try_acquire());
  lock.release();
  EXPECT_THROW(lock.release(), mp::ValueError);
  EXPECT_TRUE(lock.try_acquire());
  lock.release();
}

TEST_F(Synchronize, LockTimesOutAndNegativeTimeoutsAreZeroS02S03) {
  const mp::Lock lock;
  lock.acquire();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(lock.acquire(20ms));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 20ms);
  EXPECT_FALSE(lock.acquire(-1s));
  lock.release();
  EXPECT_TRUE(lock.acquire(-1s));
  lock.release();
}

TEST_F(Synchronize, AnyProcessMayReleaseALockS04) {
  const mp::Lock lock;
  in_process([lock] {
    lock.acquire();
    lock.release();
    lock.acquire();
    lock.release();
  });
  lock.acquire();
  in_process([lock] { lock.release(); });
  EXPECT_FALSE(lock.locked());
}

TEST_F(Synchronize, RLockCountsAndIsReleasedByItsHolderOnlyS05S07) {
  const mp::RLock lock;
  EXPECT_THROW(lock.release(), mp::AssertionError);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(lock.acquire());
  std::thread([&] {
    EXPECT_FALSE(lock.try_acquire());
    EXPECT_THROW(lock.release(), mp::AssertionError);
  }).join();
  in_process([lock] {
    EXPECT_FALSE(lock.try_acquire()) << "the child of the holder is another process";
    EXPECT_THROW(lock.release(), mp::AssertionError);
    if (::testing::Test::HasFailure()) throw 1;
  });
  for (int i = 0; i < 3; ++i) lock.release();
  EXPECT_THROW(lock.release(), mp::AssertionError);
}

TEST_F(Synchronize, LockedIsSeenByEveryProcessS08) {
  const mp::Lock lock;
  const mp::RLock rlock;
  lock.acquire();
  rlock.acquire();
  in_process([lock, rlock] {
    if (!lock.locked() || !rlock.locked()) throw 1;
  });
  lock.release();
  rlock.release();
  in_process([lock, rlock] {
    if (lock.locked() || rlock.locked()) throw 1;
  });
}

TEST_F(Synchronize, ReprNamesTheHolderS34) {
  const mp::Lock lock;
  const mp::RLock rlock;
  EXPECT_EQ(lock.repr(), "<Lock(owner=None)>");
  EXPECT_EQ(rlock.repr(), "<RLock(None, 0)>");
  lock.acquire();
  rlock.acquire();
  rlock.acquire();
  EXPECT_EQ(lock.repr(), "<Lock(owner=MainProcess)>");
  EXPECT_EQ(rlock.repr(), "<RLock(MainProcess, 2)>");
  std::thread([&] {
    EXPECT_EQ(lock.repr(), "<Lock(owner=SomeOtherThread)>");
    EXPECT_EQ(rlock.repr(), "<RLock(SomeOtherThread, nonzero)>");
  }).join();
  in_process([lock, rlock] {
    if (lock.repr() != "<Lock(owner=SomeOtherProcess)>") throw 1;
    if (rlock.repr() != "<RLock(SomeOtherProcess, nonzero)>") throw 1;
  });
  std::ostringstream text;
  text << lock << rlock;
  EXPECT_EQ(text.str(), "<Lock(owner=MainProcess)><RLock(MainProcess, 2)>");
  lock.release();
  std::thread([&] {
    lock.acquire();
    EXPECT_EQ(lock.repr().rfind("<Lock(owner=MainProcess|Thread-", 0), 0U) << lock.repr();
    lock.release();
  }).join();
  rlock.release();
  rlock.release();
}

TEST_F(Synchronize, HandlesCompareByIdentityAndMovedOnesSaySo) {
  mp::Lock a;
  mp::Lock b;
  const mp::Lock copy = a;
  EXPECT_TRUE(copy == a);
  EXPECT_FALSE(a == b);
  const mp::Lock moved = std::move(a);
  EXPECT_TRUE(moved == copy);
  EXPECT_THROW(a.acquire(), mp::ValueError);  // NOLINT: that is what is tested
  b = copy;
  EXPECT_TRUE(b == moved);
}

TEST_F(Synchronize, LocksServeTheStandardLibrary) {
  const mp::Lock a;
  const mp::RLock b;
  {
    const std::scoped_lock both(a, b);
    EXPECT_TRUE(a.locked() && b.locked());
  }
  EXPECT_FALSE(a.locked() || b.locked());
  std::unique_lock<const mp::Lock> deferred(a, std::defer_lock);
  EXPECT_TRUE(deferred.try_lock_for(1s));
  EXPECT_FALSE(a.try_lock_until(std::chrono::system_clock::now() + 1ms));
}

// Many processes add to a counter that nothing else protects: each turn is exclusive, and each
// process gets its turns.
template <class L>
void count_together(int processes, int turns) {
  const L lock;
  const mp::shared_array<long> counter(1);
  std::vector<mp::Process> all;
  for (int i = 0; i < processes; ++i) {
    all.emplace_back(
        [](const L& mine, const mp::shared_array<long>& sum, int n) {
          for (int k = 0; k < n; ++k) {
            const std::scoped_lock guard(mine);
            const long seen = sum[0];
            if (k % 512 == 0) std::this_thread::yield();
            sum[0] = seen + 1;
          }
        },
        lock, counter, turns);
    all.back().start();
  }
  for (auto& p : all) p.join();
  for (auto& p : all) EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(counter[0], long{processes} * turns);
}

TEST_F(Synchronize, ALockExcludesS01) { count_together<mp::Lock>(4, 20000); }
TEST_F(Synchronize, AnRLockExcludesS05) { count_together<mp::RLock>(4, 20000); }

TEST_F(Synchronize, AWaiterGetsItsTurnFromOneThatAlwaysComesBack) {
  const mp::Lock lock;
  lock.acquire();
  mp::Process greedy([lock] {
    told()->fetch_add(1);
    // Gives the lock back for a moment only, on whatever cpu.
    while (told()->load() < 2) {
      const std::scoped_lock guard(lock);
      for (int i = 0; i < 20000; ++i) asm volatile("" ::: "memory");
    }
  });
  greedy.start();
  until_told(1);
  lock.release();
  for (int i = 0; i < 50; ++i) {
    lock.acquire();
    lock.release();
  }
  told()->fetch_add(1);
  greedy.join();
}

// The next to come after a holder's death is told; one test for each way to come.
template <class L, class Acquire>
void abandoned(Acquire acquire) {
  const L lock;
  const pid_t dead = killed_after([lock] { lock.acquire(); });
  bool thrown = false;
  try {
    acquire(lock);
  } catch (const mp::AbandonedLock& e) {
    thrown = true;
    EXPECT_EQ(e.pid(), dead);
    EXPECT_TRUE(lock.locked()) << "held for repair";
    std::thread([&] { EXPECT_FALSE(lock.try_acquire()); }).join();
  }
  EXPECT_TRUE(thrown);
  EXPECT_FALSE(lock.locked()) << "released with the exception";
  EXPECT_TRUE(lock.try_acquire()) << "told once";
  lock.release();
}

TEST_F(Synchronize, TheNextIsToldThatTheHolderDied) {
  abandoned<mp::Lock>([](const auto& lock) { lock.acquire(); });
  abandoned<mp::RLock>([](const auto& lock) { lock.acquire(); });
  abandoned<mp::Lock>([](const auto& lock) { (void)lock.try_acquire(); });
  abandoned<mp::RLock>([](const auto& lock) { (void)lock.try_acquire(); });
  abandoned<mp::Lock>([](const auto& lock) { (void)lock.acquire(1s); });
  abandoned<mp::Lock>([](const auto& lock) { const std::scoped_lock guard(lock); });
  abandoned<mp::RLock>([](const auto& lock) { const std::unique_lock guard(lock); });
}

TEST_F(Synchronize, AHolderThatReturnsNormallyAbandonsToo) {
  const mp::Lock lock;
  in_process([lock] { lock.acquire(); });
  EXPECT_THROW(lock.acquire(), mp::AbandonedLock);
  EXPECT_FALSE(lock.locked());
}

TEST_F(Synchronize, KeepMakesTheCatcherTheOwner) {
  const mp::RLock lock;
  killed_after([lock] {
    lock.acquire();
    lock.acquire();
  });
  try {
    lock.acquire();
  } catch (const mp::AbandonedLock& e) {
    e.keep();
  }
  EXPECT_EQ(lock.repr(), "<RLock(MainProcess, 1)>");
  lock.release();
  EXPECT_FALSE(lock.locked());
}

TEST_F(Synchronize, AnExceptionThatIsCopiedHoldsUntilTheLastCopyIsGone) {
  const mp::Lock lock;
  killed_after([lock] { lock.acquire(); });
  std::exception_ptr kept;
  try {
    lock.acquire();
  } catch (const mp::AbandonedLock&) {
    kept = std::current_exception();
  }
  EXPECT_TRUE(lock.locked());
  kept = nullptr;
  EXPECT_FALSE(lock.locked());
}

TEST_F(Synchronize, WaitersLearnOfTheDeathWhileTheyWait) {
  const mp::Lock lock;
  mp::Process holder([lock] {
    lock.acquire();
    told()->fetch_add(1);
    for (;;) ::pause();
  });
  holder.start();
  until_told(1);
  std::vector<mp::Process> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([lock] {
      told()->fetch_add(1);
      try {
        lock.acquire();
        lock.release();
      } catch (const mp::AbandonedLock&) {
        told()->fetch_add(100);
      }
    });
    waiters.back().start();
  }
  until_told(4);
  holder.kill();
  for (auto& w : waiters) w.join();
  holder.join();
  EXPECT_EQ(told()->load(), 104) << "one was told, all went on";
}

TEST_F(Synchronize, AHolderThatDiesDuringRepairAbandonsAgain) {
  const mp::Lock lock;
  killed_after([lock] { lock.acquire(); });
  const pid_t second = killed_after([lock] {
    try {
      lock.acquire();
    } catch (const mp::AbandonedLock&) {
      ::raise(SIGKILL);
    }
  });
  try {
    lock.acquire();
    ADD_FAILURE();
  } catch (const mp::AbandonedLock& e) {
    EXPECT_EQ(e.pid(), second);
  }
}

TEST_F(Synchronize, AForkedChildDoesNotReleaseWhatItsParentRepairs) {
  const mp::Lock lock;
  killed_after([lock] { lock.acquire(); });
  std::exception_ptr repairing;
  try {
    lock.acquire();
  } catch (const mp::AbandonedLock&) {
    repairing = std::current_exception();
  }
  const pid_t child = ::fork();
  if (child == 0) {
    repairing = nullptr;
    ::_exit(lock.locked() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(lock.locked());
}

TEST_F(Synchronize, AbandonedLockTravelsWithItsPid) {
  const mp::Lock lock;
  const pid_t dead = killed_after([lock] { lock.acquire(); });
  mp::Pool pool(1);
  try {
    pool.apply([lock] { lock.acquire(); });
    ADD_FAILURE();
  } catch (const mp::AbandonedLock& e) {
    EXPECT_EQ(e.pid(), dead);
  }
  EXPECT_FALSE(lock.locked());
  pool.close();
  pool.join();
}

TEST_F(Synchronize, LocksTravelAsArgumentsAndInContainersS36) {
  const mp::Lock lock;
  lock.acquire();
  mp::Process child(
      [](const std::vector<mp::Lock>& all, const mp::AnyLock& any) {
        if (!all.at(0).locked() || !any.locked()) throw 1;
        any.release();
      },
      std::vector<mp::Lock>{lock, mp::Lock()}, mp::AnyLock(lock));
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  EXPECT_FALSE(lock.locked());
  mp::Pool pool(1);
  EXPECT_TRUE(pool.apply([](const mp::Lock& mine) { return mine.try_acquire(); }, lock));
  EXPECT_TRUE(lock.locked());
  EXPECT_TRUE(pool.apply([] { return mp::Lock(); }).try_acquire()) << "made by a worker";
}

// One that has waited for long keeps newcomers out; when it is gone there is nobody to keep out
// for.
template <class L>
void expect_free_after_a_long_wait(const L& lock) {
  for (int i = 0; i < 3; ++i) {
    lock.acquire();
    told()->store(0);
    Process child([lock] {
      told()->store(1);
      lock.acquire();
      lock.release();
    });
    child.start();
    until_told(1);
    std::this_thread::sleep_for(30ms);  // not to wait for it, but to make it wait
    lock.release();
    child.join();
    EXPECT_TRUE(lock.try_acquire());
    lock.release();
  }
}

TEST_F(Synchronize, AFreeLockIsThereForATryHoweverLongOthersWaitedS02) {
  expect_free_after_a_long_wait(mp::Lock());
  expect_free_after_a_long_wait(mp::RLock());
  expect_free_after_a_long_wait(mp::Semaphore(1));
  expect_free_after_a_long_wait(mp::BoundedSemaphore(1));
}

}  // namespace
}  // namespace millrace::test
