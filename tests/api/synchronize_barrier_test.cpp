// Barrier (S26-S34), also when its parties are killed.
// CPython: _TestBarrier; its cases under each start method: ported_barrier_test.cpp.
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <millrace/millrace.hpp>
#include <thread>
#include <vector>

#include "tests/api/sigint_support.hpp"
#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

static_assert(mp::Serializable<mp::Barrier> && sizeof(mp::Barrier) == sizeof(void*));

std::vector<mp::Process> party(int n, const mp::Barrier& barrier, int rounds) {
  std::vector<mp::Process> all;
  for (int i = 0; i < n; ++i) {
    all.emplace_back([barrier, rounds, n] {
      for (int k = 0; k < rounds; ++k) {
        told()->fetch_add(1);
        barrier.wait();
        if (told()->load() < (k + 1) * n) throw 1;
        barrier.wait();
      }
    });
    all.back().start();
  }
  return all;
}

TEST_F(Synchronize, NobodyPassesABarrierBeforeAllAreThereS26) {
  for (const int n : {1, 2, 5}) {
    told()->store(0);
    const mp::Barrier barrier(n);
    auto all = party(n, barrier, 100);
    for (auto& p : all) p.join();
    for (auto& p : all) EXPECT_EQ(p.exitcode(), 0);
    EXPECT_EQ(barrier.n_waiting(), 0);
    EXPECT_FALSE(barrier.broken());
  }
}

TEST_F(Synchronize, WaitGivesEachPartyANumberS27) {
  const mp::Barrier barrier(4);
  std::vector<std::thread> all;
  std::atomic<int> sum{0};
  for (int i = 0; i < 4; ++i) {
    all.emplace_back([&] {
      for (int k = 0; k < 50; ++k) sum += 1 << (8 * barrier.wait());
    });
  }
  for (auto& t : all) t.join();
  EXPECT_EQ(sum.load(), 0x32323232) << "each number 50 times";
}

TEST_F(Synchronize, OnePartyRunsTheActionBeforeAnyPassesS26) {
  const mp::shared_array<int> runs(1);
  const mp::Barrier barrier(3, [runs] { ++runs[0]; });
  std::vector<mp::Process> all;
  for (int i = 0; i < 3; ++i) {
    all.emplace_back([barrier, runs] {
      for (int k = 1; k <= 20; ++k) {
        barrier.wait();
        if (runs[0] < k) throw 1;
      }
    });
    all.back().start();
  }
  for (auto& p : all) p.join();
  for (auto& p : all) EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(runs[0], 20);
}

TEST_F(Synchronize, AnActionThatThrowsBreaksTheBarrierS27) {
  const mp::Barrier barrier(2, [] { throw mp::KeyError("action"); });
  mp::Process child([barrier] {
    try {
      barrier.wait();
    } catch (const mp::BrokenBarrierError&) {
      told()->fetch_add(1);
    } catch (const mp::KeyError&) {
      told()->fetch_add(10);
    }
  });
  child.start();
  try {
    barrier.wait();
    ADD_FAILURE();
  } catch (const mp::BrokenBarrierError&) {
    told()->fetch_add(1);
  } catch (const mp::KeyError&) {
    told()->fetch_add(10);
  }
  child.join();
  EXPECT_EQ(told()->load(), 11);
  EXPECT_TRUE(barrier.broken());
}

TEST_F(Synchronize, ATimeoutBreaksTheBarrierS26) {
  const mp::Barrier barrier(2, {}, 10ms);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 10ms);
  EXPECT_TRUE(barrier.broken());
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  barrier.reset();
  EXPECT_FALSE(barrier.broken());
  EXPECT_THROW(barrier.wait(1ms), mp::BrokenBarrierError);
}

void until_in(const mp::Barrier& barrier, int n) {
  while (barrier.n_waiting() < n) std::this_thread::yield();
}

std::vector<mp::Process> inside(const mp::Barrier& barrier, int n) {
  std::vector<mp::Process> all;
  for (int i = 0; i < n; ++i) {
    all.emplace_back([barrier] {
      try {
        barrier.wait();
        told()->fetch_add(100);
      } catch (const mp::BrokenBarrierError&) {
        told()->fetch_add(1);
      }
    });
    all.back().start();
  }
  until_in(barrier, n);
  return all;
}

TEST_F(Synchronize, AbortBreaksUntilResetS29) {
  const mp::Barrier barrier(3);
  auto all = inside(barrier, 2);
  EXPECT_EQ(barrier.repr().substr(barrier.repr().size() - 14), ": waiters=2/3>");
  barrier.abort();
  for (auto& p : all) p.join();
  EXPECT_EQ(told()->load(), 2);
  EXPECT_TRUE(barrier.broken());
  EXPECT_EQ(barrier.n_waiting(), 0);
  EXPECT_EQ(barrier.repr().rfind("<multiprocessing.synchronize.Barrier at 0x", 0), 0U);
  EXPECT_EQ(barrier.repr().substr(barrier.repr().size() - 9), ": broken>");
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  barrier.reset();
  EXPECT_EQ(barrier.parties(), 3);
  auto again = inside(barrier, 2);
  barrier.wait();
  for (auto& p : again) p.join();
  EXPECT_EQ(told()->load(), 202);
}

TEST_F(Synchronize, ResetEmptiesTheBarrierS28) {
  const mp::Barrier barrier(3);
  barrier.reset();
  auto all = inside(barrier, 2);
  barrier.reset();
  for (auto& p : all) p.join();
  EXPECT_EQ(told()->load(), 2);
  EXPECT_FALSE(barrier.broken());
  auto again = inside(barrier, 2);
  barrier.wait();
  for (auto& p : again) p.join();
  EXPECT_EQ(told()->load(), 202);
}

TEST_F(Synchronize, ABarrierNeedsAParty) {
  EXPECT_THROW(mp::Barrier(0), mp::ValueError);
  EXPECT_EQ(mp::Barrier(1).wait(), 0);
}

TEST_F(Synchronize, APartyKilledInsideBreaksTheBarrier) {
  const mp::Barrier barrier(3);
  auto all = inside(barrier, 1);
  mp::Process waiting([barrier] {
    try {
      barrier.wait();
    } catch (const mp::BrokenBarrierError&) {
      told()->fetch_add(1);
    }
  });
  waiting.start();
  until_in(barrier, 2);
  all[0].kill();
  waiting.join();
  all[0].join();
  EXPECT_EQ(told()->load(), 1);
  EXPECT_TRUE(barrier.broken());
  barrier.reset();
  auto again = inside(barrier, 2);
  barrier.wait();
  for (auto& p : again) p.join();
  EXPECT_EQ(told()->load(), 201);
}

TEST_F(Synchronize, TheLastToComeDoesNotPassWithTheDead) {
  const mp::Barrier barrier(3);
  auto all = inside(barrier, 2);
  for (auto& p : all) ::kill(*p.pid(), SIGSTOP);  // so that neither looks after the other
  for (auto& p : all) p.kill();
  for (auto& p : all) p.join();
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  EXPECT_TRUE(barrier.broken());
  barrier.reset();
  auto again = inside(barrier, 2);
  EXPECT_NO_THROW(barrier.wait());
  for (auto& p : again) p.join();
}

// The same where nobody has learnt of it yet.
TEST_F(Synchronize, TheLastToComeAsksAboutThoseWhoSleep) {
  const mp::Barrier barrier(3);
  auto all = inside(barrier, 2);
  for (auto& p : all) {
    while (!asleep(*p.pid())) std::this_thread::yield();
    ::kill(*p.pid(), SIGSTOP);
  }
  for (auto& p : all) p.kill();
  for (auto& p : all) {
    siginfo_t ended{};
    EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(*p.pid()), &ended, WEXITED | WNOWAIT), 0);
  }
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  for (auto& p : all) p.join();
}

TEST_F(Synchronize, APartyKilledAfterItPassedBreaksTheBarrier) {
  const mp::Barrier barrier(2);
  mp::Process child([barrier] {
    barrier.wait();
    ::raise(SIGKILL);
  });
  child.start();
  barrier.wait();
  EXPECT_THROW(barrier.wait(), mp::BrokenBarrierError);
  child.join();
}

TEST_F(Synchronize, PartiesMayComeAndGo) {
  const mp::Barrier barrier(2);
  for (int i = 0; i < 5; ++i) {
    mp::Process child([barrier] { barrier.wait(); });
    child.start();
    barrier.wait();
    child.join();
  }
  mp::Process late([barrier] { barrier.wait(); });
  std::thread starter([&] { late.start(); });
  barrier.wait();
  starter.join();
  late.join();
  EXPECT_FALSE(barrier.broken());
}

TEST_F(Synchronize, ResetOfAnEmptyBarrierForgetsThePartiesThatDiedS28) {
  const mp::Barrier barrier(2);
  barrier.reset();
  EXPECT_FALSE(barrier.broken());
  mp::Process child([barrier] {
    barrier.wait();
    ::raise(SIGKILL);
  });
  child.start();
  barrier.wait();
  child.join();
  barrier.reset();  // nobody waits, but the dead one was a party of the last turn
  EXPECT_EQ(barrier.n_waiting(), 0);
  mp::Process other([barrier] { barrier.wait(); });
  other.start();
  std::this_thread::sleep_for(1s);  // in which the other one looks after the parties
  EXPECT_NO_THROW(barrier.wait());
  other.join();
  EXPECT_EQ(other.exitcode(), 0);
}

}  // namespace
}  // namespace millrace::test
