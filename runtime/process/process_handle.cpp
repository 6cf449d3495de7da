// ProcessHandle and the module's functions that return it.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <millrace/process.hpp>
#include <mutex>
#include <ostream>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/process_record.hpp"
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

// The record's descriptor for a call that concerns a started child of this process.
void require_started_child(const ProcessRecord& record, const char* verb) {
  const std::lock_guard guard(runtime::process_mutex());
  refuse_closed(record);
  if (record.role != Role::child || record.creator != runtime::own_pid()) {
    throw AssertionError(std::string("can only ") + verb + " a child process");
  }
  if (record.stage != Stage::started) {
    throw AssertionError(std::string("can only ") + verb + " a started process");
  }
}

void send(const RecordPtr& record, const char* verb, int signal) {
  require_started_child(*record, verb);
  if (runtime::reap(record)) return;
  if (!shm::send_signal_fd(record->pidfd, signal) && errno != ESRCH) {
    throw std::system_error(errno, std::generic_category(),
                            std::string(verb) + " of process " + std::to_string(record->pid));
  }
}

}  // namespace

std::string ProcessHandle::name() const {
  const std::lock_guard guard(runtime::process_mutex());
  return runtime::name_of(*record_);
}

void ProcessHandle::name(std::string name) const {
  const std::lock_guard guard(runtime::process_mutex());
  if (record_->role == Role::self) {
    runtime::set_process_name(std::move(name));
  } else {
    record_->name = std::move(name);
  }
}

bool ProcessHandle::daemon() const {
  const std::lock_guard guard(runtime::process_mutex());
  return record_->daemon;
}

void ProcessHandle::daemon(bool daemon) const {
  const std::lock_guard guard(runtime::process_mutex());
  refuse_closed(*record_);
  if (record_->role != Role::self && record_->stage != Stage::initial) {
    throw AssertionError("process has already started");
  }
  record_->daemon = daemon;
}

std::optional<pid_t> ProcessHandle::pid() const {
  const std::lock_guard guard(runtime::process_mutex());
  refuse_closed(*record_);
  if (record_->role == Role::self) return ::getpid();
  if (record_->pid == 0) return std::nullopt;
  return record_->pid;
}

std::optional<int> ProcessHandle::exitcode() const {
  {
    const std::lock_guard guard(runtime::process_mutex());
    refuse_closed(*record_);
    if (record_->role != Role::child || record_->stage != Stage::started) return std::nullopt;
    if (record_->creator != runtime::own_pid()) return record_->exitcode;
  }
  if (!runtime::reap(record_)) return std::nullopt;
  const std::lock_guard guard(runtime::process_mutex());
  return record_->exitcode;
}

Bytes ProcessHandle::authkey() const {
  if (record_->role == Role::self) return runtime::own_authkey();
  const std::lock_guard guard(runtime::process_mutex());
  return record_->authkey.value_or(Bytes());  // a parent's is not known
}

void ProcessHandle::authkey(Bytes key) const {
  const std::lock_guard guard(runtime::process_mutex());
  record_->authkey = std::move(key);
}

int ProcessHandle::sentinel() const {
  if (record_->role == Role::parent) return runtime::parent_sentinel(record_);
  const std::lock_guard guard(runtime::process_mutex());
  refuse_closed(*record_);
  if (record_->pidfd < 0 || record_->role == Role::self) throw ValueError("process not started");
  return record_->pidfd;
}

bool ProcessHandle::is_alive() const {
  if (record_->role == Role::parent)
    return !runtime::wait_for_parent(record_, std::chrono::seconds(0));
  {
    const std::lock_guard guard(runtime::process_mutex());
    refuse_closed(*record_);
    if (record_->role == Role::self) return true;
    if (record_->creator != runtime::own_pid())
      throw AssertionError("can only test a child process");
    if (record_->stage != Stage::started) return false;
  }
  return !runtime::reap(record_);
}

bool ProcessHandle::join(Timeout timeout) const {
  if (record_->role == Role::parent) return runtime::wait_for_parent(record_, timeout);
  require_started_child(*record_, "join");
  return runtime::wait_for_end(record_, timeout, runtime::Interruptible::yes);
}

void ProcessHandle::terminate() const { send(record_, "terminate", SIGTERM); }

void ProcessHandle::kill() const { send(record_, "kill", SIGKILL); }

void ProcessHandle::interrupt() const { send(record_, "interrupt", SIGINT); }

std::string ProcessHandle::repr() const { return runtime::repr_of(record_); }

std::ostream& operator<<(std::ostream& out, const ProcessHandle& handle) {
  return out << handle.repr();
}

std::vector<ProcessHandle> active_children() {
  std::vector<ProcessHandle> handles;
  for (RecordPtr& child : runtime::living_children()) {
    handles.push_back(ProcessRecord::handle(std::move(child)));
  }
  return handles;
}

ProcessHandle current_process() { return ProcessRecord::handle(runtime::current_record()); }

std::optional<ProcessHandle> parent_process() {
  RecordPtr parent = runtime::parent_record();
  if (parent == nullptr) return std::nullopt;
  return ProcessRecord::handle(std::move(parent));
}

}  // namespace millrace
