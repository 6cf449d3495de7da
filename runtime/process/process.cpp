#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <millrace/context.hpp>
#include <millrace/logging.hpp>
#include <millrace/process.hpp>
#include <mutex>
#include <ostream>
#include <system_error>
#include <typeinfo>
#include <utility>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/child_binding.hpp"
#include "runtime/process/context_state.hpp"
#include "runtime/process/fork_hazards.hpp"
#include "runtime/process/fork_server.hpp"
#include "runtime/process/process_record.hpp"
#include "runtime/process/spawn.hpp"
#include "shm/above_streams.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace {

using runtime::ProcessRecord;
using runtime::RecordPtr;
using Role = ProcessRecord::Role;
using Stage = ProcessRecord::Stage;

namespace {

void refuse_closed(const ProcessRecord& record) {
  if (record.stage == Stage::closed) throw ValueError("process object is closed");
}

// A descriptor held back, so that a start fails before the fork and not after it.
class SpareDescriptor {
 public:
  SpareDescriptor() : fd_(shm::above_streams(::eventfd(0, EFD_CLOEXEC))) {
    if (fd_ < 0) {
      throw runtime::start_error(errno, "a descriptor for the sentinel of a process");
    }
  }
  ~SpareDescriptor() { release(); }
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;
  void release() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

// The sentinel of a child just forked. Without one the child cannot be waited for, so it is ended.
int open_sentinel(pid_t pid, shm::ProcessId id) {
  const int fd = shm::above_streams(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (fd >= 0) return fd;
  const int error = errno;
  if (error == ESRCH) {
    // SIGCHLD is ignored and the child has ended: nothing can be learnt of it but that.
    const int ended = shm::above_streams(::eventfd(1, EFD_CLOEXEC));
    if (ended >= 0) return ended;
  }
  shm::send_signal(pid, SIGKILL);
  int status = shm::kUnknownStatus;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  shm::ProcessTable::instance().mark_dead(id, status);
  shm::reap(id);
  throw std::system_error(error, std::generic_category(),
                          "pidfd_open of process " + std::to_string(pid));
}

// Marks the record as starting; undone unless the start succeeds.
class Starting {
 public:
  explicit Starting(ProcessRecord& record) : record_(&record) {
    const RecordPtr self = runtime::current_record();
    const std::lock_guard guard(runtime::process_mutex());
    refuse_closed(record);
    if (record.role != Role::child || record.stage != Stage::initial) {
      throw AssertionError("cannot start a process twice");
    }
    if (record.creator != runtime::own_pid()) {
      throw AssertionError("can only start a process object created by current process");
    }
    runtime::check_may_have_children(*self);
    record.stage = Stage::starting;
  }
  ~Starting() {
    if (record_ == nullptr) return;
    const std::lock_guard guard(runtime::process_mutex());
    record_->stage = Stage::initial;
  }
  Starting(const Starting&) = delete;
  Starting& operator=(const Starting&) = delete;
  void succeeded() noexcept { record_ = nullptr; }

 private:
  ProcessRecord* record_;
};

std::string class_name_of(const std::type_info& type) {
  std::string name = runtime::demangle(type);
  int depth = 0;  // of template arguments, in which "::" does not count
  for (std::size_t i = name.size(); i-- > 1;) {
    if (name[i] == '>') ++depth;
    if (name[i] == '<') --depth;
    if (depth == 0 && name[i] == ':' && name[i - 1] == ':') return name.substr(i + 1);
  }
  return name;
}

}  // namespace

Process::Process(const ProcessOptions& options)
    : Process(options, std::unique_ptr<runtime::ProcessTarget>()) {}

Process::Process(const ProcessOptions& options, std::unique_ptr<runtime::ProcessTarget> target)
    : record_(runtime::new_child_record()), target_(std::move(target)) {
  if (options.name && !options.name->empty()) record_->name = options.name;  // as Python's `or`
  if (options.daemon) record_->daemon = *options.daemon;
  record_->bind = options.bind;
  record_->class_name = "Process";
  if (options.context != nullptr) {
    record_->class_name = options.context->process_class();
    record_->context = options.context->get_start_method();
  }
}

Process::Process(Process&&) noexcept = default;
Process& Process::operator=(Process&&) noexcept = default;
Process::~Process() = default;

ProcessHandle Process::handle() const {
  if (record_ == nullptr) throw ValueError("process object has been moved from");
  if (typeid(*this) != typeid(Process)) {
    const std::lock_guard guard(runtime::process_mutex());
    record_->class_name = class_name_of(typeid(*this));
  }
  return ProcessRecord::handle(record_);
}

[[gnu::hot]] void Process::run() {
  if (target_ == nullptr) return;
  const bool in_child = record_ != nullptr && record_->role == Role::self;
  if (in_child) {
    target_->call_last();
  } else {
    target_->call();
  }
}

void Process::start() {
  (void)handle();
  Starting starting(*record_);
  const std::string fixed = runtime::fix_start_method();
  const std::string& method = record_->context.empty() ? fixed : record_->context;
  record_->sets_method = method != fixed;
  (void)runtime::living_children();
  const runtime::ChildBinding binding(record_->bind);
  const runtime::ParentIdentity parent = runtime::as_parent();
  std::unique_ptr<runtime::SpawnMessage> message;
  if (method != "fork") {
    message = runtime::describe_child(*record_, method, parent, binding);
    const shm::InMessage counted = message->encoding();
    runtime::SpawnedProcess::encode(message->writer(), *this);
  }
  if (method == "fork") runtime::check_fork();
  SpareDescriptor spare;
  const bool served = method == "forkserver";
  runtime::ServedChild child;
  if (served) {
    child = runtime::start_by_server(*message, record_->daemon);
  } else {
    child.id = message ? message->id() : shm::ProcessTable::instance().reserve();
    child.pid = message ? message->send() : fork_child(child.id, parent, binding);
    spare.release();
    child.pidfd = open_sentinel(child.pid, child.id);
  }
  {
    const std::lock_guard guard(runtime::process_mutex());
    record_->pid = child.pid;
    record_->id = child.id;
    record_->pidfd = child.pidfd;
    record_->served = served;
    record_->stage = Stage::started;
  }
  starting.succeeded();
  runtime::add_child(record_);
  target_.reset();
}

[[gnu::hot]] pid_t Process::fork_child(unsigned id, const runtime::ParentIdentity& parent,
                                       const runtime::ChildBinding& binding) {
  record_->parent = runtime::record_of(parent);  // the child finds them made
  record_->own_name = std::make_unique<std::string>(runtime::name_of(*record_));
  const pid_t pid = runtime::fork_process(id);
  if (pid == 0) run_as_child(parent, binding);
  record_->parent.reset();
  return pid;
}

// What the child needs of start()'s frame, which it has a copy of.
struct Process::ChildStart {
  Process* process;
  const runtime::ParentIdentity* parent;
  const runtime::ChildBinding* binding;
};

[[gnu::hot]] void Process::child_body(void* argument) {
  const ChildStart& start = *static_cast<ChildStart*>(argument);
  const RecordPtr& record = start.process->record_;
  runtime::become(record, *start.parent);
  if (record->daemon) runtime::end_with_parent(start.parent->pid);
  if (record->sets_method) runtime::set_child_start_method(record->context);
  start.binding->apply();
  get_logger().info("child process calling self.run()");
  start.process->run();
}

[[gnu::hot]] void Process::run_as_child(const runtime::ParentIdentity& parent,
                                        const runtime::ChildBinding& binding) noexcept {
  ChildStart start{this, &parent, &binding};
  runtime::exit_process(runtime::run_guarded(&child_body, &start));
}

void Process::close() {
  (void)handle();
  const bool started = [&] {
    const std::lock_guard guard(runtime::process_mutex());
    return record_->role == Role::child && record_->stage == Stage::started;
  }();
  if (started && record_->creator == runtime::own_pid() && !runtime::reap(record_)) {
    throw ValueError(
        "Cannot close a process while it is still running. You should first call join() or "
        "terminate().");
  }
  int sentinel = -1;
  {
    const std::lock_guard guard(runtime::process_mutex());
    if (record_->role != Role::child) throw ValueError("a process cannot close itself");
    record_->stage = Stage::closed;
    sentinel = std::exchange(record_->pidfd, -1);
  }
  if (sentinel >= 0) ::close(sentinel);
  target_.reset();
}

std::ostream& operator<<(std::ostream& out, const Process& process) {
  return out << process.repr();
}

}  // namespace millrace
