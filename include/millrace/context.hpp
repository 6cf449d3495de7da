// Start methods and the contexts that bind one. Python: multiprocessing.context.
#pragma once

#include <concepts>
#include <millrace/connection.hpp>
#include <millrace/logging.hpp>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <millrace/queue_handles.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace millrace {

class SyncManager;

/// The keyword argument of set_start_method.
struct SetStartMethodOptions {
  bool force = false;  ///< also when it has been set before
};

/// Asks get_start_method() for none where the method has not been fixed yet.
struct allow_none_t {};
inline constexpr allow_none_t allow_none{};

/// The library's calls bound to one start method. One object per method, for the life of the
/// program; use by reference. Python: multiprocessing.get_context(method).
class Context {
 public:
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// A Process that starts by this method, named "ForkProcess-1" by its method.
  template <class F, class... Args>
  requires runtime::Target<F, Args...>
  [[nodiscard]] millrace::Process Process(F&& f, Args&&... args) const {
    return Process(ProcessOptions{}, std::forward<F>(f), std::forward<Args>(args)...);
  }
  template <class F, class... Args>
  requires runtime::Target<F, Args...>
  [[nodiscard]] millrace::Process Process(ProcessOptions options, F&& f, Args&&... args) const {
    options.context = this;
    return millrace::Process(options, std::forward<F>(f), std::forward<Args>(args)...);
  }

  /// A Pool whose workers start by this method, named "ForkPoolWorker-1" by its method.
  [[nodiscard]] millrace::Pool Pool() const { return Pool(PoolOptions{}); }
  template <class... A>
  [[nodiscard]] millrace::Pool Pool(std::integral auto processes, A&&... initializer) const {
    const int workers = std::in_range<int>(processes) ? static_cast<int>(processes) : -1;
    return Pool(PoolOptions{.processes = workers}, std::forward<A>(initializer)...);
  }
  template <class... A>
  [[nodiscard]] millrace::Pool Pool(PoolOptions options, A&&... initializer) const {
    options.context = this;
    return millrace::Pool(options, std::forward<A>(initializer)...);
  }

  /// A started SyncManager whose server starts by this method: <millrace/managers.hpp>.
  [[nodiscard]] SyncManager Manager() const;

  // What works the same under every start method.
  [[nodiscard]] std::pair<Connection, Connection> Pipe(const PipeOptions& options = {}) const {
    return millrace::Pipe(options);
  }
  [[nodiscard]] millrace::Lock Lock() const { return millrace::Lock(); }
  [[nodiscard]] millrace::RLock RLock() const { return millrace::RLock(); }
  [[nodiscard]] millrace::Semaphore Semaphore(int value = 1) const {
    return millrace::Semaphore(value);
  }
  [[nodiscard]] millrace::BoundedSemaphore BoundedSemaphore(int value = 1) const {
    return millrace::BoundedSemaphore(value);
  }
  [[nodiscard]] millrace::Condition Condition() const { return millrace::Condition(); }
  [[nodiscard]] millrace::Condition Condition(const AnyLock& lock) const {
    return millrace::Condition(lock);
  }
  [[nodiscard]] millrace::Event Event() const { return millrace::Event(); }
  [[nodiscard]] millrace::Barrier Barrier(int parties, NoneType action = {},
                                          Timeout timeout = {}) const {
    return millrace::Barrier(parties, action, timeout);
  }
  template <class F>
  requires std::constructible_from<millrace::Barrier, int, F>
  [[nodiscard]] millrace::Barrier Barrier(int parties, F&& action, Timeout timeout = {}) const {
    return millrace::Barrier(parties, std::forward<F>(action), timeout);
  }
  template <class T>
  [[nodiscard]] millrace::Value<T> Value(const T& value = T(),
                                         const ValueOptions& options = {}) const {
    return millrace::Value<T>(value, options);
  }
  template <class T>
  [[nodiscard]] millrace::Array<T> Array(std::initializer_list<T> elements,
                                         const ValueOptions& options = {}) const {
    return millrace::Array<T>(elements, options);
  }
  /// Of a size, a range or a text.
  template <class T, class S>
  requires std::constructible_from<millrace::Array<T>, S>
  [[nodiscard]] millrace::Array<T> Array(S&& source, const ValueOptions& options = {}) const {
    return millrace::Array<T>(std::forward<S>(source), options);
  }
  template <class T>
  [[nodiscard]] millrace::RawValue<T> RawValue(const T& value = T()) const {
    return millrace::RawValue<T>(value);
  }
  template <class T>
  [[nodiscard]] millrace::RawArray<T> RawArray(std::initializer_list<T> elements) const {
    return millrace::RawArray<T>(elements);
  }
  template <class T, class S>
  requires std::constructible_from<millrace::RawArray<T>, S>
  [[nodiscard]] millrace::RawArray<T> RawArray(S&& source) const {
    return millrace::RawArray<T>(std::forward<S>(source));
  }

  template <class T = Object>
  [[nodiscard]] millrace::Queue<T> Queue(std::int64_t maxsize = 0) const {
    return millrace::Queue<T>(maxsize);
  }
  template <class T = Object>
  [[nodiscard]] millrace::JoinableQueue<T> JoinableQueue(std::int64_t maxsize = 0) const {
    return millrace::JoinableQueue<T>(maxsize);
  }
  template <class T = Object>
  [[nodiscard]] millrace::SimpleQueue<T> SimpleQueue() const {
    return millrace::SimpleQueue<T>();
  }

  [[nodiscard]] std::string get_start_method() const { return std::string(method_); }
  [[nodiscard]] std::optional<std::string> get_start_method(allow_none_t) const {
    return get_start_method();
  }
  /// Always ValueError: a context has its method.
  void set_start_method(std::optional<std::string_view> method,
                        SetStartMethodOptions options = {}) const;
  [[nodiscard]] std::vector<std::string> get_all_start_methods() const;
  /// This context.
  [[nodiscard]] Context& get_context() noexcept { return *this; }
  [[nodiscard]] const Context& get_context() const noexcept { return *this; }
  /// The context of a method; ValueError for one that does not exist.
  [[nodiscard]] Context& get_context(std::string_view method) const;

  [[nodiscard]] std::vector<ProcessHandle> active_children() const {
    return millrace::active_children();
  }
  [[nodiscard]] ProcessHandle current_process() const { return millrace::current_process(); }
  [[nodiscard]] std::optional<ProcessHandle> parent_process() const {
    return millrace::parent_process();
  }
  [[nodiscard]] int cpu_count() const;
  [[nodiscard]] int usable_cpu_count() const;
  [[nodiscard]] logging::Logger& get_logger() const { return millrace::get_logger(); }
  logging::Logger& log_to_stderr(std::optional<logging::Level> level = {}) const {
    return millrace::log_to_stderr(level);
  }
  void freeze_support(int argc, char** argv) const { millrace::freeze_support(argc, argv); }

  /// "ForkProcess": the class its processes name themselves after.
  [[nodiscard]] std::string process_class() const { return std::string(process_class_); }

 private:
  friend struct Contexts;
  constexpr Context(std::string_view method, std::string_view process_class) noexcept
      : method_(method), process_class_(process_class) {}

  std::string_view method_;
  std::string_view process_class_;
};

/// The default context, whose method is fixed by this call, as by starting a process.
Context& get_context();
/// The context of a method: "fork", "spawn", "forkserver". ValueError: "cannot find context for
/// '...'". Python: C05.
Context& get_context(std::string_view method);
/// Fixes the default method. std::runtime_error when it is fixed and not forced; ValueError for one
/// that does not exist. std::nullopt with force: not fixed any more.
void set_start_method(std::optional<std::string_view> method, SetStartMethodOptions options = {});
/// The default method; fixes it.
std::string get_start_method();
/// The default method if it is fixed.
std::optional<std::string> get_start_method(allow_none_t);
/// The methods there are, the default first.
std::vector<std::string> get_all_start_methods();

/// The cpus of the system, whoever may use them. Python: multiprocessing.cpu_count().
int cpu_count();
/// The cpus that this process may use: its affinity mask and its cgroup's quota; at least 1.
int usable_cpu_count();

/// The program that start methods other than fork execute instead of this one. What it is sent has
/// to be in it as well, which is so for functions in a shared library. Python: C08.
void set_executable(std::string path);
/// Libraries that a fork server loads before it forks, from the next one that is started on. Those
/// that cannot be loaded are ignored. Python: C10.
void set_forkserver_preload(std::vector<std::string> libraries);

}  // namespace millrace
