// The jobs of a ThreadPool: nothing is encoded, workers run them where they lie. Nothing here is
// for users; the templates of thread_pool.hpp need it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <millrace/job.hpp>
#include <millrace/outcome.hpp>
#include <millrace/pool_jobs.hpp>
#include <millrace/thread_work.hpp>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

/// The items of a call in memory: the caller's own while it is blocked, else a container's.
template <class V>
struct ThreadItems {
  explicit ThreadItems(const V* items, std::uint64_t count) : data(items), size(count) {}
  explicit ThreadItems(std::vector<V>&& items)
      : kept(std::move(items)), data(nullptr), size(kept.size()) {}

  /// Calls f on item i; the callee owns what it gets.
  template <class Caller, class F>
  decltype(auto) call(F& f, std::uint64_t i) {
    if (data == nullptr) return Caller::call(f, kept[i]);
    if constexpr (std::copy_constructible<V>) {
      V item(data[i]);
      return Caller::call(f, item);
    } else {
      return Caller::call(f, const_cast<V&>(data[i]));
    }
  }

  std::vector<V> kept;
  const V* data;  ///< null: kept
  std::uint64_t size;
};

/// Results by index, written by several threads.
template <class R>
class ResultSlots {
  static constexpr bool kPlain = std::default_initializable<R> && !std::same_as<R, bool>;

 public:
  explicit ResultSlots(std::uint64_t size) : slots_(size) {}
  void put(std::uint64_t i, R&& value) {
    if constexpr (kPlain) {
      slots_[i] = std::move(value);
    } else {
      slots_[i].emplace(std::move(value));
    }
  }
  std::vector<R> collect() {
    if constexpr (kPlain) {
      return std::move(slots_);
    } else {
      std::vector<R> all;
      all.reserve(slots_.size());
      for (auto& slot : slots_) all.push_back(*std::move(slot));
      return all;
    }
  }

 private:
  std::vector<std::conditional_t<kPlain, R, std::optional<R>>> slots_;
};

/// What the jobs of threads share: nothing is encoded.
template <class Base, class Work>
class ThreadJob : public Base, public Work {
 public:
  /// The arguments of Base as a tuple, then those of Work.
  template <class... B, class... W>
  explicit ThreadJob(std::tuple<B...> base, W&&... work)
      : ThreadJob(std::move(base), std::index_sequence_for<B...>(), std::forward<W>(work)...) {}
  Piece feed(wire::Writer&) override { return {}; }
  Piece skip() override { return {}; }
  void deliver(const Piece&, wire::Reader&, const PieceReport&) override {}

 private:
  template <class... B, std::size_t... I, class... W>
  ThreadJob(std::tuple<B...>&& base, std::index_sequence<I...>, W&&... work)
      : Base(std::get<I>(std::move(base))...), Work(std::forward<W>(work)...) {}
};

template <class R, class F, class... A>
class ThreadApplyJob final : public ThreadJob<ResultJob<Valued<R>>, ThreadWork> {
  using Base = ThreadJob<ResultJob<Valued<R>>, ThreadWork>;

 public:
  ThreadApplyJob(JobSettings settings, F f, A... arguments)
      : Base(std::tuple(std::move(settings)), false),
        f_(std::move(f)),
        arguments_(std::move(arguments)...) {}
  std::optional<Piece> take() override {
    if (std::exchange(taken_, true)) return std::nullopt;
    return Piece{.first = 0, .count = 1};
  }
  [[nodiscard]] bool exhausted() const override { return taken_; }
  void run(const Piece& piece, ThreadTurn& turn) override {
    std::optional<Valued<R>> got;
    std::exception_ptr error;
    turn.begin(piece);
    try {
      if constexpr (std::is_void_v<R>) {
        wire::call_tuple(f_, arguments_);
        got.emplace();
      } else {
        got.emplace(wire::call_tuple(f_, arguments_));
      }
    } catch (...) {
      error = thread_error();
    }
    const bool late = turn.end();
    const JobGuard lock(turn.core());
    if (late || this->error_) return;  // its time was up, or it was cancelled
    if (error) {
      this->error_ = error;
    } else {
      result_ = std::move(got);
    }
  }
  Valued<R>& result() override { return *result_; }

 private:
  F f_;
  std::tuple<A...> arguments_;
  std::optional<Valued<R>> result_;
  bool taken_ = false;
};

/// map and starmap.
template <class Caller, class F, class V, class R>
class ThreadMapJob final
    : public ThreadJob<
          ResultJob<std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>>,
          ChunkedWork> {
  using Result = std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>;
  using Base = ThreadJob<ResultJob<Result>, ChunkedWork>;

 public:
  ThreadMapJob(JobSettings settings, F f, ThreadItems<V> items, Chunker chunker, bool borrows)
      : Base(std::tuple(std::move(settings)), items.size, chunker, borrows),
        f_(std::move(f)),
        items_(std::move(items)),
        slots_(std::is_void_v<R> ? 0 : items_.size) {}
  Result& result() override { return result_; }
  [[nodiscard]] std::uint64_t items_done() const override { return this->chunk_items_done(); }

 protected:
  void run_chunk(const Piece& chunk, ThreadTurn&) override {
    with_callable<ShareableFor<Caller, F, V>::value>(f_, [&](auto& f) {
      for (std::uint64_t i = chunk.first; i < chunk.first + chunk.count && !this->stopped(); ++i) {
        if constexpr (std::is_void_v<R>) {
          items_.template call<Caller>(f, i);
        } else {
          slots_.put(i, items_.template call<Caller>(f, i));
        }
      }
    });
  }
  void prepare() override {
    if constexpr (!std::is_void_v<R>) {
      if (!this->error_) result_ = slots_.collect();
    }
  }

 private:
  F f_;
  ThreadItems<V> items_;
  ResultSlots<Valued<R>> slots_;
  Result result_{};
};

/// Calls f on an item and tells what became of it.
template <class R, class Call>
Outcome<R> outcome_of(pid_t tid, Call&& call) {
  const std::int64_t start = now_ns();
  const auto facts = [&] {
    return
        typename Outcome<R>::Facts{tid, current_cpu(), std::chrono::nanoseconds(now_ns() - start)};
  };
  try {
    R result(call());
    return Outcome<R>(std::move(result), facts());
  } catch (...) {
    return Outcome<R>(thread_error(), facts());
  }
}

/// map where every item runs and yields an Outcome.
template <class Caller, class F, class V, class R>
class ThreadCollectJob final : public ThreadJob<ResultJob<std::vector<Outcome<R>>>, ChunkedWork> {
  using Base = ThreadJob<ResultJob<std::vector<Outcome<R>>>, ChunkedWork>;

 public:
  ThreadCollectJob(JobSettings settings, F f, ThreadItems<V> items, Chunker chunker)
      : Base(std::tuple(std::move(settings)), items.size, chunker, true),
        f_(std::move(f)),
        items_(std::move(items)),
        found_(items_.size) {}
  std::vector<Outcome<R>>& result() override { return result_; }
  [[nodiscard]] std::uint64_t items_done() const override { return this->chunk_items_done(); }
  void fail(const Piece& piece, const std::exception_ptr& error) override {
    if (piece.count == 0) this->error_ = error;  // the whole job
    for (std::uint64_t i = 0; i < piece.count; ++i) {
      late_.emplace_back(piece.first + i, Outcome<R>(error, typename Outcome<R>::Facts{}));
    }
  }

 protected:
  void run_chunk(const Piece& chunk, ThreadTurn& turn) override {
    with_callable<ShareableFor<Caller, F, V>::value>(f_, [&](auto& f) {
      for (std::uint64_t i = chunk.first; i < chunk.first + chunk.count && !this->stopped(); ++i) {
        found_[i].emplace(
            outcome_of<R>(turn.tid(), [&]() -> R { return items_.template call<Caller>(f, i); }));
      }
    });
  }
  void prepare() override {
    if (this->error_) return;
    for (auto& [i, outcome] : late_) found_[i].emplace(std::move(outcome));
    result_.reserve(found_.size());
    for (auto& each : found_) result_.push_back(*std::move(each));
    found_.clear();
  }

 private:
  F f_;
  ThreadItems<V> items_;
  std::vector<std::optional<Outcome<R>>> found_;
  std::vector<std::pair<std::uint64_t, Outcome<R>>> late_;  ///< chunks whose time was up
  std::vector<Outcome<R>> result_;
};

/// reduce: partial results of chunks, which the caller combines in item order.
template <class F, class Combine, class V, class T>
class ThreadReduceJob final
    : public ThreadJob<ResultJob<std::vector<std::optional<T>>>, ChunkedWork> {
  using Base = ThreadJob<ResultJob<std::vector<std::optional<T>>>, ChunkedWork>;

 public:
  ThreadReduceJob(JobSettings settings, F f, Combine combine, ThreadItems<V> items,
                  std::uint64_t chunk)
      : Base(std::tuple(std::move(settings)), items.size, Chunker(chunk, false, 1), true),
        f_(std::move(f)),
        combine_(std::move(combine)),
        items_(std::move(items)),
        chunk_(chunk),
        parts_((items_.size + chunk - 1) / chunk) {}
  std::vector<std::optional<T>>& result() override { return parts_; }
  [[nodiscard]] std::uint64_t items_done() const override { return this->chunk_items_done(); }

 protected:
  void run_chunk(const Piece& chunk, ThreadTurn&) override {
    const auto run = [&](auto& f, auto& combine) {
      std::optional<T> total;
      for (std::uint64_t i = chunk.first; i < chunk.first + chunk.count && !this->stopped(); ++i) {
        T value(items_.template call<CallItem>(f, i));
        if (total) {
          total = combine(*std::move(total), std::move(value));
        } else {
          total.emplace(std::move(value));
        }
      }
      parts_[chunk.first / chunk_] = std::move(total);
    };
    with_callable<kShareable<F, V>>(f_, [&](auto& f) {
      with_callable<kShareable<Combine, T, T>>(combine_, [&](auto& combine) { run(f, combine); });
    });
  }

 private:
  F f_;
  Combine combine_;
  ThreadItems<V> items_;
  std::uint64_t chunk_;
  std::vector<std::optional<T>> parts_;
};

/// parallel_for and map_into: Body is called with (f, first, last) once per chunk.
template <bool Shared, class F, class Body>
class ThreadRangeJob final : public ThreadJob<ResultJob<NoneType>, ChunkedWork> {
  using Base = ThreadJob<ResultJob<NoneType>, ChunkedWork>;

 public:
  ThreadRangeJob(JobSettings settings, F f, Body body, std::uint64_t size, std::uint64_t chunk)
      : Base(std::tuple(std::move(settings)), size, Chunker(chunk, false, 1), true),
        f_(std::move(f)),
        body_(std::move(body)) {}
  NoneType& result() override { return none_; }
  [[nodiscard]] std::uint64_t items_done() const override { return this->chunk_items_done(); }

 protected:
  void run_chunk(const Piece& chunk, ThreadTurn&) override {
    with_callable<Shared>(f_, [&](auto& f) { body_(f, chunk.first, chunk.first + chunk.count); });
  }

 private:
  F f_;
  Body body_;
  NoneType none_{};
};

}  // namespace millrace::runtime
