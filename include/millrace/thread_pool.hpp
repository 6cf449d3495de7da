// A pool of threads of this process, with the calls of Pool.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <millrace/async_result.hpp>
#include <millrace/errors.hpp>
#include <millrace/pool_calls.hpp>
#include <millrace/pool_options.hpp>
#include <millrace/thread_imap_job.hpp>
#include <millrace/thread_jobs.hpp>
#include <optional>
#include <ranges>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

/// Threads that run functions on data of this process: any callable, any type, nothing is encoded
/// or copied that need not be. The calls are those of Pool. A callable whose call operator is const
/// is shared by the threads; one that changes itself is copied for every chunk, or, where it cannot
/// be copied, shared all the same.
///
/// Threads cannot be ended. terminate() drops what has not begun, and what runs is left to its end;
/// the destructor, after terminate(), waits for it. A timeout fails the task when its time is up
/// (apply, apply_async, imap) or when the function has returned (map and the other calls that work
/// on their caller's data). `.retries`, `.node` are without meaning; `.joblog` is ValueError. An
/// exception arrives as the object that was thrown. Pids are thread ids. In a forked child calls
/// throw ForkedError. Python: multiprocessing.pool.ThreadPool, O19.
class ThreadPool : public runtime::PoolCalls<ThreadPool> {
 public:
  /// A pool of usable_cpu_count() threads.
  ThreadPool() : ThreadPool(PoolOptions{}) {}
  /// `processes` threads; each calls init(args...) first. ValueError when processes < 1. What init
  /// throws is what every call throws.
  template <class... A>
  explicit ThreadPool(std::integral auto processes, A&&... init_and_arguments)
      : ThreadPool(PoolOptions{.processes = to_int(processes)},
                   std::forward<A>(init_and_arguments)...) {}
  explicit ThreadPool(const PoolOptions& options)
      : core_(runtime::ThreadPoolCore::make(options, {})) {}
  template <class F, class... A>
  ThreadPool(const PoolOptions& options, F&& init, A&&... arguments)
      : core_(runtime::ThreadPoolCore::make(
            options, initializer(std::forward<F>(init), std::forward<A>(arguments)...))) {}
  ThreadPool(ThreadPool&&) noexcept = default;
  ThreadPool& operator=(ThreadPool&& other) noexcept {
    if (this != &other) {
      if (core_) core_->retire();
      core_ = std::move(other.core_);
    }
    return *this;
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    if (core_) core_->retire();
  }

  /// out[i] = f(in[i]). ValueError when the sizes differ. Blocks. **beyond** Python.
  template <class F, class In, class Out>
  void map_into(F f, In&& in, Out&& out, const MapOptions& options = {});
  /// f(i) for i in [first, last), or f(first, last) once per chunk. Blocks. **beyond** Python.
  template <class F>
  void parallel_for(std::uint64_t count, F f, const MapOptions& options = {}) {
    parallel_for(0, count, std::move(f), options);
  }
  template <class F>
  void parallel_for(std::uint64_t first, std::uint64_t last, F f, const MapOptions& options = {});
  /// combine(... combine(init, f(x0)) ..., f(xn)): combine is associative; init counts once.
  /// Blocks.
  /// **beyond** Python.
  template <class F, class Combine, class T, class R>
  T reduce(F f, Combine combine, T init, R&& items, const MapOptions& options = {});

  /// No more calls; work that was submitted is finished. Does not block. Python: close().
  void close() { core().close(); }
  /// Drops what has not begun; its results throw PoolTerminated. Does not block. Python:
  /// terminate().
  void terminate() { core().terminate(); }
  /// Waits until every thread has left, after close() or terminate(); ValueError before.
  void join() { core().join(); }

  /// Where each thread runs, read back from it.
  [[nodiscard]] std::vector<WorkerBinding> bindings() const { return core().bindings(); }
  /// What each thread has done.
  [[nodiscard]] std::vector<WorkerStats> stats() const { return core().stats(); }
  /// `<multiprocessing.pool.ThreadPool state=RUN pool_size=2>`.
  [[nodiscard]] std::string repr() const { return core().repr(); }

 private:
  friend class runtime::PoolCalls<ThreadPool>;

  static int to_int(std::integral auto value) {
    return std::in_range<int>(value) ? static_cast<int>(value) : (value < 0 ? -1 : 1 << 30);
  }
  // Gives each thread its own function to call first.
  template <class F, class... A>
  static std::function<std::function<void()>()> initializer(F&& init, A&&... arguments) {
    static_assert(wire::CallableWith<std::decay_t<F>, wire::travel_t<A>...>,
                  "millrace: the initializer cannot be called with the arguments given");
    struct Kept {
      std::decay_t<F> init;
      std::tuple<wire::travel_t<A>...> arguments;
    };
    auto kept = std::make_shared<Kept>(Kept{
        std::forward<F>(init), std::tuple<wire::travel_t<A>...>(std::forward<A>(arguments)...)});
    return [kept]() -> std::function<void()> {
      if constexpr (std::copy_constructible<Kept>) {
        return [own = *kept]() mutable { (void)wire::call_tuple(own.init, own.arguments); };
      } else {
        return [kept] { (void)wire::call_tuple(kept->init, kept->arguments); };
      }
    };
  }

  [[nodiscard]] runtime::ThreadPoolCore& core() const {
    if (!core_) throw ValueError("Pool not running: it was moved from");
    return *core_;
  }
  template <class Options>
  runtime::JobSettings settings(const Options& options) const;
  template <class Job>
  auto wait_for(const runtime::Ref<Job>& job);
  template <class Item, class Job>
  runtime::MapResult<Item> finish(const runtime::Ref<Job>& job);
  template <bool Shared, class F, class Body>
  void run_range(F f, Body body, std::uint64_t size, const MapOptions& options);
  template <class Caller, bool Keep, class F, class R, class Options>
  auto make_map(F f, R&& items, const Options& options);
  template <class Caller, bool Keep, class F, class R, class Options>
  auto make_collect(F f, R&& items, const Options& options);

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

  runtime::Ref<runtime::ThreadPoolCore> core_;
};

std::ostream& operator<<(std::ostream& out, const ThreadPool& pool);

}  // namespace millrace

#include <millrace/thread_pool_do.hpp>
