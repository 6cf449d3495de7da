#include "runtime/process/process_record.hpp"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <millrace/errors.hpp>
#include <millrace/logging.hpp>
#include <mutex>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/base/random.hpp"
#include "runtime/base/utf8.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/exit.hpp"
#include "runtime/process/fork_server.hpp"
#include "runtime/process/spawn.hpp"
#include "shm/above_streams.hpp"
#include "shm/fork_hooks.hpp"
#include "shm/immortal.hpp"
#include "shm/interrupt.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {
namespace {

using Role = ProcessRecord::Role;
using Stage = ProcessRecord::Stage;

constexpr auto kGrace = std::chrono::seconds(5);  // from SIGTERM to SIGKILL, at exit only
constexpr int kUnknownExit = 255;                 // somebody else collected the status

Bytes random_key() {
  Bytes key;
  key.resize(32);
  fill_random(key.data(), key.size());
  return key;
}

RecordPtr main_record() {
  auto record = std::make_shared<ProcessRecord>();
  record->role = Role::self;
  record->stage = Stage::started;
  record->class_name = "_MainProcess";
  record->name = "MainProcess";
  return record;
}

// All of it guarded by `mutex`.
struct Processes {
  ForkMutex mutex{ForkMutex::Level::process};
  RecordPtr self = main_record();
  RecordPtr parent;  // null: the main process
  RecordPtr copied;  // what was `self` before the fork: freeing it would cost the child some faults
  std::vector<RecordPtr> children;
  int counter = 0;  // of the children ever made, for their names
};

// Never destroyed: exit handlers use it.
Processes& processes() {
  static shm::Immortal<Processes> instance;
  return *instance;
}

// In the child of any fork(), also a user's own: it has no children yet, and its parent's sentinels
// are of no use to it.
[[gnu::hot]] void forget_siblings() noexcept {
  processes().children.clear();
  processes().counter = 0;
}

[[maybe_unused]] const bool g_prepared = [] {
  (void)processes();
  run_after_fork_in_child(&forget_siblings);
  return true;
}();

// A main process gets its key when somebody first needs one.
const Bytes& key_of_self(Processes& all) {
  if (!all.self->authkey) all.self->authkey = random_key();
  return *all.self->authkey;
}

struct Status {
  int exitcode;
  int raw;
};

Status status_of(int raw) noexcept {
  if (raw == shm::kUnknownStatus) return Status{kUnknownExit, raw};
  return Status{WIFEXITED(raw) ? WEXITSTATUS(raw) : -WTERMSIG(raw), raw};
}

// The same for a child of the fork server, which has told how it ended, or the kernel does.
std::optional<Status> collect_served(const ProcessRecord& record) noexcept {
  pollfd ended{record.pidfd, POLLIN, 0};
  if (::poll(&ended, 1, 0) != 1) return std::nullopt;
  return status_of(served_status({record.id, record.pid, record.pidfd}));
}

// The child's wait status if it has ended. Collects it, so it can be had once.
std::optional<Status> collect(int pidfd) noexcept {
  siginfo_t info{};
  int result = 0;
  do {
    result = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    // ECHILD: SIGCHLD is ignored, or somebody waits for any child. The pidfd still knows the end.
    pollfd ended{pidfd, POLLIN, 0};
    if (::poll(&ended, 1, 0) != 1) return std::nullopt;
    return status_of(shm::kUnknownStatus);
  }
  if (info.si_pid == 0) return std::nullopt;
  return status_of(raw_status(info));
}

// Polls one descriptor until it is readable or the deadline has passed.
bool wait_readable(int fd, Timeout::Clock::time_point deadline) {
  for (;;) {
    timespec left{};
    const bool bounded = deadline != Timeout::Clock::time_point::max();
    if (bounded) {
      const auto rest =
          std::max(deadline - Timeout::Clock::now(), Timeout::Clock::duration::zero());
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(rest);
      left.tv_sec = seconds.count();
      left.tv_nsec = std::chrono::nanoseconds(rest - seconds).count();
    }
    pollfd ended{fd, POLLIN, 0};
    const int ready = ::ppoll(&ended, 1, bounded ? &left : nullptr, nullptr);
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "ppoll of a process's sentinel");
    }
  }
}

// The same as part of a user's call.
bool wait_readable_interruptibly(int fd, Timeout::Clock::time_point deadline) {
  const shm::BlockingCall call;
  pollfd ended{fd, POLLIN, 0};
  return call.poll({&ended, 1}, deadline) > 0;
}

std::string exit_text(int exitcode) {
  const char* name = exitcode < 0 ? ::sigabbrev_np(-exitcode) : nullptr;
  return name != nullptr ? "-SIG" + std::string(name) : std::to_string(exitcode);
}

void end_daemons(const std::vector<RecordPtr>& children) {
  if (std::ranges::none_of(children, &ProcessRecord::daemon)) return;
  for (const RecordPtr& child : children) {
    if (!child->daemon) continue;
    get_logger().info("calling terminate() for daemon " + name_of(*child));
    shm::send_signal_fd(child->pidfd, SIGTERM);
  }
  const auto deadline = Timeout::Clock::now() + kGrace;
  for (const RecordPtr& child : children) {
    if (!child->daemon) continue;
    if (!wait_for_end(child, deadline - Timeout::Clock::now())) {
      get_logger().warning("daemon " + name_of(*child) + " does not end by SIGTERM: killed");
      shm::send_signal_fd(child->pidfd, SIGKILL);
    }
  }
}

}  // namespace

ProcessRecord::~ProcessRecord() {
  if (pidfd >= 0) ::close(pidfd);
}

ForkMutex& process_mutex() { return processes().mutex; }

RecordPtr current_record() {
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  return all.self;
}

void restart_numbering() {
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  all.counter = 0;
}

void check_may_have_children(const ProcessRecord& self) {
  check_freeze_support();
  if (self.daemon && !self.may_have_children) {
    throw AssertionError("daemonic processes are not allowed to have children");
  }
}

Bytes own_authkey() {
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  return key_of_self(all);
}

RecordPtr new_child_record() {
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  auto record = std::make_shared<ProcessRecord>();
  record->creator = own_pid();
  record->identity = all.self->identity;
  record->identity.push_back(++all.counter);
  record->daemon = all.self->daemon;
  record->may_have_children = all.self->may_have_children;
  record->authkey = key_of_self(all);
  return record;
}

// On functions that every child runs: "hot" puts them beside each other, into a few pages.
RecordPtr record_of(const ParentIdentity& origin) {
  auto parent = std::make_shared<ProcessRecord>();
  parent->role = Role::parent;
  parent->stage = Stage::started;
  parent->class_name = "_ParentProcess";
  parent->name = origin.name;
  parent->pid = origin.pid;
  parent->id = origin.id;
  return parent;
}

[[gnu::hot]] void become(const RecordPtr& self, const ParentIdentity& origin) {
  RecordPtr parent = self->parent != nullptr ? std::move(self->parent) : record_of(origin);
  if (self->own_name == nullptr) self->own_name = std::make_unique<std::string>(name_of(*self));
  exchange_process_name(self->own_name);
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  self->role = Role::self;
  self->stage = Stage::started;
  all.copied = std::exchange(all.self, self);
  all.parent = std::move(parent);
}

RecordPtr parent_record() {
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  return all.parent;
}

std::string name_of(const ProcessRecord& record) {
  if (record.role == Role::self) return process_name();
  if (record.name) return *record.name;
  std::string text = record.class_name + "-";
  for (std::size_t i = 0; i < record.identity.size(); ++i) {
    text += (i == 0 ? "" : ":") + std::to_string(record.identity[i]);
  }
  return text;
}

std::string repr_of(const RecordPtr& record) {
  const bool mine = record->role == Role::child && record->creator == ::getpid();
  if (mine && record->pidfd >= 0) (void)reap(record);
  const std::lock_guard guard(process_mutex());
  std::string status = "unknown";
  if (record->role == Role::self) {
    status = "started";
  } else if (record->stage == Stage::closed) {
    status = "closed";
  } else if (mine) {
    status = record->stage != Stage::started ? "initial" : record->exitcode ? "stopped" : "started";
  }
  std::string text = "<" + record->class_name + " name=";
  put_text_repr(text, name_of(*record));
  if (record->pid != 0 && status != "closed" && record->role == Role::child) {
    text += " pid=" + std::to_string(record->pid);
  }
  text += " parent=" + (record->creator != 0 ? std::to_string(record->creator) : "None");
  text += " " + status;
  if (status == "stopped") text += " exitcode=" + exit_text(*record->exitcode);
  return text + (record->daemon ? " daemon>" : ">");
}

bool reap(const RecordPtr& record) {
  std::optional<Status> status;
  shm::ProcessId id = 0;
  pid_t pid = 0;
  {
    const std::lock_guard guard(process_mutex());
    if (record->exitcode) return true;
    if (record->pidfd < 0) return false;
    status = record->served ? collect_served(*record) : collect(record->pidfd);
    if (!status) return false;
    record->exitcode = status->exitcode;
    id = record->id;
    pid = record->pid;
    std::erase(processes().children, record);
  }
  shm::ProcessTable::instance().mark_dead(id, status->raw);
  shm::reap(id);
  shm::child_ended(pid);
  return true;
}

bool wait_for_end(const RecordPtr& record, Timeout timeout, Interruptible interruptible) {
  const auto deadline = timeout.deadline();
  const auto wait =
      interruptible == Interruptible::yes ? &wait_readable_interruptibly : &wait_readable;
  // The usual join() of a start a moment ago: this call costs less than asking, ppoll(), asking.
  const bool uninterrupted = interruptible == Interruptible::no || !shm::interrupts_enabled();
  if (uninterrupted && !record->served && deadline == Timeout::Clock::time_point::max()) {
    wait_for_status(record->pidfd);
  }
  while (!reap(record)) {
    if (!wait(record->pidfd, deadline)) return reap(record);
  }
  return true;
}

void add_child(const RecordPtr& record) {
  arrange_exit_sequence();
  Processes& all = processes();
  const std::lock_guard guard(all.mutex);
  all.children.push_back(record);
}

[[gnu::hot]] std::vector<RecordPtr> living_children() {
  std::vector<RecordPtr> children;
  {
    const std::lock_guard guard(process_mutex());
    children = processes().children;
  }
  std::erase_if(children, [](const RecordPtr& child) { return reap(child); });
  return children;
}

int parent_sentinel(const RecordPtr& record) {
  {
    const std::lock_guard guard(process_mutex());
    if (record->pidfd >= 0) return record->pidfd;
  }
  int fd = shm::above_streams(static_cast<int>(::syscall(SYS_pidfd_open, record->pid, 0)));
  // The pid may serve another process by now: the table knows this one by its start time.
  if (fd >= 0 && !shm::ProcessTable::instance().check_alive(record->id)) {
    ::close(std::exchange(fd, -1));
  }
  // Stands for an end long ago: readable for ever.
  if (fd < 0) fd = shm::above_streams(::eventfd(1, EFD_CLOEXEC));
  if (fd < 0) {
    throw std::system_error(errno, std::generic_category(), "eventfd for an ended parent");
  }
  const std::lock_guard guard(process_mutex());
  if (record->pidfd >= 0) {
    ::close(fd);  // another thread was quicker
  } else {
    record->pidfd = fd;
  }
  return record->pidfd;
}

bool wait_for_parent(const RecordPtr& record, Timeout timeout) {
  return wait_readable_interruptibly(parent_sentinel(record), timeout.deadline());
}

[[gnu::hot]] void finish_children() noexcept {
  try {
    const std::vector<RecordPtr> children = living_children();
    end_daemons(children);
    for (const RecordPtr& child : children) {
      get_logger().info("calling join() for process " + name_of(*child));
      (void)wait_for_end(child, {});
    }
  } catch (const std::exception& error) {
    print_error(std::string("while waiting for child processes: ") + error.what() + "\n");
  }
}

}  // namespace millrace::runtime
