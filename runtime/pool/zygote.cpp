#include "runtime/pool/zygote.hpp"

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
#include <millrace/errors.hpp>
#include <system_error>
#include <utility>

#include "runtime/pool/oom.hpp"
#include "runtime/pool/worker.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/context_state.hpp"
#include "shm/above_streams.hpp"
#include "shm/fork_hooks.hpp"
#include "shm/parking.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// The zygote's own side: everything here runs in its process, in its only thread.
class ZygoteProcess {
 public:
  ZygoteProcess(PoolShared& shared, const PoolPlan& plan, int poke_fd)
      : shared_(shared), plan_(plan), poke_fd_(poke_fd), lives_(plan.workers.size()) {}

  [[noreturn]] void run();

 private:
  struct Life {
    pid_t pid = 0;      ///< 0: nobody stands here
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
  int failures_ = 0;           // in a row: workers that died before they were ready, forks refused
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
  signal_fd_ = shm::above_streams(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
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
    // END pool: Zygote::end and its loop, zygote.cpp
    if (shared_.ending.load(std::memory_order_acquire) != 0) end_all();
    serve_kills();
    reap();
    // CLOSE pool: written in process_pool.cpp, read in worker.cpp and zygote.cpp
    if (shared_.closing.load(std::memory_order_acquire) != 0) {
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
    // RECENT worker: zygote.cpp writes before the fork, pool_loss.cpp reads
    if (recent.load(std::memory_order_acquire) == 0) return &recent;
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
    shm::ProcessTable::instance().set_heir(id, shared_.parent_id);  // it reads the replies
    slot.phase.store(WorkerPhase::starting, std::memory_order_relaxed);
    slot.bound.store(0, std::memory_order_relaxed);  // until it has reported where it runs
    slot.range_entered.store(0, std::memory_order_relaxed);
    slot.began_ns.store(0, std::memory_order_relaxed);
    // STAND worker: zygote.cpp writes, pool_loss.cpp reads
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
  set_child_start_method(plan_.method);
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
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) return;
    for (std::size_t i = 0; i < lives_.size(); ++i) {
      if (lives_[i].pid == pid) bury(static_cast<int>(i), status);
    }
  }
}

// A worker has ended. Its death is established before anyone may rely on it; then the parent hears.
void ZygoteProcess::bury(int index, int status) {
  WorkerSlot& slot = shared_.slots[index];
  Life& life = lives_[static_cast<std::size_t>(index)];
  // STAND worker: zygote.cpp writes, pool_loss.cpp reads
  const shm::ProcessId id = slot.id.load(std::memory_order_acquire);
  // PHASE worker: worker.cpp writes, zygote.cpp reads
  const auto phase = slot.phase.load(std::memory_order_acquire);  // LEAVE, READY
  const bool left = phase == WorkerPhase::leaving && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  const pid_t pid = std::exchange(life.pid, 0);
  life.retry = Clock::now();
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && oom_.struck()) {
    slot.oom_id.store(id, std::memory_order_relaxed);
  }
  // SLEEP worker: worker.cpp announces, pool_feed.cpp looks
  shared_.idle[index / 64].fetch_or(std::uint64_t{1} << (index % 64), std::memory_order_seq_cst);
  slot.phase.store(WorkerPhase::none, std::memory_order_relaxed);
  // In this order: killed in between, the zygote leaves no dead worker that nobody asks after.
  if (id != 0) shm::ProcessTable::instance().mark_dead(id, status);
  shm::child_ended(pid);
  slot.id.store(0, std::memory_order_relaxed);
  count_readied();
  if (!left) {
    shared_.deaths.fetch_add(1, std::memory_order_relaxed);
    if (phase == WorkerPhase::starting) {
      // It died before it was ready: try again, slower and slower, and not for ever.
      // SIGKILL comes from outside, perhaps for every worker for a while; the rest they do
      // themselves.
      const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      const int limit = std::max(killed ? 200 : 10, 2 * static_cast<int>(lives_.size()));
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
  // BREAK pool: zygote.cpp writes, pool_loss.cpp reads
  shared_.broken.store(1, std::memory_order_release);  // BROKEN: pairs with the parent's look
  shared_.bell.rouse();
}

void ZygoteProcess::serve_kills() {
  for (std::size_t i = 0; i < lives_.size(); ++i) {
    WorkerSlot& slot = shared_.slots[i];
    // KILL worker: pool_loss.cpp asks, zygote.cpp does
    const std::uint32_t wanted = slot.kill_request.load(std::memory_order_acquire);
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

void run_zygote(PoolShared& shared, const PoolPlan& plan, int poke_fd) {
  ZygoteProcess(shared, plan, poke_fd).run();
}

}  // namespace millrace::runtime
