// What the calls of a pool can be told: one designated-initialiser struct per call, and the small
// types of their fields.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <millrace/affinity.hpp>
#include <millrace/light_std.hpp>
#include <millrace/none.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

class Context;

/// Asks for guided chunk sizes: large chunks first, smaller ones towards the end.
struct automatic_t {};
inline constexpr automatic_t automatic{};

/// Items per chunk: unset for Python's default (n / (4 * workers), rounded up; 1 for imap), a
/// number, or mp::automatic.
class Chunksize {
 public:
  constexpr Chunksize() noexcept = default;
  template <std::integral I>
  constexpr Chunksize(I items) noexcept  // NOLINT(google-explicit-constructor): call form
      : items_(std::in_range<std::int64_t>(items) ? static_cast<std::int64_t>(items)
                                                  : std::int64_t{1} << 62),
        kind_(Kind::explicit_size) {}
  constexpr Chunksize(automatic_t) noexcept : kind_(Kind::guided) {}  // NOLINT

  [[nodiscard]] constexpr bool is_set() const noexcept { return kind_ == Kind::explicit_size; }
  [[nodiscard]] constexpr bool guided() const noexcept { return kind_ == Kind::guided; }
  [[nodiscard]] constexpr std::int64_t items() const noexcept { return items_; }

 private:
  enum class Kind : std::uint8_t { python_default, explicit_size, guided };
  std::int64_t items_ = 0;
  Kind kind_ = Kind::python_default;
};

/// How far a job has come.
struct Progress {
  std::uint64_t done = 0;                   ///< items finished
  std::uint64_t total = 0;                  ///< items in all; 0 when not known
  std::chrono::duration<double> elapsed{};  ///< seconds since the job began
};

/// Receives Progress on the thread that waits for the job, at most some ten times a second and once
/// at the end.
using ProgressSink = std::function<void(const Progress&)>;

/// A bar on stderr with the share done, the rate and the time left. On a terminal it redraws one
/// line, elsewhere it prints one line at the end.
[[nodiscard]] ProgressSink progress_bar(std::string label = {});

/// The default of `.on_error`: the first failure to arrive is rethrown.
struct raise_t {};
inline constexpr raise_t raise{};

/// `.on_error = mp::collect`, written in the call: every item runs and yields an Outcome.
class collect_t {
 public:
  static constexpr collect_t make() noexcept { return collect_t(0); }

 private:
  constexpr explicit collect_t(int) noexcept {}  // no default: an omitted field is not collect
};
inline constexpr collect_t collect = collect_t::make();

/// PoolOptions::processes and friends. Python: the arguments of multiprocessing.Pool.
struct PoolOptions {
  std::optional<int> processes{};           ///< workers; default usable_cpu_count()
  std::optional<int> maxtasksperchild{};    ///< tasks a worker runs before it is replaced
  std::optional<affinity::Binding> bind{};  ///< where workers run; see affinity.hpp
  const Context* context = nullptr;         ///< start method; default the program's
  int cores_per_worker = 1;                 ///< cores each worker is bound to
  std::string trace{};                      ///< file for a Chrome trace of all tasks
};

/// Options of Pool::apply.
struct TaskOptions {
  Timeout timeout{};  ///< per task: the worker is killed and replaced, the task gets TimeoutError
  int retries = 0;    ///< runs again after its worker died, so many times
  int node = -1;      ///< preferred NUMA node (operating-system index)
  int priority = 0;   ///< higher goes first
};

/// Called with a result: R for apply_async, the vector for map_async, nothing for void.
template <class R>
class Callback {
 public:
  Callback() = default;
  template <class C>
  requires(!std::same_as<std::decay_t<C>, Callback> && std::invocable<C&, const R&>)
      Callback(C callable)
      : call_(std::move(callable)) {}  // NOLINT(google-explicit-constructor)
  template <class C>
  requires(!std::same_as<std::decay_t<C>, Callback> && !std::invocable<C&, const R&> &&
           std::invocable<C&, R>)
      Callback(C callable)  // NOLINT(google-explicit-constructor): takes the result by value
      : call_([callable = std::move(callable)](const R& result) mutable { callable(R(result)); }) {}

  explicit operator bool() const noexcept { return static_cast<bool>(call_); }
  void operator()(const R& result) const { call_(result); }

 private:
  std::function<void(const R&)> call_;
};

template <>
class Callback<void> {
 public:
  Callback() = default;
  template <class C>
  requires(!std::same_as<std::decay_t<C>, Callback> && std::invocable<C&>) Callback(C callable)
      : call_(std::move(callable)) {}  // NOLINT(google-explicit-constructor)
  template <class C>
  requires(!std::same_as<std::decay_t<C>, Callback> && !std::invocable<C&> &&
           std::invocable<C&, NoneType>)
      Callback(
          C callable)  // NOLINT(google-explicit-constructor): a generic callback of one argument
      : call_([callable = std::move(callable)]() mutable { callable(None); }) {}

  explicit operator bool() const noexcept { return static_cast<bool>(call_); }
  void operator()() const { call_(); }

 private:
  std::function<void()> call_;
};

/// Called with what a task threw.
using ErrorCallback = std::function<void(std::exception_ptr)>;

/// Options of Pool::apply_async.
template <class R>
struct ApplyOptions {
  Callback<R> callback{};
  ErrorCallback error_callback{};
  Timeout timeout{};
  int retries = 0;
  int node = -1;
  int priority = 0;
};

/// Options of map, starmap, imap, imap_unordered, map_into, parallel_for, reduce.
/// Failure is the type of `.on_error`: it decides what the call returns.
template <class Failure>
struct BasicMapOptions {
  Chunksize chunksize{};
  std::size_t window = 0;  ///< imap: items read ahead of the reader; 0: a default that serves
  Timeout timeout{};       ///< per chunk
  int retries = 0;         ///< per chunk, after its worker died
  Failure on_error{};
  int priority = 0;
  ProgressSink progress{};
  std::string joblog{};  ///< file that finished chunks are written to
  bool resume = false;   ///< skip what the joblog already holds
};

template <>
struct BasicMapOptions<collect_t> {
  Chunksize chunksize{};
  std::size_t window = 0;
  Timeout timeout{};
  int retries = 0;
  collect_t on_error;
  int priority = 0;
  ProgressSink progress{};
  std::string joblog{};
  bool resume = false;
};

using MapOptions = BasicMapOptions<raise_t>;
using CollectOptions = BasicMapOptions<collect_t>;

/// Options of map_async and starmap_async. Result is what the callback receives.
template <class Failure, class Result>
struct BasicMapAsyncOptions {
  Chunksize chunksize{};
  Callback<Result> callback{};
  ErrorCallback error_callback{};
  Timeout timeout{};
  int retries = 0;
  Failure on_error{};
  int priority = 0;
  ProgressSink progress{};
  std::string joblog{};
  bool resume = false;
};

template <class Result>
struct BasicMapAsyncOptions<collect_t, Result> {
  Chunksize chunksize{};
  Callback<Result> callback{};
  ErrorCallback error_callback{};
  Timeout timeout{};
  int retries = 0;
  collect_t on_error;
  int priority = 0;
  ProgressSink progress{};
  std::string joblog{};
  bool resume = false;
};

template <class Result>
using MapAsyncOptions = BasicMapAsyncOptions<raise_t, Result>;
template <class Result>
using CollectAsyncOptions = BasicMapAsyncOptions<collect_t, Result>;

/// Where a worker runs, as read back from the worker itself.
struct WorkerBinding {
  pid_t pid = 0;
  std::vector<int> cpus{};  ///< cpus the kernel lets it run on
  int node = -1;            ///< NUMA node its memory comes from first; -1: none preferred
  std::string source{};     ///< what decided it
};

/// What a worker has done so far.
struct WorkerStats {
  pid_t pid = 0;
  std::uint64_t tasks = 0;  ///< chunks and calls finished
  std::chrono::duration<double> busy{};
  std::chrono::duration<double> idle{};
  std::vector<std::uint64_t> steals_by_distance{};  ///< [0] own node, [1] the nearest other, ...
  std::uint64_t bytes = 0;                          ///< payload taken in and results given out
};

}  // namespace millrace
