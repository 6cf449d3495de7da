#include "runtime/zygote.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

#include <millrace/errors.hpp>

#include "runtime/child.hpp"
#include "runtime/oom.hpp"
#include "runtime/worker.hpp"
#include "shm/parking.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

int open_pidfd(pid_t pid) noexcept {
  return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));  // close-on-exec by itself
}

/// The zygote's own side: everything here runs in its process, in its only thread.
class ZygoteProcess {
 public:
  ZygoteProcess(PoolShared& shared, const PoolPlan& plan, int poke_fd)
      : shared_(shared), plan_(plan), poke_fd_(poke_fd), lives_(plan.workers.size()) {}

  [[noreturn]] void run();

 private:
  struct Life {
    pid_t pid = 0;  ///< 0: nobody stands here
    bool done = false;  ///< nobody is to stand here any more
    Clock::time_point retry{};
  };

  void watch();
  static std::atomic<std::uint32_t>* note_for(WorkerSlot& slot) noexcept;
  bool start(int index);
  [[noreturn]] void start_worker(int index);
  void start_missing();
  void reap();
  void bury(int index, int status);
  void serve_kills();
  [[noreturn]] void end_all();
  void signal_all(int signal) noexcept;
  bool reap_until(Clock::time_point deadline);
  bool anyone() const noexcept;
  int patience() const;
  void count_readied();
  void give_up(int status);

  PoolShared& shared_;
  const PoolPlan& plan_;
  int poke_fd_;
  pid_t own_pid_ = ::getpid();
  int signal_fd_ = -1;
  int parent_fd_ = -1;
  std::vector<Life> lives_;
  int failures_ = 0;  // in a row: workers that died before they were ready, forks refused
  std::uint64_t readied_ = 0;  // workers that have become ready, when last looked at
  int next_number_ = 0;
  OomWatch oom_;
};

void ZygoteProcess::watch() {
  ::signal(SIGINT, SIG_IGN);  // of the terminal: it is the parent's to decide
  ::signal(SIGQUIT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGHUP, SIG_DFL);
  ::signal(SIGCHLD, SIG_DFL);
  sigset_t child;
  ::sigemptyset(&child);
  ::sigaddset(&child, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &child, nullptr);
  signal_fd_ = ::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  parent_fd_ = open_pidfd(shared_.parent_pid);
  if (::getppid() != shared_.parent_pid) ::_exit(1);
}

void ZygoteProcess::run() {
  watch();
  next_number_ = plan_.first_number;
  for (std::size_t i = 0; i < lives_.size(); ++i) {
    if (signal_fd_ >= 0 && start(static_cast<int>(i))) continue;
    shared_.start_error.store(errno, std::memory_order_relaxed);
    shared_.started.store(2, std::memory_order_release);  // STARTED: pairs with the constructor
    shm::futex_wake(shared_.started, 1);
    end_all();
  }
  shared_.started.store(1, std::memory_order_release);  // STARTED: pairs with the constructor
  shm::futex_wake(shared_.started, 1);
  for (;;) {
    pollfd events[] = {{poke_fd_, POLLIN, 0}, {signal_fd_, POLLIN, 0}, {parent_fd_, POLLIN, 0}};
    ::poll(events, parent_fd_ < 0 ? 2 : 3, patience());
    if (events[2].revents != 0 || ::getppid() != shared_.parent_pid) {
      signal_all(SIGKILL);
      reap_until(Clock::now() + milliseconds(1000));
      ::_exit(1);
    }
    std::uint64_t drained = 0;
    if (events[0].revents != 0) (void)!::read(poke_fd_, &drained, sizeof drained);
    signalfd_siginfo info[8];
    if (events[1].revents != 0) (void)!::read(signal_fd_, info, sizeof info);
    if (shared_.ending.load(std::memory_order_acquire) != 0) end_all();  // OBSERVE ending
    serve_kills();
    reap();
    if (shared_.closing.load(std::memory_order_acquire) != 0) {  // OBSERVE closing
      if (!anyone()) ::_exit(0);
    } else {
      start_missing();
    }
  }
}

// How long to wait for events: for ever, unless a worker is to be tried again.
int ZygoteProcess::patience() const {
  auto next = Clock::time_point::max();
  for (const Life& life : lives_) {
    if (life.pid == 0 && !life.done) next = std::min(next, life.retry);
  }
  if (next == Clock::time_point::max()) return parent_fd_ < 0 ? 200 : -1;
  const auto left = std::chrono::ceil<milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<long>(left, 0, 1000));
}

// Where the id of the next worker at a position is noted; null while the parent has not dealt with
// the deaths of so many before it: none of them may be forgotten.
std::atomic<std::uint32_t>* ZygoteProcess::note_for(WorkerSlot& slot) noexcept {
  for (auto& recent : slot.recent) {
    if (recent.load(std::memory_order_acquire) == 0) return &recent;  // RECENT
  }
  return nullptr;
}

bool ZygoteProcess::start(int index) {
  WorkerSlot& slot = shared_.slots[index];
  std::atomic<std::uint32_t>* const note = note_for(slot);
  if (note == nullptr) {
    errno = EBUSY;
    return false;
  }
  pid_t pid = -1;
  try {
    const shm::ProcessId id = shm::ProcessTable::instance().reserve();
    note->store(id, std::memory_order_relaxed);
    slot.phase.store(WorkerPhase::starting, std::memory_order_relaxed);
    slot.range_entered.store(0, std::memory_order_relaxed);
    slot.began_ns.store(0, std::memory_order_relaxed);
    slot.id.store(id, std::memory_order_release);  // ID: whoever reads it finds the slot reset
    pid = fork_process(id);
  } catch (const std::system_error& error) {
    slot.id.store(0, std::memory_order_relaxed);
    note->store(0, std::memory_order_relaxed);
    errno = error.code().value();
    return false;
  }
  if (pid == 0) start_worker(index);
  slot.pid.store(pid, std::memory_order_relaxed);
  slot.lives.fetch_add(1, std::memory_order_relaxed);
  lives_[static_cast<std::size_t>(index)].pid = pid;
  ++next_number_;
  return true;
}

void ZygoteProcess::start_worker(int index) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != own_pid_) ::_exit(1);  // it died before the line above
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::close(signal_fd_);
  ::close(poke_fd_);
  if (parent_fd_ >= 0) ::close(parent_fd_);
  become_process(plan_.name_prefix + std::to_string(next_number_), true, plan_.parent);
  struct Body {
    PoolShared& shared;
    const PoolPlan& plan;
    int index;
  } body{shared_, plan_, index};
  exit_process(run_guarded(
      [](void* argument) {
        const Body& self = *static_cast<Body*>(argument);
        const int code = run_worker(self.shared, self.plan, self.index);
        if (code != 0) throw SystemExit(code);
      },
      &body));
}

void ZygoteProcess::start_missing() {
  const auto now = Clock::now();
  for (std::size_t i = 0; i < lives_.size(); ++i) {
    Life& life = lives_[i];
    if (life.pid != 0 || life.done || life.retry > now) continue;
    if (start(static_cast<int>(i))) continue;
    if (errno == EBUSY) {
      life.retry = now + milliseconds(5);
      shared_.bell.rouse();
      continue;
    }
    // As long as others live they do the work, and the system may relent.
    if (++failures_ > 50 && !anyone()) return give_up(shm::kUnknownStatus);
    life.retry = now + milliseconds(std::min(1 << std::min(failures_, 6), 50));
  }
}

void ZygoteProcess::reap() {
  int status = 0;
  for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    for (std::size_t i = 0; i < lives_.size(); ++i) {
      if (lives_[i].pid == pid) bury(static_cast<int>(i), status);
    }
  }
}

// A worker has ended. Its death is established before anyone may rely on it; then the parent hears.
void ZygoteProcess::bury(int index, int status) {
  WorkerSlot& slot = shared_.slots[index];
  Life& life = lives_[static_cast<std::size_t>(index)];
  const shm::ProcessId id = slot.id.load(std::memory_order_acquire);  // ID
  const auto phase = slot.phase.load(std::memory_order_acquire);      // LEAVE, READY
  const bool left = phase == WorkerPhase::leaving && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  life.pid = 0;
  life.retry = Clock::now();
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && oom_.struck()) {
    slot.oom_id.store(id, std::memory_order_relaxed);
  }
  shared_.idle[index / 64].fetch_or(std::uint64_t{1} << (index % 64), std::memory_order_seq_cst);
  slot.phase.store(WorkerPhase::none, std::memory_order_relaxed);
  // In this order: killed in between, the zygote leaves no dead worker that nobody asks after.
  if (id != 0) shm::ProcessTable::instance().mark_dead(id, status);
  slot.id.store(0, std::memory_order_relaxed);
  count_readied();
  if (!left) {
    shared_.deaths.fetch_add(1, std::memory_order_relaxed);
    if (phase == WorkerPhase::starting) {
      // It died before it was ready: try again, slower and slower, and not for ever.
      const int limit = std::max(10, 2 * static_cast<int>(lives_.size()));
      if (++failures_ > limit) give_up(status);
      life.retry += milliseconds(std::min(1 << std::min(failures_, 6), 50));
    }
  }
  shared_.bell.rouse();
}

// Failures count only while no worker becomes ready.
void ZygoteProcess::count_readied() {
  const std::uint64_t readied = shared_.readied.load(std::memory_order_relaxed);
  if (std::exchange(readied_, readied) != readied) failures_ = 0;
}

void ZygoteProcess::give_up(int status) {
  for (Life& life : lives_) life.done = true;
  shared_.broken_status.store(status, std::memory_order_relaxed);
  shared_.broken.store(1, std::memory_order_release);  // BROKEN: pairs with the parent's look
  shared_.bell.rouse();
}

void ZygoteProcess::serve_kills() {
  for (std::size_t i = 0; i < lives_.size(); ++i) {
    WorkerSlot& slot = shared_.slots[i];
    const std::uint32_t wanted = slot.kill_request.load(std::memory_order_acquire);  // OBSERVE kill
    // Its own child: the pid cannot have been given to another before it is reaped here.
    if (wanted == 0 || wanted != slot.id.load(std::memory_order_relaxed)) continue;
    if (lives_[i].pid != 0) shm::send_signal(lives_[i].pid, SIGKILL);
    slot.kill_request.store(0, std::memory_order_relaxed);
  }
}

bool ZygoteProcess::anyone() const noexcept {
  return std::ranges::any_of(lives_, [](const Life& life) { return life.pid != 0; });
}

void ZygoteProcess::signal_all(int signal) noexcept {
  for (const Life& life : lives_) {
    if (life.pid != 0) shm::send_signal(life.pid, signal);
  }
}

bool ZygoteProcess::reap_until(Clock::time_point deadline) {
  for (;;) {
    reap();
    if (!anyone()) return true;
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd event{signal_fd_, POLLIN, 0};
    ::poll(&event, 1, static_cast<int>(left));
    signalfd_siginfo info[8];
    (void)!::read(signal_fd_, info, sizeof info);
  }
}

void ZygoteProcess::end_all() {
  for (Life& life : lives_) life.done = true;
  signal_all(SIGTERM);
  if (!reap_until(Clock::now() + milliseconds(200))) {
    signal_all(SIGKILL);
    reap_until(Clock::now() + milliseconds(5000));
  }
  ::_exit(0);
}

}  // namespace

Zygote::Zygote(PoolShared& shared, const PoolPlan& plan) : shared_(shared) {
  poke_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (poke_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd of a pool");
  // relaxed: the zygote that reads them is forked after this.
  shared_.started.store(0, std::memory_order_relaxed);
  shared_.ending.store(0, std::memory_order_relaxed);  // set when one that died was put away
  try {
    id_ = shm::ProcessTable::instance().reserve();
    pid_ = fork_process(id_);
  } catch (...) {
    ::close(poke_fd_);
    throw;
  }
  if (pid_ == 0) {
    try {
      set_process_name("zygote");
      ZygoteProcess(shared, plan, poke_fd_).run();
    } catch (...) {  // out of memory before the first worker
    }
    ::_exit(1);
  }
  pidfd_ = open_pidfd(pid_);
  // STARTED: pairs with the zygote's stores.
  while (shared_.started.load(std::memory_order_acquire) == 0) {
    shm::futex_wait(shared_.started, 0, Clock::now() + milliseconds(50));
    if (shared_.started.load(std::memory_order_acquire) == 0 && !alive()) break;  // STARTED
  }
  if (shared_.started.load(std::memory_order_acquire) == 1) return;  // STARTED
  const int error = shared_.start_error.load(std::memory_order_relaxed);
  end();
  ::close(pidfd_);
  ::close(poke_fd_);
  throw std::system_error(error != 0 ? error : ECHILD, std::generic_category(),
                          "fork of the workers of a pool");
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
bool Zygote::wait_for(int milliseconds) const noexcept {
  if (pid_ <= 0) return true;
  if (pidfd_ >= 0) {
    pollfd event{pidfd_, POLLIN, 0};
    return ::poll(&event, 1, milliseconds) == 1;
  }
  siginfo_t info{};
  if (milliseconds > 0) ::poll(nullptr, 0, std::min(milliseconds, 20));
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
  shared_.ending.store(1, std::memory_order_release);  // OBSERVE ending
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
