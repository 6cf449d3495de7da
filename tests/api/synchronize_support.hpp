// What the tests of locks and their kin share: processes that take things and end.
#pragma once

#include <signal.h>

#include <chrono>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <thread>

#include "tests/api/process_support.hpp"

namespace millrace::test {

using namespace std::chrono_literals;

/// Starts a child that runs `body` and is killed by SIGKILL where it then stands; over when it is
/// dead and waited for. `body` may refer to this process's memory: it is forked.
template <class Body>
pid_t killed_after(Body body) {
  Process child([body] {
    body();
    ::raise(SIGKILL);
  });
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), -SIGKILL);
  return static_cast<pid_t>(child.pid().value());
}

/// Runs `body` in a child and returns once it has ended well.
template <class Body>
void in_process(Body body) {
  Process child(body);
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
}

/// Waits until the other side has come so far.
inline void until_told(int count) {
  while (told()->load() < count) std::this_thread::yield();
}

class Synchronize : public ProcessTest {};

}  // namespace millrace::test
