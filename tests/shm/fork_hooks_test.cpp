// Forks that fall into the first use of the library. This program makes no arena before its cases
// do.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::shm {
namespace {

using test::in_child;

// ThreadSanitizer stops a child of a program with threads; AddressSanitizer's own allocator may be
// left locked in one.
#if !MILLRACE_TEST_TSAN && !MILLRACE_TEST_ASAN

// A fresh process whose thread makes the arena while another forks, at a moment that moves along.
int fork_during_first_use(int moment) {
  std::atomic<bool> begun{false};
  std::thread using_it([&] {
    begun.store(true, std::memory_order_release);  // HAND-OVER begun: release
    deallocate(allocate(64));
    (void)self();
  });
  while (!begun.load(std::memory_order_acquire)) {  // HAND-OVER begun: acquire
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(moment);
  while (std::chrono::steady_clock::now() < until) {
  }
  const int code = in_child([] {
    ::alarm(60);  // ends a child that would wait for ever
    void* block = allocate(64);
    const bool good = Arena::contains(block) && self() != 0;
    deallocate(block);
    return good ? 0 : 1;
  });
  using_it.join();
  return code == 0 ? 0 : 1;
}

TEST(ForkHooks, AChildForkedWhileAThreadMakesTheArenaUsesIt) {
  ASSERT_FALSE(Arena::exists());
  for (int moment = 0; moment < 300; ++moment) {
    ASSERT_EQ(in_child([&] { return fork_during_first_use(moment); }), 0) << moment << " us";
  }
}

#endif

}  // namespace
}  // namespace millrace::shm
