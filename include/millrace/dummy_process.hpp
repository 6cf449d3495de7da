// mp::dummy's Process: a thread with a process's calls, D01-D03.
#pragma once

#include <sys/types.h>

#include <concepts>
#include <iosfwd>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/target.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::dummy {

/// The keyword arguments of Process.
struct ProcessOptions {
  std::optional<std::string> name = {};  ///< else "Thread-1", "Thread-2", ...
  std::optional<bool> daemon = {};       ///< else as the thread that creates it
};

namespace core {
struct Thread;
}

/// A thread as seen from others or from itself. A copy refers to the same thread.
class ProcessHandle {
 public:
  [[nodiscard]] std::string name() const;
  void name(std::string name) const;
  [[nodiscard]] bool daemon() const;
  /// Before start() only, else std::runtime_error.
  void daemon(bool daemon) const;
  /// The kernel's id of the thread; none before start().
  [[nodiscard]] std::optional<pid_t> ident() const;
  [[nodiscard]] std::optional<pid_t> pid() const { return ident(); }
  /// 0 once it has ended, however it did; none before.
  [[nodiscard]] std::optional<int> exitcode() const;
  [[nodiscard]] bool is_alive() const;
  /// Waits until it has ended; false when the timeout came first. std::runtime_error before start()
  /// and for the calling thread.
  bool join(Timeout timeout = {}) const;
  /// <DummyProcess(Thread-1, started 4711)>.
  [[nodiscard]] std::string repr() const;
  friend bool operator==(const ProcessHandle&, const ProcessHandle&) noexcept = default;
  friend std::ostream& operator<<(std::ostream& out, const ProcessHandle& handle);

 private:
  friend class Process;
  friend struct core::Thread;
  explicit ProcessHandle(std::shared_ptr<core::Thread> thread) : thread_(std::move(thread)) {}
  std::shared_ptr<core::Thread> thread_;
};

/// A thread that runs a callable, of any kind, or, in a subclass, run(). An exception that leaves
/// it is printed to stderr; SystemExit ends it silently. Destroying it neither ends the thread nor
/// waits: a normal exit of the program waits for those that are not daemonic. An object of a
/// subclass must live until its thread has ended. Move-only; one that runs run() of a subclass
/// stays where it is. Python: multiprocessing.dummy.Process, a threading.Thread.
class Process {
 public:
  Process() : Process(ProcessOptions{}) {}
  explicit Process(const ProcessOptions& options) : Process(options, nullptr) {}
  template <class F, class... Args>
  requires(
      !std::same_as<std::remove_cvref_t<F>, ProcessOptions> &&
      !std::derived_from<std::remove_cvref_t<F>, Process> &&
      wire::CallableWith<std::decay_t<F>, wire::travel_t<Args>...>) explicit Process(F&& f,
                                                                                     Args&&... args)
      : Process(ProcessOptions{}, std::forward<F>(f), std::forward<Args>(args)...) {}
  template <class F, class... Args>
  requires(wire::CallableWith<std::decay_t<F>, wire::travel_t<Args>...>)
      Process(const ProcessOptions& options, F&& f, Args&&... args)
      : Process(options, runtime::make_call(std::forward<F>(f), std::forward<Args>(args)...)) {}
  Process(Process&&) noexcept;
  Process& operator=(Process&&) noexcept;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  virtual ~Process();

  /// What the thread does: calls the target. Also callable without start().
  virtual void run();
  /// Makes the thread. Once, and by the thread that made the object: std::runtime_error otherwise;
  /// std::system_error when the system refuses.
  void start();
  bool join(Timeout timeout = {}) { return handle().join(timeout); }
  [[nodiscard]] bool is_alive() const { return handle().is_alive(); }
  [[nodiscard]] std::string name() const { return handle().name(); }
  void name(std::string name) { handle().name(std::move(name)); }
  [[nodiscard]] bool daemon() const { return handle().daemon(); }
  void daemon(bool daemon) { handle().daemon(daemon); }
  [[nodiscard]] std::optional<pid_t> pid() const { return handle().ident(); }
  [[nodiscard]] std::optional<pid_t> ident() const { return handle().ident(); }
  [[nodiscard]] std::optional<int> exitcode() const { return handle().exitcode(); }
  [[nodiscard]] std::string repr() const { return handle().repr(); }
  /// A copyable view of this thread.
  [[nodiscard]] ProcessHandle handle() const { return ProcessHandle(thread_); }
  friend std::ostream& operator<<(std::ostream& out, const Process& process);

 private:
  Process(const ProcessOptions& options, std::unique_ptr<runtime::Deferred> target);

  std::shared_ptr<core::Thread> thread_;
};

/// The threads that this thread has started and that have not ended.
[[nodiscard]] std::vector<ProcessHandle> active_children();
/// This thread; "MainThread" for the main one, "Dummy-1", ... for one that was made otherwise.
[[nodiscard]] ProcessHandle current_process();
/// Nothing to do. Python: freeze_support.
inline void freeze_support(int = 0, char** = nullptr) {}

}  // namespace millrace::dummy
