// The parent's side of its zygote: making it, telling it, ending it.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <millrace/errors.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "runtime/base/fd_bag.hpp"
#include "runtime/pool/zygote.hpp"
#include "runtime/pool/zygote_start.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/fork_hazards.hpp"
#include "shm/above_streams.hpp"
#include "shm/parking.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

int open_pidfd(pid_t pid) noexcept {
  // close-on-exec by itself
  return shm::above_streams(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

namespace {

// An eventfd above those that an executed zygote has at fixed places.
int new_poke_fd() {
  const int fd = shm::above(kPokeDescriptor, ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd of a pool");
  return fd;
}

}  // namespace

Zygote::Zygote(PoolShared& shared, const PoolPlan& plan) : shared_(shared) {
  poke_fd_ = new_poke_fd();
  // relaxed: the zygote that reads them is forked after this.
  shared_.started.store(0, std::memory_order_relaxed);
  shared_.start_error.store(0, std::memory_order_relaxed);
  shared_.ending.store(0, std::memory_order_relaxed);  // set when one that died was put away
  std::unique_ptr<SpawnMessage> message;
  try {
    if (plan.method != "fork") message = describe_zygote(shared, plan);
    start(plan, message.get());
  } catch (...) {
    ::close(poke_fd_);
    throw;
  }
  pidfd_ = open_pidfd(pid_);
  // STARTED: pairs with the zygote's stores.
  while (shared_.started.load(std::memory_order_acquire) == 0) {
    shm::futex_wait(shared_.started, 0, Clock::now() + milliseconds(50));
    if (shared_.started.load(std::memory_order_acquire) == 0 && !alive()) break;  // STARTED
  }
  // STARTED workers: zygote.cpp, both ends
  if (shared_.started.load(std::memory_order_acquire) == 1) return;
  const int error = shared_.start_error.load(std::memory_order_relaxed);
  end();
  ::close(pidfd_);
  ::close(poke_fd_);
  if (message && error == 0 && WIFEXITED(status_)) {
    throw std::runtime_error(
        "the zygote of a pool ends before it has begun (what it says of the "
        "reason is on stderr). " +
        std::string(freeze_support_idiom()));
  }
  throw std::system_error(error != 0 ? error : ECHILD, std::generic_category(),
                          "fork of the workers of a pool");
}

void Zygote::start(const PoolPlan& plan, SpawnMessage* message) {
  if (message == nullptr) check_fork();
  if (message != nullptr) {
    id_ = message->id();
    pid_ = message->send(StartKind::zygote, poke_fd_);
    return;
  }
  id_ = shm::ProcessTable::instance().reserve();
  need_fd_bag();  // for what tasks and results hold
  pid_ = fork_process(id_);
  if (pid_ != 0) return;
  try {
    set_process_name("zygote");
    run_zygote(shared_, plan, poke_fd_);
  } catch (...) {  // out of memory before the first worker
  }
  ::_exit(1);
}

Zygote::~Zygote() {
  end();
  if (pidfd_ >= 0) ::close(pidfd_);
  if (poke_fd_ >= 0) ::close(poke_fd_);
}

void Zygote::poke() noexcept {
  const std::uint64_t one = 1;
  if (poke_fd_ >= 0) (void)!::write(poke_fd_, &one, sizeof one);
}

bool Zygote::alive() const noexcept { return !wait_for(0); }

// True when it has ended. Leaves it to be reaped, so that its pid stays its own.
bool Zygote::wait_for(int limit_ms) const noexcept {
  if (pid_ <= 0) return true;
  if (pidfd_ >= 0) {
    pollfd event{pidfd_, POLLIN, 0};
    return ::poll(&event, 1, limit_ms) == 1;
  }
  siginfo_t info{};
  if (limit_ms > 0) ::poll(nullptr, 0, std::min(limit_ms, 20));
  const int outcome = ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
  return outcome != 0 || info.si_pid == pid_;
}

void Zygote::reap() noexcept {
  const std::lock_guard lock(reaping_);
  if (pid_ <= 0 || std::exchange(reaped_, true)) return;
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0) {
    if (errno == EINTR) continue;
    status = shm::kUnknownStatus;  // somebody else has waited for it
    break;
  }
  status_ = status;
  shm::ProcessTable::instance().mark_dead(id_, status);
  shm::reap(id_);
}

void Zygote::wait_exit() noexcept {
  while (!wait_for(1000)) {
  }
  reap();
}

void Zygote::end() noexcept {
  if (pid_ <= 0) return;
  // END pool: Zygote::end and its loop, zygote.cpp
  shared_.ending.store(1, std::memory_order_release);
  poke();
  if (pidfd_ >= 0) (void)shm::send_signal_fd(pidfd_, SIGCONT);  // it may have been stopped
  const auto deadline = Clock::now() + milliseconds(6000);
  bool ended = false;
  while (!(ended = wait_for(100)) && Clock::now() < deadline) {
  }
  if (!ended) {  // a stopped zygote
    if (pidfd_ >= 0) {
      shm::send_signal_fd(pidfd_, SIGKILL);
    } else {
      shm::send_signal(pid_, SIGKILL);
    }
  }
  reap();
}

}  // namespace millrace::runtime
