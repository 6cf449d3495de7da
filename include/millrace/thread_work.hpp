// Between the typed calls of a ThreadPool and its core: what the core asks of a job, and what it
// offers. Nothing here is for users; the templates of thread_pool.hpp need it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <millrace/callable.hpp>
#include <millrace/job.hpp>
#include <millrace/pool_entries.hpp>
#include <millrace/pool_jobs.hpp>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace millrace::runtime {

/// A worker's turn at a job.
class ThreadTurn {
 public:
  ThreadTurn() = default;
  ThreadTurn(const ThreadTurn&) = delete;
  ThreadTurn& operator=(const ThreadTurn&) = delete;

  /// A chunk begins: its time runs.
  virtual void begin(const Piece& chunk) = 0;
  /// The chunk has ended. True when its time was up before: it has failed already.
  virtual bool end() = 0;
  /// True when the worker is wanted elsewhere.
  [[nodiscard]] virtual bool over() const noexcept = 0;
  [[nodiscard]] virtual PoolCore& core() noexcept = 0;
  [[nodiscard]] virtual Job& job() noexcept = 0;
  /// The worker's thread.
  [[nodiscard]] virtual pid_t tid() const noexcept = 0;

 protected:
  ~ThreadTurn() = default;
};

/// What the core of a thread pool asks of a job. With the lock, but for run().
class ThreadWork {
 public:
  /// `borrows`: it refers to what its blocked caller owns, so it has not ended before every worker
  /// has left it.
  explicit ThreadWork(bool borrows) : borrows_(borrows) {}
  ThreadWork(const ThreadWork&) = delete;
  ThreadWork& operator=(const ThreadWork&) = delete;
  virtual ~ThreadWork() = default;

  /// What a worker may run() now; nothing when there is nothing at the moment.
  virtual std::optional<Piece> take() = 0;
  /// True when nothing will ever be taken again.
  [[nodiscard]] virtual bool exhausted() const = 0;
  /// Workers that it can use now.
  [[nodiscard]] virtual std::uint64_t width() const { return 1; }
  /// Runs what take() gave, without the lock. Lets only a forced unwinding out.
  virtual void run(const Piece& piece, ThreadTurn& turn) = 0;
  /// True when the thread that made the job is to call Job::read(), then admit().
  [[nodiscard]] virtual bool wants_input() const { return false; }
  virtual void admit() {}

  [[nodiscard]] bool borrows() const noexcept { return borrows_; }
  /// What has not begun is not to begin.
  void stop() noexcept { stopped_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool stopped() const noexcept {
    return stopped_.load(std::memory_order_relaxed);  // a stale answer costs one more item
  }

 private:
  bool borrows_;
  std::atomic<bool> stopped_{false};
};

/// Work over an index range: workers pull chunks from one counter, without the lock.
class ChunkedWork : public ThreadWork {
 public:
  ChunkedWork(std::uint64_t size, Chunker chunker, bool borrows)
      : ThreadWork(borrows), size_(size), chunker_(chunker) {}
  std::optional<Piece> take() override;
  [[nodiscard]] bool exhausted() const override;
  [[nodiscard]] std::uint64_t width() const override;
  void run(const Piece& piece, ThreadTurn& turn) override;

  [[nodiscard]] std::uint64_t chunk_items_done() const noexcept {
    return items_done_.load(std::memory_order_relaxed);  // for Progress only
  }

 protected:
  /// Runs items [chunk.first, chunk.first + chunk.count); may throw.
  virtual void run_chunk(const Piece& chunk, ThreadTurn& turn) = 0;

 private:
  std::uint64_t size_;
  Chunker chunker_;
  std::atomic<std::uint64_t> next_{0};        ///< written by workers
  std::atomic<std::uint64_t> items_done_{0};  ///< written by workers
};

/// The exception being handled, as it is; rethrows the end of a thread. In a catch (...) block.
[[nodiscard]] std::exception_ptr thread_error();

/// The core of a pool of threads.
class ThreadPoolCore : public PoolCore {
 public:
  /// Terminates the pool and waits until its threads have left.
  virtual void retire() noexcept = 0;
  /// Makes the threads; each calls what `initializer` returns, on its own, first.
  static Ref<ThreadPoolCore> make(const PoolOptions& options,
                                  std::function<std::function<void()>()> initializer);
};

template <class F>
inline constexpr bool kIsPartial = false;
template <class F, class... A>
inline constexpr bool kIsPartial<wire::Partial<F, A...>> = true;

/// True when threads may call one F at the same time: as a const object. A partial keeps values
/// that its callee may change.
template <class F, class... A>
inline constexpr bool kShareable = !kIsPartial<F> && (std::is_invocable_v<const F&, A&&...> ||
                                                      std::is_invocable_v<const F&, A&...>);

template <class Caller, class F, class V>
struct ShareableFor : std::bool_constant<kShareable<F, V>> {};
template <class F, class V>
struct ShareableFor<CallUnpacked, F, V> {
  template <std::size_t... I>
  static consteval bool probe(std::index_sequence<I...>) {
    return kShareable<F, std::tuple_element_t<I, V>...>;
  }
  static constexpr bool value = probe(std::make_index_sequence<std::tuple_size_v<V>>());
};

/// Calls `body` with the callable as one chunk may use it: shared where it is const, else a copy of
/// its own, as in a pool of processes; the one and only where it cannot be copied.
template <bool Shared, class F, class Body>
decltype(auto) with_callable(F& f, Body&& body) {
  if constexpr (Shared) {
    return body(std::as_const(f));
  } else if constexpr (std::copy_constructible<F>) {
    F own(std::as_const(f));
    return body(own);
  } else {
    return body(f);
  }
}

}  // namespace millrace::runtime
