// Semaphore, BoundedSemaphore and Event (S09-S13, S21-S25, S34).
// CPython: _TestSemaphore, _TestEvent (test_repr here); more: ported_synchronize_test.cpp.
#include <fstream>
#include <millrace/millrace.hpp>
#include <vector>

#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

static_assert(mp::Serializable<mp::Semaphore> && mp::Serializable<mp::BoundedSemaphore> &&
              mp::Serializable<mp::Event>);

template <class S>
void counts_down_and_up(const S& sem) {
  EXPECT_EQ(sem.get_value(), 2);
  EXPECT_TRUE(sem.acquire());
  EXPECT_EQ(sem.get_value(), 1);
  EXPECT_TRUE(sem.acquire());
  EXPECT_EQ(sem.get_value(), 0);
  EXPECT_FALSE(sem.try_acquire());
  EXPECT_EQ(sem.get_value(), 0);
  sem.release();
  EXPECT_EQ(sem.get_value(), 1);
  sem.release();
  EXPECT_EQ(sem.get_value(), 2);
}

TEST_F(Synchronize, SemaphoreCountsWithoutBoundS09S12) {
  const mp::Semaphore sem(2);
  counts_down_and_up(sem);
  sem.release();
  sem.release();
  EXPECT_EQ(sem.get_value(), 4);
  EXPECT_EQ(mp::Semaphore().get_value(), 1);
  EXPECT_THROW(mp::Semaphore(-1), std::system_error);
  const mp::Semaphore full(2147483647);
  EXPECT_THROW(full.release(), mp::ValueError);
}

TEST_F(Synchronize, BoundedSemaphoreRefusesToExceedItsValueS13) {
  const mp::BoundedSemaphore sem(2);
  counts_down_and_up(sem);
  EXPECT_THROW(sem.release(), mp::ValueError);
  EXPECT_EQ(sem.get_value(), 2);
  EXPECT_THROW(mp::BoundedSemaphore(-1), std::system_error);
  const mp::BoundedSemaphore none(0);
  EXPECT_FALSE(none.try_acquire());
  EXPECT_THROW(none.release(), mp::ValueError);
}

TEST_F(Synchronize, ABoundedSemaphoreThatNeverComesNearItsBoundCostsNoMoreS13) {
  const auto resident = [] {
    std::ifstream file("/proc/self/statm");
    long total = 0;
    long pages = 0;
    file >> total >> pages;
    return pages;
  };
  const mp::BoundedSemaphore sem(2147483647);
  const long before = resident();
  EXPECT_EQ(sem.get_value(), 2147483647);
  for (int i = 0; i < 3000; ++i) ASSERT_TRUE(sem.try_acquire());
  EXPECT_EQ(sem.get_value(), 2147483647 - 3000);
  EXPECT_EQ(sem.repr(), "<BoundedSemaphore(value=2147480647, maxvalue=2147483647)>");
  mp::Process p([sem] {
    for (int i = 0; i < 100; ++i) sem.acquire();
    sem.release();
  });
  p.start();
  p.join();
  EXPECT_EQ(sem.get_value(), 2147483647 - 3000);  // the dead one's came back
  for (int i = 0; i < 3000; ++i) sem.release();
  EXPECT_THROW(sem.release(), mp::ValueError);
  EXPECT_EQ(sem.get_value(), 2147483647);
  EXPECT_LT(resident() - before, 1000);
}

TEST_F(Synchronize, SemaphoresTimeOutS10) {
  const mp::Semaphore sem(0);
  const mp::BoundedSemaphore bounded;
  bounded.acquire();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(sem.acquire(10ms));
  EXPECT_FALSE(bounded.acquire(10ms));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 20ms);
  EXPECT_FALSE(sem.acquire(-1s));
  EXPECT_FALSE(bounded.try_lock_for(0s));
}

TEST_F(Synchronize, SemaphoreReprsS34) {
  const mp::Semaphore sem(3);
  sem.acquire();
  EXPECT_EQ(sem.repr(), "<Semaphore(value=2)>");
  const mp::BoundedSemaphore bounded(2);
  bounded.acquire();
  EXPECT_EQ(bounded.repr(), "<BoundedSemaphore(value=1, maxvalue=2)>");
}

TEST_F(Synchronize, APermitReleasedElsewhereEndsTheWaitS10) {
  const mp::Semaphore there(0);
  const mp::Semaphore back(0);
  mp::Process child([there, back] {
    for (int i = 0; i < 2000; ++i) {
      there.acquire();
      back.release();
    }
  });
  child.start();
  for (int i = 0; i < 2000; ++i) {
    there.release();
    back.acquire();
  }
  child.join();
  EXPECT_EQ(there.get_value(), 0);
  EXPECT_EQ(back.get_value(), 0);
}

TEST_F(Synchronize, ABoundedSemaphoreAdmitsNoMoreThanItsValueS13) {
  const mp::BoundedSemaphore sem(2);
  std::vector<mp::Process> all;
  for (int i = 0; i < 4; ++i) {
    all.emplace_back([sem] {
      for (int k = 0; k < 3000; ++k) {
        const std::scoped_lock guard(sem);
        if (told()->fetch_add(1) > 1) throw 1;
        if (k % 32 == 0) std::this_thread::yield();
        told()->fetch_sub(1);
      }
    });
    all.back().start();
  }
  for (auto& p : all) p.join();
  for (auto& p : all) EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(sem.get_value(), 2);
}

TEST_F(Synchronize, ThePermitsOfTheDeadComeBack) {
  const mp::BoundedSemaphore sem(3);
  sem.acquire();
  killed_after([sem] {
    sem.acquire();
    sem.acquire();
  });
  EXPECT_EQ(sem.get_value(), 2);
  killed_after([sem] {
    sem.acquire();
    sem.acquire();
  });
  EXPECT_TRUE(sem.try_acquire());
  EXPECT_TRUE(sem.try_acquire());
  EXPECT_FALSE(sem.try_acquire());
}

TEST_F(Synchronize, AWaiterGetsThePermitOfOneThatDiesMeanwhile) {
  const mp::BoundedSemaphore sem;
  mp::Process holder([sem] {
    sem.acquire();
    told()->fetch_add(1);
    for (;;) ::pause();
  });
  holder.start();
  until_told(1);
  std::thread killer([&] { holder.kill(); });
  EXPECT_TRUE(sem.acquire());
  killer.join();
  holder.join();
}

TEST_F(Synchronize, ASemaphoreHasNoOwner) {
  const mp::Semaphore sem(2);
  killed_after([sem] { sem.acquire(); });
  EXPECT_EQ(sem.get_value(), 1);
}

TEST_F(Synchronize, AnyProcessMayReleaseABoundedPermitS13) {
  const mp::BoundedSemaphore sem;
  sem.acquire();
  in_process([sem] { sem.release(); });
  EXPECT_EQ(sem.get_value(), 1);
}

TEST_F(Synchronize, EventIsAFlagS21S25) {
  const mp::Event event;
  EXPECT_FALSE(event.is_set());
  EXPECT_FALSE(event.wait(0s));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(event.wait(10ms));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 10ms);
  event.set();
  event.set();
  EXPECT_TRUE(event.is_set());
  EXPECT_TRUE(event.wait());
  EXPECT_TRUE(event.wait(10ms));
  event.clear();
  EXPECT_FALSE(event.is_set());
  mp::Process child([event] { event.set(); });
  child.start();
  EXPECT_TRUE(event.wait());
  child.join();
}

TEST_F(Synchronize, EventReprS34) {
  const mp::Event event;
  const std::string unset = event.repr();
  EXPECT_EQ(unset.rfind("<Event at 0x", 0), 0U) << unset;
  EXPECT_EQ(unset.substr(unset.size() - 7), " unset>");
  event.set();
  EXPECT_EQ(event.repr().substr(event.repr().size() - 5), " set>");
}

TEST_F(Synchronize, WhoWaitsForAnEventGoesOnThoughItIsClearedAtOnceS24) {
  const mp::Event event;
  std::vector<mp::Process> all;
  for (int i = 0; i < 3; ++i) {
    all.emplace_back([event] {
      for (int k = 0; k < 200; ++k) {
        told()->fetch_add(1);
        event.wait();
      }
    });
    all.back().start();
  }
  // Each may be a moment before its wait() when the flag comes and goes: the next one then.
  const auto running = [&] {
    bool any = false;
    for (auto& p : all) any = !p.join(0s) || any;
    return any;
  };
  while (running()) {
    event.set();
    event.clear();
    std::this_thread::yield();
  }
  EXPECT_EQ(told()->load(), 600);
}

}  // namespace
}  // namespace millrace::test
