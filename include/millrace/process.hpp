// Process, ProcessHandle and Finalize. Python: multiprocessing.Process and its module functions.
#pragma once

#include <sys/types.h>

#include <concepts>
#include <cstddef>
#include <iosfwd>
#include <memory>
#include <millrace/affinity.hpp>
#include <millrace/bytes.hpp>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/exceptions.hpp>
#include <millrace/serialize.hpp>
#include <millrace/target.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace millrace {

class Context;

namespace runtime {
struct ProcessRecord;
struct FinalizerEntry;
struct ParentIdentity;
struct SpawnedProcess;
class ChildBinding;
}  // namespace runtime

/// The keyword arguments of Process.
struct ProcessOptions {
  std::optional<std::string> name = {};        ///< else "Process-1", "Process-1:2", ...
  std::optional<bool> daemon = {};             ///< else as the process that creates it
  std::optional<affinity::Binding> bind = {};  ///< cpus to run on; else MILLRACE_BIND
  const Context* context = nullptr;            ///< else the default context
};

/// A process as seen from another or from itself: of a child, of this process or of its parent. A
/// copy refers to the same process. Python: Process objects as active_children(), current_process()
/// and parent_process() return them.
class ProcessHandle {
 public:
  [[nodiscard]] std::string name() const;
  void name(std::string name) const;
  [[nodiscard]] bool daemon() const;
  /// Before start() only, else AssertionError.
  void daemon(bool daemon) const;
  /// None before start(). ValueError after close().
  [[nodiscard]] std::optional<pid_t> pid() const;
  /// The same as pid().
  [[nodiscard]] std::optional<pid_t> ident() const { return pid(); }
  /// None while it runs; 0 when it returned, 1 for an uncaught exception, SystemExit's or
  /// std::exit's code, -N when signal N ended it, 255 when somebody else collected its status.
  [[nodiscard]] std::optional<int> exitcode() const;
  /// The key for connections; inherited. Python: Process.authkey.
  [[nodiscard]] Bytes authkey() const;
  void authkey(Bytes key) const;
  /// A descriptor that is readable once the process has ended; owned by the library, valid until
  /// close(). ValueError before start().
  [[nodiscard]] int sentinel() const;
  /// True from start() until it has ended.
  [[nodiscard]] bool is_alive() const;
  /// Waits until it has ended; false when the timeout came first. May block. AssertionError for a
  /// process that is not this one's child (or parent), or not started.
  bool join(Timeout timeout = {}) const;
  /// Ends it by SIGTERM; its finalizers do not run, its own children go on. Nothing for a process
  /// that has ended. AssertionError before start().
  void terminate() const;
  /// The same by SIGKILL.
  void kill() const;
  /// The same by SIGINT.
  void interrupt() const;
  /// Python's text: <Process name='Process-1' pid=12 parent=11 started>.
  [[nodiscard]] std::string repr() const;

  friend bool operator==(const ProcessHandle&, const ProcessHandle&) noexcept = default;
  friend std::ostream& operator<<(std::ostream& out, const ProcessHandle& handle);

 private:
  friend class Process;
  friend struct runtime::ProcessRecord;
  explicit ProcessHandle(std::shared_ptr<runtime::ProcessRecord> record)
      : record_(std::move(record)) {}

  std::shared_ptr<runtime::ProcessRecord> record_;
};

/// A child process that runs a callable, or, in a subclass, run(). Under fork it inherits callable
/// and arguments as they are; under spawn and forkserver they are sent to it; a subclass needs
/// MILLRACE_PROCESS. Move-only; destroying it neither ends the process nor waits for it: a
/// normal exit of the program does. One thread at a time, but for join() and is_alive(), and
/// handle(), which any thread may use. Python: multiprocessing.Process.
class Process {
 public:
  /// A process without a target: run() of a subclass, or nothing.
  Process() : Process(ProcessOptions{}) {}
  explicit Process(const ProcessOptions& options);
  /// Will run f(args...): arguments are decayed, text literals become std::string.
  template <class F, class... Args>
  requires runtime::Target<F, Args...>
  explicit Process(F&& f, Args&&... args)
      : Process(ProcessOptions{}, std::forward<F>(f), std::forward<Args>(args)...) {}
  template <class F, class... Args>
  requires runtime::Target<F, Args...> Process(const ProcessOptions& options, F&& f, Args&&... args)
      : Process(options, runtime::make_target(std::forward<F>(f), std::forward<Args>(args)...)) {}

  // What cannot be started; the compilers quote these lines.
  // clang-format off
  template <class F, class... A> requires runtime::NoTarget<F, A...>
  explicit Process(F&&, A&&...) = delete;  // millrace: this callable or argument cannot travel
  template <class F, class... A> requires runtime::NoTarget<F, A...>
  Process(const ProcessOptions&, F&&, A&&...) = delete;  // millrace: this target cannot travel
  // clang-format on

  Process(Process&&) noexcept;
  Process& operator=(Process&&) noexcept;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  virtual ~Process();

  /// What the child does: calls the target. Also callable without start().
  virtual void run();
  /// Makes the child. Once: AssertionError for a second time, for a process made elsewhere and for
  /// the child of a daemonic one; ValueError after close() or for a binding that cannot be
  /// understood; std::system_error when the system refuses. Drops callable and arguments here.
  /// Under spawn and forkserver also: TypeError for a callable, argument or subclass that cannot be
  /// sent, what a serialize() throws; std::runtime_error in a spawned child that has not come to
  /// freeze_support() yet. Python: start(), P03, C02.
  void start();
  /// As ProcessHandle's.
  bool join(Timeout timeout = {}) { return handle().join(timeout); }
  [[nodiscard]] bool is_alive() const { return handle().is_alive(); }
  void terminate() { handle().terminate(); }
  void kill() { handle().kill(); }
  void interrupt() { handle().interrupt(); }
  /// Releases what the library holds for it; ValueError while it runs. Idempotent; afterwards most
  /// calls are ValueError.
  void close();
  /// A copyable view of this process.
  [[nodiscard]] ProcessHandle handle() const;

  [[nodiscard]] std::string name() const { return handle().name(); }
  void name(std::string name) { handle().name(std::move(name)); }
  [[nodiscard]] bool daemon() const { return handle().daemon(); }
  void daemon(bool daemon) { handle().daemon(daemon); }
  [[nodiscard]] std::optional<pid_t> pid() const { return handle().pid(); }
  [[nodiscard]] std::optional<pid_t> ident() const { return handle().pid(); }
  [[nodiscard]] std::optional<int> exitcode() const { return handle().exitcode(); }
  [[nodiscard]] Bytes authkey() const { return handle().authkey(); }
  void authkey(Bytes key) { handle().authkey(std::move(key)); }
  [[nodiscard]] int sentinel() const { return handle().sentinel(); }
  [[nodiscard]] std::string repr() const { return handle().repr(); }
  friend std::ostream& operator<<(std::ostream& out, const Process& process);

 private:
  friend struct runtime::SpawnedProcess;
  Process(const ProcessOptions& options, std::unique_ptr<runtime::ProcessTarget> target);

  struct ChildStart;
  static void child_body(void* start);
  [[nodiscard]] pid_t fork_child(unsigned id, const runtime::ParentIdentity& parent,
                                 const runtime::ChildBinding& binding);
  [[noreturn]] void run_as_child(const runtime::ParentIdentity& parent,
                                 const runtime::ChildBinding& binding) noexcept;

  std::shared_ptr<runtime::ProcessRecord> record_;  // null: moved from
  std::unique_ptr<runtime::ProcessTarget> target_;  // null: none, or dropped by start()
};

/// The children of this process that have not ended; collects those that have.
std::vector<ProcessHandle> active_children();
/// This process.
ProcessHandle current_process();
/// The process that started this one; none in the main process.
std::optional<ProcessHandle> parent_process();

/// The keyword arguments of Finalize.
struct FinalizeOptions {
  std::optional<int> exitpriority = {};  ///< run at exit, highest first; none: not at exit
};

/// Calls a function once, in the process that made it only: when called, when destroyed, or at exit
/// if it has a priority, whichever is first, unless cancelled. Python:
/// multiprocessing.util.Finalize.
class Finalize {
 public:
  template <class F>
  requires std::invocable < std::decay_t<F>
  & > explicit Finalize(F&& f, FinalizeOptions options = {})
      : Finalize(runtime::make_deferred(std::forward<F>(f)), options.exitpriority) {}
  Finalize(Finalize&&) noexcept;
  Finalize& operator=(Finalize&&) noexcept;
  ~Finalize();

  /// Runs it now, if it has not run yet.
  void operator()();
  /// It will not run any more.
  void cancel();
  /// True while it may still run in this process.
  [[nodiscard]] bool still_active() const;

 private:
  Finalize(std::unique_ptr<runtime::Deferred> callback, std::optional<int> priority);

  std::shared_ptr<runtime::FinalizerEntry> entry_;
};

/// First line of main in programs that use spawn or forkserver. Harmless in a process started by
/// hand; one that they started runs its target here and ends with its exit code: it does not
/// return. A spawned process that ends without coming here says so on stderr, with exit code 1.
/// Python: C09.
void freeze_support(int argc, char** argv);

namespace runtime {

/// How objects of one subclass of Process get to another process.
struct ProcessClass {
  using Load = std::unique_ptr<Process> (*)(wire::Reader&);

  const std::type_info* type;
  void (*save)(wire::Writer&, const Process&);
  FunctionId (*loader)();  // the id of a Load
  ProcessClass* next;
};

/// Adds an entry, which lives as long as the program. For static initialisers.
void add_process_class(ProcessClass& entry) noexcept;
[[noreturn]] void throw_no_serialize(const std::type_info& type);

/// The entry of P: its own serialize() or save() and load(), else nothing but its class.
template <class P>
struct SendableProcess {
  static void save(wire::Writer& out, const Process& process) {
    if constexpr (wire::Archived<P>) {
      wire::OutputArchive archive(out);
      wire::save_archived(archive, static_cast<const P&>(process));
      out.end_session();
    } else if constexpr (sizeof(P) != sizeof(Process)) {
      throw_no_serialize(typeid(P));
    }
  }
  static std::unique_ptr<Process> load([[maybe_unused]] wire::Reader& in) {
    auto process = std::make_unique<P>();
    if constexpr (wire::Archived<P>) {
      wire::InputArchive archive(in);
      wire::load_archived(archive, *process);
      in.end_session();
    }
    return process;
  }
  static bool declare() noexcept {
    static ProcessClass entry{&typeid(P), &save, &id_of<&load>, nullptr};
    add_process_class(entry);
    return true;
  }
};

/// What MILLRACE_PROCESS expands to.
template <class P>
bool declare_process() noexcept {
  static_assert(std::derived_from<P, Process> && std::default_initializable<P>,
                "MILLRACE_PROCESS: the class must derive from mp::Process and have a default "
                "constructor");
  return SendableProcess<P>::declare();
}

}  // namespace runtime
}  // namespace millrace

/// At namespace scope, for subclasses of Process that override run(): MILLRACE_PROCESS(Worker);
/// Under fork the child has the object itself. Under spawn and forkserver it makes one by the
/// default constructor and fills it by serialize(), or save() and load(); a class with members
/// needs these.
#define MILLRACE_PROCESS(...)                                                        \
  [[maybe_unused]] static const bool MILLRACE_JOIN(millrace_process_, __COUNTER__) = \
      ::millrace::runtime::declare_process<__VA_ARGS__>()
