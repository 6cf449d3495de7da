// What the tests of ThreadPool share.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <millrace/thread_pool.hpp>
#include <thread>

#include "tests/api/pool_fixture.hpp"

namespace millrace::test {

/// No process, no descriptor left, and no thread.
class ThreadPoolsAlone : public LeakCheck {
 protected:
  void SetUp() override {
    ::signal(SIGALRM, &on_hang);
    ::alarm(100);
    LeakCheck::SetUp();
  }
  void TearDown() override {
    LeakCheck::TearDown();
    ::alarm(0);
  }
};

class ThreadPools : public ThreadPoolsAlone, public ::testing::WithParamInterface<int> {
 protected:
  [[nodiscard]] static int workers() { return GetParam(); }
};
/// A gate between threads.
class ThreadGate {
 public:
  void pass() {
    ++arrived;
    open_.wait(false);
  }
  void open() {
    open_ = true;
    open_.notify_all();
  }
  void await(int count) const {
    while (arrived < count) std::this_thread::yield();
  }
  std::atomic<int> arrived{0};

 private:
  std::atomic<bool> open_{false};
};

}  // namespace millrace::test
