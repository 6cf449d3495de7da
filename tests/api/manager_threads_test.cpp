// Clients of many threads: a process does not keep a connection for each that asks nothing.
// X08; **beyond** Python, which has one for each (thread, address).
#include <filesystem>
#include <latch>
#include <millrace/managers.hpp>
#include <semaphore>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using ManagerThreads = LeakCheck;

std::size_t open_sockets() {
  std::size_t count = 0;
  for (const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the directory's own
    const auto target = std::filesystem::read_symlink(each, gone).string();
    count += target.starts_with("socket:") ? 1U : 0U;
  }
  return count;
}

// What a thread may hold by its connection, or waits for on it, is left alone.
TEST_F(ManagerThreads, IdleOnesGiveTheirConnectionsBackX08) {
  constexpr int kThreads = 320;
  SyncManager manager({.max_connections = 310});
  manager.start();
  const auto list = manager.list();
  const auto lock = manager.RLock();
  const auto event = manager.Event();
  const auto waits = manager.Semaphore(0);
  const auto permits = manager.Semaphore(0);
  const auto again = manager.RLock();
  const auto condition = manager.Condition(again);
  std::counting_semaphore<> called(0);
  std::latch go(1);
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    lock.acquire();
    permits.release();  // of something else
    called.release();
    go.wait();
    lock.release();  // RuntimeError by another connection
  });
  called.acquire();
  threads.emplace_back([&] {
    condition.acquire();
    again.acquire();
    condition.release();
    called.release();
    go.wait();
    again.release();
  });
  called.acquire();
  threads.emplace_back([&] {
    waits.release();
    event.wait();
    list.append(-1);
  });
  waits.acquire();
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      list.append(i);
      called.release();
      go.wait();
      if (i % 10 == 0) list.append(i);
    });
    called.acquire();
  }
  EXPECT_FALSE(lock.try_acquire());
  EXPECT_FALSE(again.try_acquire());
  go.count_down();
  event.set();
  for (std::thread& each : threads) each.join();
  EXPECT_TRUE(lock.try_acquire());
  lock.release();
  EXPECT_TRUE(again.try_acquire());
  again.release();
  EXPECT_EQ(list.size(), static_cast<std::size_t>(kThreads + kThreads / 10 + 1));
}

// Of more than 256 that were all in calls the next calls take what has become idle.
TEST_F(ManagerThreads, ACrowdThatWaitedGivesItsConnectionsBackX08) {
  constexpr int kThreads = 290;
  auto manager = Manager();
  const auto list = manager.list();
  const auto event = manager.Event();
  const auto waits = manager.Semaphore(0);
  const std::size_t before = open_sockets();
  std::latch called(kThreads);
  std::latch go(1);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      waits.release();
      event.wait();
      called.count_down();
      go.wait();
    });
  }
  for (int i = 0; i < kThreads; ++i) waits.acquire();
  event.set();
  called.wait();
  while (open_sockets() > before + 256) list.append(1);
  go.count_down();
  for (std::thread& each : threads) each.join();
}

}  // namespace
}  // namespace millrace::test
