// Who holds a lock, has a permit, or waits for an event or at a barrier is killed by SIGKILL, a
// thousand times for each kind, while two others wait: none of them blocks, and of locks and
// barriers exactly one, or each, is told.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <millrace/synchronize.hpp>
#include <new>
#include <thread>

#include "tests/api/sigint_support.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace {
namespace {

constexpr int kKills = 1000;
constexpr int kWorkers = 2;

// What the processes tell each other beside the lock.
struct Board {
  std::atomic<int> held{0};                       // by victims: how many have held
  std::array<std::atomic<int>, kWorkers> come{};  // by each worker: turns begun
  std::array<std::atomic<int>, kWorkers> gone{};  // and ended
  std::atomic<long> told{0};
};

// Until it has become true, or the watchdog ends the test.
template <class Condition>
void await(Condition condition) {
  while (!condition()) std::this_thread::sleep_for(20us);
}

// What this process does in each round beside killing.
struct Hooks {
  std::function<void(pid_t)> held = [](pid_t) {};  // the victim holds, the workers wait
  std::function<void()> killed = [] {};
  std::function<void()> over = [] {};  // each worker has had its turn
};

class HolderKill : public ::testing::Test {
 protected:
  // Each victim holds and is killed while two workers are blocked in turn(), which ends then.
  template <class Turn, class Hold>
  void rage(Turn turn, Hold hold, const Hooks& hooks = {}) {
    ::alarm(230);
    std::array<pid_t, kWorkers> workers{};
    for (std::size_t i = 0; i < kWorkers; ++i) {
      workers[i] = test::start_child([&, i] {
        for (int k = 1; k <= kKills; ++k) {
          await([&] { return board_->held.load() == k; });
          board_->come[i].store(k);
          turn();
          board_->gone[i].store(k);
        }
        return 0;
      });
    }
    for (int k = 1; k <= kKills; ++k) {
      const pid_t victim = test::start_child([&] {
        hold();
        for (;;) ::pause();
        return 0;
      });
      for (std::size_t i = 0; i < kWorkers; ++i) {
        await([&] { return board_->come[i].load() == k && test::asleep(workers[i]); });
      }
      hooks.held(victim);
      ASSERT_GT(victim, 1);
      ::kill(victim, SIGKILL);
      test::wait_for(victim);
      hooks.killed();
      for (const auto& gone : board_->gone) await([&] { return gone.load() == k; });
      hooks.over();
    }
    for (const pid_t worker : workers) EXPECT_EQ(test::wait_for(worker), 0);
    ::alarm(0);
  }
  void hold_now() const { board_->held.fetch_add(1); }

  Board* const board_ = new (::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Board;
};

template <class L>
class LockHolderKill : public HolderKill {};
using Locks = ::testing::Types<Lock, RLock>;
TYPED_TEST_SUITE(LockHolderKill, Locks);

TYPED_TEST(LockHolderKill, TheNextOwnerIsTold) {
  const TypeParam lock;
  this->rage(
      [&] {
        try {
          lock.acquire();
          lock.release();
        } catch (const AbandonedLock&) {
          this->board_->told.fetch_add(1);
        }
      },
      [&] {
        lock.acquire();
        this->hold_now();
      });
  EXPECT_EQ(this->board_->told.load(), kKills);
  EXPECT_FALSE(lock.locked());
}

TEST_F(HolderKill, PermitsOfABoundedSemaphoreComeBack) {
  const BoundedSemaphore sem(1);
  rage(
      [&] {
        sem.acquire();
        sem.release();
      },
      [&] {
        sem.acquire();
        hold_now();
      });
  EXPECT_EQ(sem.get_value(), 1);
}

// It has no owner, in Python neither: what a victim took is spent, and no more. Whoever waits gets
// what is released.
TEST_F(HolderKill, ASemaphoreLosesWhatTheDeadHadTaken) {
  const Semaphore sem(1);
  rage([&] { sem.acquire(); },
       [&] {
         sem.acquire();
         hold_now();
       },
       {.killed =
            [&] {
              for (int i = 0; i < kWorkers; ++i) sem.release();
            },
        .over = [&] { sem.release(); }});
  EXPECT_EQ(sem.get_value(), 1);
}

TEST_F(HolderKill, TheNextOwnerOfAConditionIsTold) {
  const Condition condition;
  rage(
      [&] {
        try {
          condition.acquire();
        } catch (const AbandonedLock& abandoned) {
          board_->told.fetch_add(1);
          abandoned.keep();
        }
        condition.notify();
        (void)condition.wait(100us);
        condition.release();
      },
      [&] {
        condition.acquire();
        condition.notify_all();
        hold_now();
      });
  EXPECT_EQ(board_->told.load(), kKills);
}

TEST_F(HolderKill, AnEventIsSetForThoseWhoAreLeft) {
  const Event event;
  rage([&] { event.wait(); },
       [&] {
         hold_now();
         event.wait();
       },
       {.held = [](pid_t victim) { await([&] { return test::asleep(victim); }); },
        .killed = [&] { event.set(); },
        .over = [&] { event.clear(); }});
  EXPECT_FALSE(event.is_set());
}

TEST_F(HolderKill, ABarrierBreaksForThoseWhoAreLeft) {
  const Barrier barrier(kWorkers + 2);
  rage(
      [&] {
        EXPECT_THROW(barrier.wait(), BrokenBarrierError);
        board_->told.fetch_add(1);
      },
      [&] {
        hold_now();
        barrier.wait();
      },
      {.held = [&](pid_t) { await([&] { return barrier.n_waiting() == kWorkers + 1; }); },
       .over = [&] { barrier.reset(); }});
  EXPECT_EQ(board_->told.load(), kWorkers * kKills);
}

}  // namespace
}  // namespace millrace
