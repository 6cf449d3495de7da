// Between the typed calls of a pool and its byte core: what a job is, and what the core offers.
// Nothing here is for users; the templates of pool.hpp need it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <millrace/function.hpp>
#include <millrace/light_std.hpp>
#include <millrace/pool_options.hpp>
#include <millrace/ref.hpp>
#include <millrace/serialize.hpp>
#include <millrace/timeout.hpp>
#include <span>
#include <string>
#include <vector>

namespace millrace::runtime {

/// What a worker's entry point gets: the payload, where the reply goes, and the job's context.
struct TaskCall {
  wire::Reader& in;
  wire::Writer& out;
  std::span<const std::byte> context;  ///< the encoded callable, one copy per job
  std::uint64_t job;                   ///< unique; for caching what was decoded from the context
  /// Room for a reply of at least `bytes` behind the payload, or nullptr.
  std::byte* (*reply_room)(TaskCall&, std::size_t bytes);
};
using TaskEntry = void (*)(TaskCall&);

/// Runs items [first, last) of a range job.
struct RangeItems {
  std::span<const std::byte> context;
  std::uint64_t job;
  std::uint64_t first;
  std::uint64_t last;
};
using RangeEntry = void (*)(const RangeItems&);

/// Consecutive items of a job that travel together.
struct Piece {
  std::uint64_t first = 0;
  std::uint64_t count = 0;   ///< 0: the input is exhausted
  bool starts_chunk = true;  ///< counts as a task for maxtasksperchild
  bool last = false;         ///< nothing follows: saves asking once more
};

/// Who ran a piece, for Outcome.
struct PieceReport {
  pid_t pid = 0;
};

/// How the core treats a job.
struct JobSettings {
  FunctionId entry = 0;
  Timeout timeout{};
  int retries = 0;
  int priority = 0;
  int node = -1;
  bool caller_feeds = false;    ///< the input may only be read on the thread that made the job
  bool asynchronous = false;    ///< nobody need be waiting: results are collected in the background
  bool writes_back = false;     ///< workers write to the caller's own memory
  bool copied = false;          ///< the caller's thread copies the bytes: it needs its cpu
  std::uint64_t total = 0;      ///< items, 0 if not known
  std::uint64_t chunk = 1;      ///< items per piece, for the joblog
  std::uint64_t signature = 0;  ///< of function and types, for the joblog
  ProgressSink progress{};
  std::string joblog{};
  bool resume = false;
};

/// What every worker of a pool runs first. Workers inherit it, or it is sent to their zygote.
class Initializer : public Counted {
 public:
  /// Makes one from what encode() wrote.
  using Decode = Ref<Initializer> (*)(wire::Reader&);

  virtual void call() = 0;
  /// Appends callable and arguments. Returns the id of their Decode. Throws what their serialize()
  /// throws, TypeError for a callable that holds a private address.
  virtual FunctionId encode(wire::Writer& out) const = 0;
};

/// A job: an input that is fed piece by piece, and results that are delivered piece by piece. The
/// core calls the virtual functions with its lock held, except `read` and `finished`.
class Job : public Counted {
 public:
  explicit Job(JobSettings&& settings);
  ~Job() override;

  /// Encodes the next piece. An empty piece ends the input. May throw: see `fail_source`.
  virtual Piece feed(wire::Writer& out) = 0;
  /// Passes over a piece whose results are known already (from a joblog): as feed, without
  /// encoding.
  virtual Piece skip() = 0;
  /// Bytes of arena to reserve behind the payload of `piece` for its reply.
  [[nodiscard]] virtual std::size_t reply_bytes(const Piece&) const { return 0; }
  /// With `caller_feeds`: reads the next piece of the input, without the lock, on the thread whose
  /// job it is; feed() then encodes it. What the input throws is kept for feed().
  virtual void read() {}
  /// True when feed() need not read the input.
  [[nodiscard]] virtual bool has_read() const { return true; }
  /// True when no piece may be fed at the moment though the input is not exhausted.
  [[nodiscard]] virtual bool window_full() const { return false; }
  /// True when there is no hurry to read further ahead.
  [[nodiscard]] virtual bool window_half_full() const { return true; }
  /// Takes the reply of a piece.
  virtual void deliver(const Piece& piece, wire::Reader& reply, const PieceReport& report) = 0;
  /// A piece has no reply: it threw, its worker ended, it was cancelled.
  virtual void fail(const Piece& piece, const std::exception_ptr& error) = 0;
  /// Feeding threw.
  virtual void fail_source(const std::exception_ptr& error) { fail(Piece{}, error); }
  /// Every piece has ended. Called without the lock, before anyone sees done().
  virtual void finished() {}
  /// True when finished() and the destructor do nothing that must not happen under the lock.
  [[nodiscard]] virtual bool ends_silently() const { return false; }
  /// What its waiter waits for: the end of the job, unless overridden.
  [[nodiscard]] virtual bool ready() const { return done_; }
  /// The same without the lock, where that can be told; asked while spinning.
  [[nodiscard]] virtual bool glance() const { return false; }
  /// Items that have ended, for Progress.
  [[nodiscard]] virtual std::uint64_t items_done() const { return items_done_; }
  /// The waiter gave up on further input (close, join): lift any window.
  virtual void unbound() {}

  [[nodiscard]] const JobSettings& settings() const noexcept { return settings_; }
  /// True once every piece has ended and callbacks have run. Under the core's lock.
  [[nodiscard]] bool done() const noexcept { return done_; }
  /// Keeps what the job's context refers to.
  void keep_alive(Ref<Counted> what) noexcept { keep_ = std::move(what); }

 protected:
  JobSettings settings_;

 private:
  friend class ProcessPool;
  friend class ThreadCore;

  Ref<Counted> keep_{};

  // The core's own, under its lock.
  std::span<const std::byte> context_{};
  std::byte* context_block_ = nullptr;
  std::uint64_t id_ = 0;
  std::uint64_t outstanding_ = 0;
  std::uint64_t items_done_ = 0;
  bool exhausted_ = false;
  bool completing_ = false;
  bool done_ = false;
  bool abandoned_ = false;
  bool reading_ = false;          ///< its owner is in read()
  bool fresh_ = false;            ///< all handed out a moment ago: nothing to do but wait
  std::uintptr_t reporting_ = 0;  ///< thread_token() of the thread in its progress sink
  std::uintptr_t owner_ = 0;  ///< thread_token() of the thread that made it or waited for it last
  Timeout::Clock::time_point started_{};
  Ref<class Joblog> log_{};
  Timeout::Clock::time_point last_progress_{};
};

/// A call over an index range: nothing is copied, workers pull chunks from shared cursors.
struct RangeCall {
  FunctionId entry = 0;
  std::span<const std::byte> context{};
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t chunk = 1;
  Timeout timeout{};
  int retries = 0;
  int priority = 0;
  ProgressSink progress{};
};

/// The byte core of a pool.
class PoolCore : public Counted {
 public:
  /// Queues a job. ValueError when the pool is not running.
  virtual void submit(Ref<Job> job, std::span<const std::byte> context) = 0;
  /// Blocks until job.ready(); false when the deadline passed first. Feeds a caller-fed job.
  virtual bool wait(Job& job, Timeout timeout) = 0;
  /// Takes what has arrived and hands out what there is room for, without blocking.
  virtual void poll(Job& job) = 0;
  /// Ends a job now: pieces that run have their workers replaced. False if it had ended already.
  virtual bool cancel(Job& job, const std::exception_ptr& error) = 0;
  /// Nobody will look at the job's results any more: no further input is read.
  virtual void abandon(Job& job) = 0;
  /// The lock that protects every job of the pool; see JobGuard.
  virtual void lock() = 0;
  virtual void unlock() = 0;

  /// Runs a range call to its end; throws its first failure.
  virtual void run_range(const RangeCall& call) = 0;
  /// Throws ValueError("Pool not running") unless the pool takes work, ForkedError in a child.
  virtual void check_running() const = 0;
  /// True when workers can read and write this process's private memory.
  [[nodiscard]] virtual bool reaches_private_memory() const = 0;
  /// The cpu that each worker has to itself, by seat; empty where they have none.
  [[nodiscard]] virtual std::vector<int> own_cpus() const { return {}; }

  [[nodiscard]] virtual int workers() const noexcept = 0;
  virtual void close() = 0;
  virtual void terminate() noexcept = 0;
  virtual void join() = 0;
  [[nodiscard]] virtual std::vector<WorkerBinding> bindings() const = 0;
  [[nodiscard]] virtual std::vector<WorkerStats> stats() const = 0;
  [[nodiscard]] virtual std::string repr() const = 0;

  /// A pool of processes. `initializer` runs first in every worker; null: nothing does.
  static Ref<PoolCore> make(const PoolOptions& options, Ref<Initializer> initializer);
  /// The same with nothing but a number of workers asked for.
  static Ref<PoolCore> make(int workers);
};

/// Holds the lock that protects every job of a pool.
class JobGuard {
 public:
  explicit JobGuard(PoolCore& core) : core_(core) { core_.lock(); }
  JobGuard(const JobGuard&) = delete;
  JobGuard& operator=(const JobGuard&) = delete;
  ~JobGuard() { core_.unlock(); }

 private:
  PoolCore& core_;
};

/// A number that no other thread of the process has at the same time.
[[nodiscard]] inline std::uintptr_t thread_token() noexcept {
  static thread_local const char own = 0;
  return reinterpret_cast<std::uintptr_t>(&own);
}

/// CPython's default chunk: n / (4 * workers), rounded up, at least 1.
[[nodiscard]] std::uint64_t default_chunk(std::uint64_t items, int workers) noexcept;
/// The chunk size that a call asked for; ValueError when it is below 1.
[[nodiscard]] std::uint64_t chunk_of(const Chunksize& wish, std::uint64_t items, int workers,
                                     std::uint64_t standard);
/// How many indices [first, last) of a parallel_for has; ValueError for those below 0.
[[nodiscard]] std::uint64_t range_size(std::uint64_t first, std::uint64_t last);

/// Reads [address, address + bytes) of the pool's parent into `to`, or writes back; for workers.
void read_parent(void* to, std::uint64_t address, std::size_t bytes);
void write_parent(const void* from, std::uint64_t address, std::size_t bytes);

/// Logs an exception that a callback let out; nothing else is harmed by it.
void log_callback_failure(const char* which) noexcept;

/// Has the kernel provide the pages of [data, data + bytes), about to be written for the first time
/// perhaps: together they cost half of what they cost one by one. Only whole pages inside; a hint.
void provide_pages(void* data, std::size_t bytes) noexcept;

/// True when all of [data, data + bytes) lies in the arena.
[[nodiscard]] bool in_arena(const void* data, std::size_t bytes) noexcept;

/// Encodes and decodes an exception with its type and remote stack trace.
void put_exception(wire::Writer& out, const std::exception_ptr& error);
[[nodiscard]] std::exception_ptr take_exception(wire::Reader& in);

/// The exception being handled, as an item's error; rethrows what is to end the process instead
/// (SystemExit, KeyboardInterrupt, a thread's cancellation). Call it in a catch (...) block.
[[nodiscard]] std::exception_ptr item_error();

/// Where this thread runs, and a clock: for Outcome.
[[nodiscard]] int current_cpu() noexcept;
[[nodiscard]] std::int64_t now_ns() noexcept;

}  // namespace millrace::runtime
