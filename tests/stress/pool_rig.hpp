// What the stress tests of the pool share: how much to do, whom to kill, what was left behind.
//
// Only processes of the test's own are signalled: grandchildren that /proc names as children of its
// children, through a pidfd opened before their parent is looked up again, so that a pid that was
// given to another process meanwhile is never hit.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/errors.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "shm/signals.hpp"
#include "tests/shared_folder.hpp"

namespace millrace::stress {

/// MILLRACE_STRESS=quick does `quick`, everything else `full`.
inline long scaled(long quick, long full) {
  const char* wish = std::getenv("MILLRACE_STRESS");
  return wish != nullptr && std::strcmp(wish, "quick") == 0 ? quick : full;
}

/// The seed of this run: MILLRACE_SEED, else by the clock; printed, so that a run can be repeated.
inline std::uint64_t seed() {
  static const std::uint64_t value = [] {
    const char* wish = std::getenv("MILLRACE_SEED");
    const std::uint64_t chosen =
        wish != nullptr ? std::strtoull(wish, nullptr, 10) : std::random_device()();
    std::printf("MILLRACE_SEED=%llu\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return value;
}

/// Ends a test that hangs: by SIGALRM, `seconds` after the last call.
inline void watchdog(unsigned seconds) { ::alarm(seconds); }

/// What a file of /proc says; "" when its process is gone.
inline std::string read_file(const std::string& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char part[4096];
  for (ssize_t got = 0; (got = ::read(fd, part, sizeof part)) > 0;) {
    text.append(part, static_cast<std::size_t>(got));
  }
  ::close(fd);
  return text;
}

/// The children of a process, zombies included.
inline std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> found;
  const std::string tasks = "/proc/" + std::to_string(parent) + "/task";
  DIR* dir = ::opendir(tasks.c_str());
  if (dir == nullptr) return found;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    std::istringstream list(read_file(tasks + "/" + entry->d_name + "/children"));
    for (pid_t pid = 0; list >> pid;) found.push_back(pid);
  }
  ::closedir(dir);
  return found;
}

/// A field of /proc/<pid>/stat behind the program's name: 0 is the state, 1 the parent.
inline std::string stat_field(pid_t pid, int field) {
  const std::string text = read_file("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = text.rfind(')');
  if (end == std::string::npos) return {};
  std::istringstream rest(text.substr(end + 1));
  std::string value;
  for (int i = 0; i <= field; ++i) rest >> value;
  return value;
}

/// Zygotes of this process's pools: its children.
inline std::vector<pid_t> zygotes() { return children_of(::getpid()); }

/// Workers of this process's pools: the children of its children.
inline std::vector<pid_t> workers() {
  std::vector<pid_t> found;
  for (const pid_t zygote : zygotes()) {
    const std::vector<pid_t> more = children_of(zygote);
    found.insert(found.end(), more.begin(), more.end());
  }
  return found;
}

/// Those of them that stand in pause(): tasks of the tests do so to be found.
inline std::vector<pid_t> paused_workers() {
  std::vector<pid_t> found;
  const std::string pause = std::to_string(SYS_pause) + " ";
  for (const pid_t pid : workers()) {
    if (read_file("/proc/" + std::to_string(pid) + "/syscall").starts_with(pause)) {
      found.push_back(pid);
    }
  }
  return found;
}

/// A process of the test's own, held by pidfd.
class Target {
 public:
  /// `pid` as a descendant of this process; empty when it is none (any more).
  explicit Target(pid_t pid) {
    if (pid <= 1) return;
    fd_ = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (fd_ < 0) return;
    for (pid_t up = pid; up > 1;) {
      const std::string parent = stat_field(up, 1);
      up = parent.empty() ? 0 : std::stoi(parent);
      if (up == ::getpid()) return;
    }
    ::close(fd_);
    fd_ = -1;
  }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  ~Target() {
    if (fd_ >= 0) ::close(fd_);
  }
  explicit operator bool() const { return fd_ >= 0; }
  bool signal(int number) const { return fd_ >= 0 && shm::send_signal_fd(fd_, number); }
  /// Waits for its end; false when it lives on after `limit`.
  bool ended(std::chrono::milliseconds limit) const {
    pollfd query{fd_, POLLIN, 0};
    return ::poll(&query, 1, static_cast<int>(limit.count())) == 1;
  }

 private:
  int fd_ = -1;
};

inline bool kill_one(pid_t pid) { return Target(pid).signal(SIGKILL); }

/// What a test may not leave behind. Taken before it begins and compared with what is there after.
struct Remains {
  std::set<std::string> files;  ///< open descriptors and what they are
  std::set<std::string> shm;    ///< segments
  std::size_t span_bytes = 0;
  std::size_t small_blocks = 0;
  std::uint64_t refused_frees = 0;
  std::size_t processes = 0;  ///< entries of the process table that are in use

  static std::set<std::string> list(const char* path, bool links) {
    std::set<std::string> found;
    DIR* dir = ::opendir(path);
    if (dir == nullptr) return found;
    while (const dirent* entry = ::readdir(dir)) {
      if (entry->d_name[0] == '.') continue;
      if (links && std::atoi(entry->d_name) == ::dirfd(dir)) continue;
      std::string name = entry->d_name;
      char target[256] = "";
      if (links && ::readlinkat(::dirfd(dir), entry->d_name, target, sizeof target - 1) > 0) {
        name += std::string(" ") + target;
      }
      found.insert(name);
    }
    ::closedir(dir);
    return found;
  }
  static Remains now() {
    // First: in a chroot files of before are called otherwise afterwards.
    (void)test::have_own_shared_folder();
    const shm::ArenaUsage usage = shm::Arena::instance().usage();
    Remains remains{.files = list("/proc/self/fd", true),
                    .shm = test::own_segments(),
                    .span_bytes = usage.span_bytes - usage.slab_bytes,
                    .small_blocks = usage.small_blocks,
                    .refused_frees = usage.refused_frees};
    const shm::ProcessTable& table = shm::ProcessTable::instance();
    for (std::size_t i = 0; i < table.high(); ++i) remains.processes += table.in_use(i) ? 1 : 0;
    return remains;
  }
};

/// Compares; and there is no child.
inline void expect_nothing_left(const Remains& before) {
  EXPECT_EQ(children_of(::getpid()), std::vector<pid_t>());
  const Remains after = Remains::now();
  EXPECT_EQ(after.files, before.files);
  EXPECT_EQ(after.shm, before.shm);
  EXPECT_EQ(after.span_bytes, before.span_bytes);
  EXPECT_EQ(after.small_blocks, before.small_blocks);
  EXPECT_EQ(after.refused_frees, before.refused_frees);
  EXPECT_EQ(after.processes, before.processes);
}

/// Kills random workers at random instants until it has killed `quota`, or is stopped.
class Killer {
 public:
  Killer(std::uint64_t seed, long quota, std::chrono::microseconds longest_pause)
      : random_(seed), quota_(quota), pause_(longest_pause), thread_([this] { run(); }) {}
  ~Killer() { stop(); }
  Killer(const Killer&) = delete;
  Killer& operator=(const Killer&) = delete;
  void stop() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] long kills() const { return kills_.load(); }
  [[nodiscard]] bool done() const { return kills() >= quota_; }

 private:
  void run() {
    while (!stop_.load() && !done()) {
      // Half of the pauses are short: kills that hit workers as they start.
      const auto limit = random_() % 2 == 0 ? pause_.count() / 20 : pause_.count();
      std::this_thread::sleep_for(std::chrono::microseconds(
          static_cast<long>(random_() % static_cast<std::uint64_t>(limit + 1))));
      const std::vector<pid_t> alive = workers();
      if (alive.empty()) continue;
      if (kill_one(alive[random_() % alive.size()])) kills_.fetch_add(1);
    }
  }

  std::mt19937_64 random_;
  long quota_;
  std::chrono::microseconds pause_;
  std::atomic<long> kills_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace millrace::stress
