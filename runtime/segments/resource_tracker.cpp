#include "runtime/segments/resource_tracker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <thread>

#include "runtime/base/signals_blocked.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/shed_memory.hpp"
#include "runtime/segments/segment.hpp"
#include "runtime/segments/segment_registry.hpp"
#include "shm/liveness.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kNobody = 0;
constexpr std::uint64_t kStarting = 1;
constexpr std::uint64_t kRunning = 2;
constexpr std::uint64_t kKind = 3;

constexpr int kLooks = 3;          // that must find nobody, since a process may be about to enrol
constexpr int kBetweenLooks = 20;  // milliseconds

// ---- In the tracker's process: only what may be called between fork and exec. ----

void say(const char* format, const char* name, const char* detail) noexcept {
  std::array<char, 512> line{};
  const int length = std::snprintf(line.data(), line.size(), format, name, detail);
  if (length > 0) {
    const auto bytes = static_cast<std::size_t>(length);
    (void)!::write(STDERR_FILENO, line.data(), bytes < line.size() ? bytes : line.size() - 1);
  }
}

// A living process of the program, 0 when there is none. If any, one that can be waited for: a
// child that has not used the library has no pid there.
shm::ProcessId anybody(shm::ProcessTable& table) noexcept {
  shm::ProcessId reserved = 0;
  for (std::size_t i = 0; i < table.high(); ++i) {
    const shm::ProcessId id = table.id_at(i);
    if (id == 0 || !table.is_present(id) || !table.check_alive(id)) continue;
    if (table.pid(id) != 0) return id;
    reserved = id;
  }
  return reserved;
}

void wait_for_end_of(shm::ProcessTable& table, shm::ProcessId id) noexcept {
  const pid_t pid = table.pid(id);
  const int fd = pid > 1 ? static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U)) : -1;
  // Asked again: from here on the descriptor cannot be another process's that got the pid.
  if (fd >= 0 && table.check_alive(id)) {
    pollfd end{fd, POLLIN, 0};
    ::poll(&end, 1, -1);
  } else {
    ::poll(nullptr, 0, kBetweenLooks);
  }
  if (fd >= 0) ::close(fd);
}

void unlink_all(const SegmentRegistry& notes) noexcept {
  struct Found {
    int count = 0;
  } found;
  notes.each(
      [](const SegmentRegistry::Note& note, void* argument) {
        const int error = unlink_if(note.name.data(), note.segment);
        if (error == ENOENT) return;
        ++static_cast<Found*>(argument)->count;
        if (error != 0) {
          say("UserWarning: resource_tracker: '%s': %s\n", note.name.data(),
              ::strerrordesc_np(error));
        }
      },
      &found);
  if (found.count == 0) return;
  std::array<char, 16> count{};
  std::snprintf(count.data(), count.size(), "%d", found.count);
  say("UserWarning: resource_tracker: There appear to be %s leaked %s objects to clean up at "
      "shutdown\n",
      count.data(), "shared_memory");
}

// Nothing of the program's is held open but stderr, for the warnings.
void let_go_of_descriptors() noexcept {
  const int null = ::open("/dev/null", O_RDWR);
  if (null >= 0) {
    ::dup2(null, STDIN_FILENO);
    ::dup2(null, STDOUT_FILENO);
  }
  if (::syscall(SYS_close_range, 3U, ~0U, 0U) == 0) return;
  for (int fd = 3; fd < 65536; ++fd) ::close(fd);
}

[[noreturn]] void track(shm::ProcessTable& table, const SegmentRegistry& notes) noexcept {
  ::setsid();  // signals to the program's group are not for it
  ::prctl(PR_SET_NAME, "millrace-track");
  (void)!::chdir("/");
  let_go_of_descriptors();
  for (int looks = 0; looks < kLooks;) {
    if (const shm::ProcessId id = anybody(table)) {
      looks = 0;
      wait_for_end_of(table, id);
    } else if (++looks < kLooks) {
      ::poll(nullptr, 0, kBetweenLooks);
    }
  }
  unlink_all(notes);
  ::_exit(0);
}

pid_t bare_fork(unsigned long flags) noexcept {
  return static_cast<pid_t>(::syscall(SYS_clone, flags, 0UL, 0UL, 0UL, 0UL));
}

// ---- In the process that starts it. ----

// The tracker is nobody's child: a process in between makes it and ends, one that sends no SIGCHLD
// and that no wait() of the program's own can meet. Its signals stay blocked for ever.
pid_t launch(SegmentRegistry& notes) {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  notes.tracker_made.store(-EAGAIN, std::memory_order_relaxed);
  pid_t between = -1;
  int error = 0;
  {
    const SignalsBlocked blocked;
    between = bare_fork(0);
    error = errno;
    if (between == 0) {
      shed_memory();
      const pid_t made = bare_fork(SIGCHLD);
      if (made == 0) track(table, notes);
      // relaxed: its end orders this before the look of the process that waits for it
      notes.tracker_made.store(made > 0 ? made : -errno, std::memory_order_relaxed);
      ::_exit(0);
    }
  }
  if (between < 0) {
    throw std::system_error(error, std::generic_category(), "start of the resource tracker");
  }
  while (::waitpid(between, nullptr, static_cast<int>(__WCLONE)) < 0 && errno == EINTR) {
  }
  const pid_t made = notes.tracker_made.load(std::memory_order_relaxed);
  if (made <= 0) {
    throw std::system_error(-made, std::generic_category(), "start of the resource tracker");
  }
  return made;
}

bool runs(const SegmentRegistry& notes, std::uint64_t word) noexcept {
  return !shm::process_gone(static_cast<pid_t>(word >> 2U),
                            notes.tracker_started.load(std::memory_order_relaxed));
}

}  // namespace

void ensure_resource_tracker() {
  SegmentRegistry& notes = SegmentRegistry::instance();
  const std::uint64_t mine = kStarting | std::uint64_t{shm::self()} << 2U;
  for (;;) {
    // START tracker: acquire, the start time was written before
    std::uint64_t seen = notes.tracker.load(std::memory_order_acquire);
    if ((seen & kKind) == kRunning && runs(notes, seen)) return;
    if ((seen & kKind) == kStarting &&
        shm::ProcessTable::instance().check_alive(static_cast<shm::ProcessId>(seen >> 2U))) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    // START tracker: acq_rel, after whatever the previous holder of the word did
    if (!notes.tracker.compare_exchange_strong(seen, mine, std::memory_order_acq_rel,
                                               std::memory_order_relaxed)) {
      continue;
    }
    if ((seen & kKind) == kRunning) {
      print_error("UserWarning: resource_tracker: process died unexpectedly, relaunching.\n");
    }
    try {
      const pid_t pid = launch(notes);
      notes.tracker_started.store(shm::start_time_of(pid), std::memory_order_relaxed);
      // START tracker: release
      notes.tracker.store(kRunning | static_cast<std::uint64_t>(pid) << 2U,
                          std::memory_order_release);
    } catch (...) {
      notes.tracker.store(kNobody, std::memory_order_release);  // START tracker: given back
      throw;
    }
    return;
  }
}

}  // namespace millrace::runtime
