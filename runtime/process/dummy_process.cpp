// The threads of mp::dummy.
#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <millrace/dummy_process.hpp>
#include <millrace/errors.hpp>
#include <millrace/monitor.hpp>
#include <millrace/process.hpp>
#include <mutex>
#include <ostream>
#include <stdexcept>
#include <thread>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/throw_trace.hpp"
#include "runtime/process/child.hpp"
#include "shm/immortal.hpp"

namespace millrace::dummy {
namespace {

using runtime::Monitor;
using Clock = Timeout::Clock;
using Guard = std::unique_lock<Monitor>;
using ThreadPtr = std::shared_ptr<core::Thread>;
enum class Stage { initial, started, ended };

// All threads of the module, under one lock.
struct Threads {
  Monitor monitor;
  std::vector<ThreadPtr> running;
  int made = 0;
  int foreign = 0;
  Finalize* at_exit = nullptr;  // never destroyed: it runs at exit
  pid_t awaited_by = 0;         // the process that waits for them at exit; a fork has none of them
};

// Never destroyed: threads use it until the very end.
Threads& threads() {
  static shm::Immortal<Threads> instance;
  return *instance;
}

}  // namespace

struct core::Thread {
  std::string name;
  bool daemon = false;
  Stage stage = Stage::initial;
  pid_t tid = 0;
  ThreadPtr parent;                           // who made it
  std::unique_ptr<runtime::Deferred> target;  // until start()
  Process* process = nullptr;                 // the object, for run() of a subclass

  static ProcessHandle handle(ThreadPtr thread) { return ProcessHandle(std::move(thread)); }
};

namespace {

thread_local ThreadPtr t_self;

// With the lock.
const ThreadPtr& self(Threads& all) {
  if (t_self == nullptr) {
    t_self = std::make_shared<core::Thread>();
    const bool main = ::gettid() == ::getpid();
    t_self->name = main ? "MainThread" : "Dummy-" + std::to_string(++all.foreign);
    t_self->daemon = !main;
    t_self->stage = Stage::started;
    t_self->tid = ::gettid();
  }
  return t_self;
}

void report(const std::string& name) noexcept {
  try {
    const std::exception_ptr error = std::current_exception();
    runtime::print_error("Exception in thread " + name + ":\n" + runtime::throw_trace_text(error) +
                         runtime::describe_exception(error));
  } catch (...) {
    runtime::print_error("Exception in a thread, and no memory to describe it\n");
  }
}

// At exit: waits for the threads that are not daemonic.
void await_threads() noexcept {
  Threads& all = threads();
  const Guard guard(all.monitor);
  for (;;) {
    const bool any = std::ranges::any_of(
        all.running, [](const ThreadPtr& one) { return !one->daemon && one != t_self; });
    if (!any) return;
    try {
      all.monitor.wait(Clock::time_point::max());
    } catch (const KeyboardInterrupt&) {
      return;  // the user wants out
    }
  }
}

// Says that the thread has ended, whatever ends it.
class Ending {
 public:
  explicit Ending(ThreadPtr thread) : thread_(std::move(thread)) {}
  ~Ending() {
    Threads& all = threads();
    const Guard guard(all.monitor);
    thread_->stage = Stage::ended;
    std::erase(all.running, thread_);
    all.monitor.changed();
  }
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;

 private:
  ThreadPtr thread_;
};

void run_thread(const ThreadPtr& thread, std::unique_ptr<runtime::Deferred> target,
                Process* process) {
  const Ending ending(thread);
  {
    Threads& all = threads();
    const Guard guard(all.monitor);
    t_self = thread;
    thread->tid = ::gettid();
    all.monitor.changed();
  }
  const runtime::ThrowTraceScope traced;
  try {
    if (target != nullptr) {
      target->call_last();
    } else if (process != nullptr) {
      process->run();
    }
  } catch (const SystemExit&) {  // ends the thread, and nothing but it
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (...) {
    report(thread->name);
  }
}

}  // namespace

Process::Process(const ProcessOptions& options, std::unique_ptr<runtime::Deferred> target)
    : thread_(std::make_shared<core::Thread>()) {
  Threads& all = threads();
  const Guard guard(all.monitor);
  const ThreadPtr& maker = self(all);
  thread_->name = options.name.value_or("Thread-" + std::to_string(++all.made));
  thread_->daemon = options.daemon.value_or(maker->daemon);
  thread_->parent = maker;
  thread_->target = std::move(target);
}

Process::Process(Process&&) noexcept = default;
Process& Process::operator=(Process&&) noexcept = default;
Process::~Process() = default;

void Process::run() {
  if (thread_ != nullptr && thread_->target != nullptr) thread_->target->call();
}

void Process::start() {
  Threads& all = threads();
  Guard guard(all.monitor);
  if (thread_->stage != Stage::initial) {
    throw std::runtime_error("threads can only be started once");
  }
  if (thread_->parent != self(all)) {
    throw std::runtime_error("the thread that made a process has to start it");
  }
  if (all.awaited_by != ::getpid()) {
    all.running.clear();  // a fork's parent's
    all.at_exit = new Finalize(&await_threads, {.exitpriority = std::numeric_limits<int>::max()});
    all.awaited_by = ::getpid();
  }
  Process* const object = typeid(*this) == typeid(Process) ? nullptr : this;
  const auto target = std::make_shared<std::unique_ptr<runtime::Deferred>>(
      object == nullptr ? std::move(thread_->target) : nullptr);
  all.running.push_back(thread_);
  try {
    std::thread([thread = thread_, target, object] {
      run_thread(thread, std::move(*target), object);
    }).detach();
  } catch (...) {
    std::erase(all.running, thread_);
    thread_->target = std::move(*target);
    throw;
  }
  thread_->stage = Stage::started;
  all.monitor.wait_for([this] { return thread_->tid != 0; }, Clock::time_point::max());
}

std::ostream& operator<<(std::ostream& out, const Process& process) {
  return out << process.repr();
}

std::string ProcessHandle::name() const {
  const Guard guard(threads().monitor);
  return thread_->name;
}

void ProcessHandle::name(std::string name) const {
  const Guard guard(threads().monitor);
  thread_->name = std::move(name);
}

bool ProcessHandle::daemon() const {
  const Guard guard(threads().monitor);
  return thread_->daemon;
}

void ProcessHandle::daemon(bool daemon) const {
  const Guard guard(threads().monitor);
  if (thread_->stage != Stage::initial) {
    throw std::runtime_error("cannot set daemon status of active thread");
  }
  thread_->daemon = daemon;
}

std::optional<pid_t> ProcessHandle::ident() const {
  const Guard guard(threads().monitor);
  if (thread_->tid == 0) return std::nullopt;
  return thread_->tid;
}

std::optional<int> ProcessHandle::exitcode() const {
  const Guard guard(threads().monitor);
  if (thread_->stage != Stage::ended) return std::nullopt;
  return 0;
}

bool ProcessHandle::is_alive() const {
  const Guard guard(threads().monitor);
  return thread_->stage == Stage::started;
}

bool ProcessHandle::join(Timeout timeout) const {
  Threads& all = threads();
  const Guard guard(all.monitor);
  if (thread_->stage == Stage::initial) {
    throw std::runtime_error("cannot join thread before it is started");
  }
  if (thread_ == self(all)) throw std::runtime_error("cannot join current thread");
  return all.monitor.wait_for([this] { return thread_->stage == Stage::ended; },
                              timeout.deadline());
}

std::string ProcessHandle::repr() const {
  const Guard guard(threads().monitor);
  static constexpr const char* kStages[] = {"initial", "started", "stopped"};
  std::string text =
      "<DummyProcess(" + thread_->name + ", " + kStages[static_cast<int>(thread_->stage)];
  if (thread_->daemon) text += " daemon";
  if (thread_->tid != 0) text += " " + std::to_string(thread_->tid);
  return text + ")>";
}

std::ostream& operator<<(std::ostream& out, const ProcessHandle& handle) {
  return out << handle.repr();
}

std::vector<ProcessHandle> active_children() {
  Threads& all = threads();
  const Guard guard(all.monitor);
  std::vector<ProcessHandle> children;
  for (const ThreadPtr& thread : all.running) {
    if (thread->parent == self(all)) children.push_back(core::Thread::handle(thread));
  }
  return children;
}

ProcessHandle current_process() {
  Threads& all = threads();
  const Guard guard(all.monitor);
  return core::Thread::handle(self(all));
}

}  // namespace millrace::dummy
