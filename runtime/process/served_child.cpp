#include "runtime/process/served_child.hpp"

#include <linux/types.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/process/fork_server.hpp"
#include "shm/above_streams.hpp"
#include "shm/liveness.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {
namespace {

// What the kernel (6.15 and later) tells by a pidfd of a process that others have reaped.
int status_of_reaped(int pidfd) noexcept {
  struct Info {
    std::uint64_t mask;
    std::uint64_t cgroup;
    std::uint32_t ids[11];
    std::int32_t exit_code;
  } info{};
  static_assert(sizeof info == 64, "the first version of the kernel's structure");
  constexpr std::uint64_t kExit = 8;
  info.mask = kExit;
  if (::ioctl(pidfd, _IOWR(0xFF, 11, Info), &info) != 0) return shm::kUnknownStatus;
  return (info.mask & kExit) != 0 ? info.exit_code : shm::kUnknownStatus;
}

}  // namespace

int sentinel_of(const ServedChild& child) {
  int fd = shm::above_streams(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0U)));
  // Asked afterwards: the pid may serve another process by now.
  if (fd >= 0 && !shm::ProcessTable::instance().check_alive(child.id))
    ::close(std::exchange(fd, -1));
  if (fd < 0) fd = shm::above_streams(::eventfd(1, EFD_CLOEXEC));
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "pidfd of a served process");
  return fd;
}

void end_unwatched(const ServedChild& child) noexcept {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  while (table.check_alive(child.id)) {  // the server collects it
    shm::send_signal(child.pid, SIGKILL);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  shm::reap(child.id);
}

int served_status(const ServedChild& child) noexcept {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  if (const int told = table.status(child.id); told != shm::kUnknownStatus) return told;
  // Whatever has this pid is the child as long as its pidfd names a process that is not reaped.
  const int seen = shm::zombie_status(child.pid, 0);
  if (seen != shm::kUnknownStatus && shm::send_signal_fd(child.pidfd, 0)) return seen;
  // Reaped meanwhile: by the server, which has told before, or by init.
  const int told = table.status(child.id);
  return told != shm::kUnknownStatus ? told : status_of_reaped(child.pidfd);
}

}  // namespace millrace::runtime
