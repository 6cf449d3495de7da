// Holders killed by SIGKILL at random instants while others wait: nobody blocks, nobody is let in
// beside another, and the next to come is told.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <millrace/synchronize.hpp>
#include <new>
#include <random>
#include <thread>

#include "shm/parking.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace {
namespace {

constexpr int kKills = 400;
constexpr int kWorkers = 2;

// What the processes tell each other beside the lock.
struct Board {
  std::atomic<int> inside{0};
  std::atomic<long> violations{0};
  std::atomic<long> told{0};
  std::atomic<bool> stop{false};
  std::atomic<long> victim_turns{0};
  std::array<std::atomic<long>, kWorkers> turns{};
};

class Storm {
 public:
  Storm()
      : board_(new (::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Board) {}
  ~Storm() { ::munmap(board_, sizeof(Board)); }
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

  // `turn(board)` is one acquire, critical section and release. Kills kKills processes that take
  // turns, and sees after each that the others still get theirs.
  template <class Turn>
  void run(Turn turn) {
    ::alarm(200);
    std::array<pid_t, kWorkers> workers{};
    for (int i = 0; i < kWorkers; ++i) {
      workers[static_cast<std::size_t>(i)] = test::start_child([&, i] {
        while (!board_->stop.load()) {
          turn(*board_);
          board_->turns[static_cast<std::size_t>(i)].fetch_add(1);
        }
        return 0;
      });
    }
    std::mt19937 random(4711);  // NOLINT: the same instants are not the same interleavings anyhow
    for (int k = 0; k < kKills; ++k) kill_one(turn, static_cast<unsigned>(random() % 200));
    board_->stop.store(true);
    for (const pid_t worker : workers) EXPECT_EQ(test::wait_for(worker), 0);
    ::alarm(0);
    EXPECT_EQ(board_->violations.load(), 0);
  }
  [[nodiscard]] long told() const { return board_->told.load(); }

 private:
  template <class Turn>
  void kill_one(Turn& turn, unsigned us) {
    board_->victim_turns.store(0);
    const pid_t victim = test::start_child([&] {
      for (;;) {
        turn(*board_);
        board_->victim_turns.fetch_add(1);
      }
      return 0;
    });
    while (board_->victim_turns.load() == 0) std::this_thread::yield();
    const std::uint64_t until = shm::ticks() + us * shm::ticks_per_us();
    while (shm::ticks() < until) {
    }
    ASSERT_GT(victim, 1);
    ::kill(victim, SIGKILL);
    test::wait_for(victim);
    for (auto& turns : board_->turns) {
      const long seen = turns.load();
      while (turns.load() < seen + 2) std::this_thread::yield();
    }
  }

  Board* board_;
};

// Nobody else is inside; a few hundred instructions long.
void critical_section(Board& board) {
  if (board.inside.exchange(1) != 0) board.violations.fetch_add(1);
  for (int i = 0; i < 50; ++i) shm::cpu_relax();
  board.inside.store(0);
}

template <class L>
void lock_storm() {
  Storm storm;
  const L lock;
  storm.run([&](Board& board) {
    try {
      lock.acquire();
      critical_section(board);
      lock.release();
    } catch (const AbandonedLock&) {
      board.told.fetch_add(1);
      board.inside.store(0);  // repaired, while the lock is held
    }
  });
  EXPECT_GT(storm.told(), kKills / 50) << "hardly any died with the lock";
  EXPECT_FALSE(lock.locked());
}

TEST(SyncStorm, LockHoldersAreKilled) { lock_storm<Lock>(); }
TEST(SyncStorm, RLockHoldersAreKilled) { lock_storm<RLock>(); }

TEST(SyncStorm, BoundedSemaphoreHoldersAreKilled) {
  Storm storm;
  const BoundedSemaphore sem(1);
  storm.run([&](Board&) {
    sem.acquire();
    for (int i = 0; i < 50; ++i) shm::cpu_relax();
    sem.release();
  });
  EXPECT_EQ(sem.get_value(), 1);
}

}  // namespace
}  // namespace millrace
