// A pool of worker processes, pinned to the cores and NUMA nodes they work on.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <millrace/async_result.hpp>
#include <millrace/bulk_jobs.hpp>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/job.hpp>
#include <millrace/light_std.hpp>
#include <millrace/pool_calls.hpp>
#include <millrace/pool_jobs.hpp>
#include <millrace/pool_options.hpp>
#include <millrace/ref.hpp>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

/// Worker processes that run functions on data: through shared memory, on cores they keep.
///
/// Methods may be called from several threads of the process that made the pool; in a forked child
/// they throw ForkedError. After close() or terminate() new calls throw ValueError. Destroying a
/// pool is terminate(). A worker that dies fails (or retries) only what it ran and is replaced.
/// Python: multiprocessing.pool.Pool.
class Pool : public runtime::PoolCalls<Pool> {
 public:
  /// A pool of usable_cpu_count() workers. Blocks until they are forked. std::system_error when the
  /// system refuses processes or memory.
  Pool();
  /// `processes` workers; each runs init(args...) first. ValueError when processes < 1.
  explicit Pool(std::integral auto processes) : core_(runtime::PoolCore::make(to_int(processes))) {}
  template <class F, class... A>
  Pool(std::integral auto processes, F&& init, A&&... arguments)
      : Pool(PoolOptions{.processes = to_int(processes)}, std::forward<F>(init),
             std::forward<A>(arguments)...) {}
  explicit Pool(const PoolOptions& options);
  template <class F, class... A>
  Pool(const PoolOptions& options, F&& init, A&&... arguments)
      : core_(runtime::PoolCore::make(
            options, initializer(std::forward<F>(init), std::forward<A>(arguments)...))) {}
  Pool(Pool&&) noexcept;
  Pool& operator=(Pool&& other) noexcept;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool();

  /// out[i] = f(in[i]). Ranges in shared_arrays are worked on where they lie; others are copied
  /// through shared memory. ValueError when the sizes differ. Blocks. **beyond** Python.
  template <class F, class In, class Out>
  void map_into(F f, In&& in, Out&& out, const MapOptions& options = {});
  /// f(i) for i in [first, last), or f(first, last) once per chunk. Blocks. **beyond** Python.
  template <class F>
  void parallel_for(std::uint64_t count, F f, const MapOptions& options = {}) {
    parallel_for(0, count, std::move(f), options);
  }
  template <class F>
  void parallel_for(std::uint64_t first, std::uint64_t last, F f, const MapOptions& options = {});
  /// combine(... combine(init, f(x0)) ..., f(xn)): f runs in the workers, combine (associative) in
  /// workers and parent, in item order; init counts once. Blocks. **beyond** Python.
  template <class F, class Combine, class T, class R>
  T reduce(F f, Combine combine, T init, R&& items, const MapOptions& options = {});

  /// No more calls; work that was submitted is finished. Does not block. Python: close().
  void close();
  /// Ends the workers now; pending results throw PoolTerminated. Python: terminate(), whose pending
  /// results never come.
  void terminate();
  /// Waits until every worker has left, after close() or terminate(); ValueError before.
  void join();

  /// Where each worker runs, read back from the worker.
  [[nodiscard]] std::vector<WorkerBinding> bindings() const;
  /// What each worker has done.
  [[nodiscard]] std::vector<WorkerStats> stats() const;
  /// `<multiprocessing.pool.Pool state=RUN pool_size=2>`.
  [[nodiscard]] std::string repr() const;

 private:
  friend class runtime::PoolCalls<Pool>;

  static int to_int(std::integral auto value) {
    return std::in_range<int>(value) ? static_cast<int>(value) : (value < 0 ? -1 : 1 << 30);
  }
  template <class F, class... A>
  static runtime::Ref<runtime::Initializer> initializer(F&& init, A&&... arguments) {
    static_assert(wire::CallableWith<std::decay_t<F>, wire::travel_t<A>...>,
                  "millrace: the initializer cannot be called with the arguments given");
    return runtime::make_ref<runtime::StoredInitializer<std::decay_t<F>, wire::travel_t<A>...>>(
        std::in_place, std::forward<F>(init), std::forward<A>(arguments)...);
  }

  // ValueError for a pool that was moved from.
  [[nodiscard]] runtime::PoolCore& core() const;
  // Blocks until the job has ended; gives its result or rethrows its error.
  template <class Job>
  auto wait_for(const runtime::Ref<Job>& job) {
    runtime::wait_for_job(core(), *job);
    return std::move(job->result());
  }
  // The same, for a map: a function without a result gives nothing.
  template <class Item, class Job>
  runtime::MapResult<Item> finish(const runtime::Ref<Job>& job) {
    if constexpr (std::is_void_v<Item>) {
      runtime::wait_for_job(core(), *job);
    } else {
      return wait_for(job);
    }
  }

  template <class R, class Options, class F, class... A>
  auto start_apply(const Options& options, bool asynchronous, F&& f, A&&... arguments);
  // Fills in what the options say; false when there is nothing to run.
  bool plan_range(runtime::RangeCall& call, const MapOptions& options) const;
  template <class F, class... A>
  auto do_apply(const TaskOptions& options, F&& f, A&&... arguments);
  template <class R, class F, class... A>
  auto do_apply_async(const ApplyOptions<R>& options, F&& f, A&&... arguments);
  template <class Caller, class F, class R>
  auto do_map(F f, R&& items, const MapOptions& options);
  template <class Caller, class F, class R>
  auto do_collect(F f, R&& items, const CollectOptions& options);
  template <bool Collect, class F, class R, class Options>
  auto do_imap(F f, R&& items, const Options& options, bool ordered);
  template <class Caller, class F, class R, class Options>
  auto do_map_async(F f, R&& items, const Options& options);
  template <class Caller, class F, class R, class Options>
  auto do_collect_async(F f, R&& items, const Options& options);

  runtime::Ref<runtime::PoolCore> core_;
};

std::ostream& operator<<(std::ostream& out, const Pool& pool);

}  // namespace millrace

#include <millrace/pool_do.hpp>
