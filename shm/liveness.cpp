#include "shm/liveness.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "shm/signals.hpp"

namespace millrace::shm {
namespace {

struct ProcStat {
  bool readable = false;
  char state = 0;
  long threads = 0;
  std::uint64_t start_time = 0;
  long status = -1;  // of a zombie
};

// Fields are counted from the last ')', since the second one, the program's name, may hold
// anything. Field 3 is the state, 20 the number of threads, 22 the start time, 52 the exit status
// (0 for those who may not know it).
ProcStat parse_stat(char* text) noexcept {
  ProcStat stat;
  char* at = std::strrchr(text, ')');
  if (at == nullptr || at[1] != ' ') return stat;
  char* save = nullptr;
  int field = 3;
  for (char* word = ::strtok_r(at + 2, " ", &save); word != nullptr;
       word = ::strtok_r(nullptr, " ", &save), ++field) {
    if (field == 3) stat.state = *word;
    if (field == 20) stat.threads = std::strtol(word, nullptr, 10);
    if (field == 22) {
      stat.start_time = std::strtoull(word, nullptr, 10);
      stat.readable = true;
    }
    if (field == 52) stat.status = std::strtol(word, nullptr, 10);
  }
  return stat;
}

ProcStat read_stat(pid_t pid) noexcept {
  char path[48] = "/proc/self/stat";
  if (pid != 0) std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char text[1024];
  ssize_t got = 0;
  do {
    got = ::read(fd, text, sizeof text - 1);
  } while (got < 0 && errno == EINTR);
  ::close(fd);
  if (got <= 0) return {};
  text[got] = 0;
  return parse_stat(text);
}

int open_pidfd(pid_t pid) noexcept { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U)); }

// A process that was given a pid which one that had started at `start_time` had before.
bool is_later(const ProcStat& stat, std::uint64_t start_time) noexcept {
  return stat.readable && start_time != 0 && stat.start_time > start_time;
}

// Without pidfds: the leader of a process whose other threads live on is a zombie too, so that
// state counts only when no thread is left.
bool gone_by_stat(const ProcStat& stat, std::uint64_t start_time) noexcept {
  if (!stat.readable) return false;
  if (is_later(stat, start_time)) return true;
  return stat.state == 'X' || (stat.state == 'Z' && stat.threads <= 1);
}

// syscall(), but for the fault that a child takes for its page of code.
[[gnu::hot]] inline void ask_kernel(long number, long first, void* second) noexcept {
#ifdef __x86_64__
  long result = number;
  asm volatile("syscall" : "+a"(result) : "D"(first), "S"(second) : "rcx", "r11", "memory");
#else
  ::syscall(number, first, second);
#endif
}

}  // namespace

std::uint64_t start_time_of(pid_t pid) noexcept { return read_stat(pid).start_time; }

[[gnu::hot]] std::uint64_t start_clock_now() noexcept {
  timespec now{};
  // A system call: the C library's would take two faults for the kernel's page of time.
  ask_kernel(SYS_clock_gettime, CLOCK_BOOTTIME, &now);
  // /proc counts hundredths of a second on every machine (USER_HZ).
  return static_cast<std::uint64_t>(now.tv_sec) * 100 +
         static_cast<std::uint64_t>(now.tv_nsec) / 10'000'000;
}

bool process_gone(pid_t pid, std::uint64_t start_time) noexcept {
  if (pid <= 0) return true;
  if (pid == ::getpid()) return false;
  const int fd = open_pidfd(pid);
  if (fd < 0) {
    if (errno == ESRCH) return true;
    if (pid > 1 && !send_signal(pid, 0) && errno == ESRCH) return true;
    return gone_by_stat(read_stat(pid), start_time);
  }
  // While the descriptor is not readable the process it stands for has not ended, so what
  // /proc says under this pid is about that process. Asking costs more than all else here.
  const ProcStat stat = start_time != 0 ? read_stat(pid) : ProcStat{};
  pollfd ended{fd, POLLIN, 0};
  const int ready = ::poll(&ended, 1, 0);
  ::close(fd);
  if (ready > 0) return true;
  return is_later(stat, start_time);
}

int zombie_status(pid_t pid, std::uint64_t start_time) noexcept {
  const ProcStat stat = pid > 0 ? read_stat(pid) : ProcStat{};
  const bool same = stat.readable && !is_later(stat, start_time);
  return same && stat.state == 'Z' ? static_cast<int>(stat.status) : -1;
}

}  // namespace millrace::shm
