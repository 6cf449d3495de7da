// What the tests of SIGINT share: processes of their own to be interrupted, and who interrupts
// them.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <millrace/interrupt.hpp>
#include <thread>

#include "tests/leak_check.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

namespace millrace::test {

// How a child process of the test ended.
struct Ended {
  bool by_signal;
  int code;
};

// Runs `body` in a plain fork, so that the handlers it installs are its own; its result is the
// exit code, 100 for KeyboardInterrupt, 101 for anything else that is thrown.
inline Ended run_forked(const std::function<int()>& body,
                        const std::function<void(pid_t)>& meanwhile = {}) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(60);
    int code = 101;
    try {
      code = body();
    } catch (const mp::KeyboardInterrupt&) {
      code = 100;
    } catch (...) {  // 101 says so
    }
    ::_exit(code);
  }
  if (meanwhile) meanwhile(pid);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
  }
  return WIFSIGNALED(status) ? Ended{true, WTERMSIG(status)} : Ended{false, WEXITSTATUS(status)};
}

inline bool asleep(pid_t pid) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  std::FILE* file = std::fopen(path, "r");
  char state = '?';
  if (file != nullptr) {
    (void)!std::fscanf(file, "%*d (%*[^)]) %c", &state);
    std::fclose(file);
  }
  return state == 'S';
}

// Interrupts this process from another thread, again and again, until told to stop: whatever the
// moment, the call that is under way or the next one is interrupted.
class Interrupter {
 public:
  explicit Interrupter(std::chrono::microseconds every = 500us)
      : thread_([this, every] {
          while (!stop_.load()) {
            std::this_thread::sleep_for(every);
            ::kill(::getpid(), SIGINT);
          }
        }) {}
  ~Interrupter() {
    stop_ = true;
    thread_.join();
  }
  Interrupter(const Interrupter&) = delete;
  Interrupter& operator=(const Interrupter&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// One interrupt once the calling thread's process sleeps.
template <class Call>
bool is_interrupted(Call&& call) {
  const pid_t self = ::getpid();
  std::thread sender([self] {
    while (!asleep(self)) std::this_thread::sleep_for(1ms);
    ::kill(self, SIGINT);
  });
  bool thrown = false;
  try {
    call();
  } catch (const mp::KeyboardInterrupt&) {
    thrown = true;
  }
  sender.join();
  return thrown;
}

class SigintTest : public LeakCheck {};

}  // namespace millrace::test
