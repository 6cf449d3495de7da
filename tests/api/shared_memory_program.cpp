// The programs whose ends shared_memory_test.cpp looks at: shared_memory_program <what> <name> [us]
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <millrace/millrace.hpp>
#include <string>
#include <thread>

#include "shm/liveness.hpp"
#include "tests/api/shared_memory_support.hpp"

namespace mp = millrace;
using millrace::test::exists;
using millrace::test::tracker_pid;

namespace {

mp::SharedMemory make(const std::string& name) {
  return mp::SharedMemory({.name = name, .create = true, .size = 5000});
}

int child(const std::string& name) {
  mp::Process maker([&] { make(name); });
  maker.start();
  maker.join();
  // A tracker of the child's own would unlink about now.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  std::printf("%d", exists(name) ? 1 : 0);
  return 0;
}

[[noreturn]] void be_killed(const std::string& name, int microseconds) {
  const pid_t self = ::getpid();
  std::thread([=] {
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    ::kill(self, SIGKILL);
  }).detach();
  for (int i = 0;; ++i) make(name + std::to_string(i % 7)).unlink();
}

int replace_tracker(const std::string& name) {
  make(name + "1");
  const pid_t tracker = tracker_pid();
  if (tracker < 2 || ::kill(tracker, SIGTERM) != 0 || ::kill(tracker, SIGINT) != 0) return 3;
  if (tracker_pid() != tracker) return 4;  // it ignores both
  ::kill(tracker, SIGKILL);
  // Its folder in /proc loses its cwd a little sooner than its pidfd says that it has ended.
  while (!mp::shm::process_gone(tracker, 0)) std::this_thread::yield();
  make(name + "2");
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return 2;
  const std::string what = words[1];
  const std::string name = words[2];
  if (what == "leave") make(name);
  if (what == "unlink") make(name).unlink();
  if (what == "read") mp::SharedMemory({.name = name});
  if (what == "child") return child(name);
  if (what == "kill") be_killed(name, std::atoi(words[3]));
  if (what == "tracker") return replace_tracker(name);
  if (what == "untracked") {
    mp::SharedMemory({.name = name, .create = true, .size = 8, .track = false});
  }
  if (what == "none") {
    mp::Process idle([] {});
    idle.start();
    idle.join();
    const mp::Lock lock;
    std::printf("%d", tracker_pid());
  }
  return 0;
}
