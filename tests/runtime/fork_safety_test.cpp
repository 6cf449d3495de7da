// P10: a child of a process whose threads are busy in the library finds every lock free.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <millrace/context.hpp>
#include <millrace/logging.hpp>
#include <millrace/process.hpp>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/process/child.hpp"
#include "tests/leak_check.hpp"

namespace mp = millrace;
using mp::runtime::ForkMutex;
using mp::test::run_program;

namespace {

class ForkSafetyTest : public mp::test::LeakCheck {};

ForkMutex& low() {
  static ForkMutex& mutex = *new ForkMutex(ForkMutex::Level::pool);
  return mutex;
}
ForkMutex& high() {
  static ForkMutex& mutex = *new ForkMutex(ForkMutex::Level::log);
  return mutex;
}

TEST_F(ForkSafetyTest, MutexesAreFreeInEveryForkedChild) {
  std::atomic<bool> stop{false};
  (void)low();
  (void)high();
  std::vector<std::thread> holders;
  for (int i = 0; i < 2; ++i) {
    holders.emplace_back([&stop] {
      while (!stop) {
        const std::lock_guard first(low());
        const std::lock_guard second(high());
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      const bool free = low().try_lock() && high().try_lock();
      ::_exit(free ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  stop = true;
  for (auto& t : holders) t.join();
}

// What the children of the hammer do: a bit of everything that takes a lock of the library.
void use_everything() {
  mp::get_logger().info("child");
  (void)mp::active_children();
  (void)mp::get_context("fork");
  (void)mp::get_start_method();
  mp::current_process().name("renamed");
  (void)mp::current_process().repr();
  mp::Finalize fin([] {}, {.exitpriority = 1});
  mp::Process inner([] { mp::get_logger().info("grandchild"); });
  inner.start();
  inner.join();
  if (inner.exitcode() != 0) throw mp::SystemExit(2);
}

TEST_F(ForkSafetyTest, ChildrenOfABusyProcessUseTheWholeInterface) {  // R24
  const auto outcome = run_program([] {
    mp::log_to_stderr(mp::logging::Level::info);
    std::atomic<bool> stop{false};
    std::atomic<int> failures{0};
    std::vector<std::thread> busy;
    busy.emplace_back([&stop] {
      while (!stop) mp::get_logger().info("busy");
    });
    busy.emplace_back([&stop] {
      while (!stop) {
        mp::Finalize fin([] {}, {.exitpriority = 3});
        (void)mp::active_children();
        mp::current_process().name("MainProcess");
        mp::set_start_method("fork", {.force = true});
      }
    });
    busy.emplace_back([&] {
      while (!stop) {
        mp::Process p([] {});
        p.start();
        p.join();
        failures += p.exitcode() != 0 ? 1 : 0;
      }
    });
    for (int i = 0; i < 150; ++i) {
      mp::Process p(use_everything);
      p.start();
      p.join();
      failures += p.exitcode() != 0 ? 1 : 0;
    }
    stop = true;
    for (auto& t : busy) t.join();
    std::printf("%d failures", failures.load());
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.out, "0 failures");
}

TEST_F(ForkSafetyTest, UsersOwnForkGetsAWorkingLibrary) {
  mp::Process running([] { ::pause(); });
  running.start();
  const auto outcome = run_program([] {
    std::printf("%zu ", mp::active_children().size());
    mp::Process p([] { std::printf("child "); });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.out, "0 child ");
  running.terminate();
  running.join();
}

}  // namespace
