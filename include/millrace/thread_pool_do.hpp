// The bodies of ThreadPool's templates: each turns one call into one job. Included by
// thread_pool.hpp.
#pragma once

#include <exception>
#include <millrace/thread_pool.hpp>
#include <optional>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {
namespace runtime {

template <class Caller, class F, class V>
struct ThreadResultFor : ResultOf<F, V> {};
template <class F, class V>
struct ThreadResultFor<CallUnpacked, F, V> : UnpackedResultOf<F, V> {};
template <class Caller, class F, class V>
using ThreadResult = std::decay_t<typename ThreadResultFor<Caller, F, V>::type>;

/// The items of a call: where they lie, if that is memory and the caller is blocked (Keep = false);
/// else read here and now, on the caller's thread.
template <class V, bool Keep, class R>
ThreadItems<V> thread_items(R&& items) {
  using Range = std::remove_reference_t<R>;
  if constexpr (!Keep && std::ranges::contiguous_range<Range> && std::ranges::sized_range<Range> &&
                std::same_as<std::ranges::range_value_t<Range>, V>) {
    return ThreadItems<V>(std::ranges::data(items),
                          static_cast<std::uint64_t>(std::ranges::size(items)));
  } else if constexpr (std::same_as<std::remove_cvref_t<R>, std::vector<V>> &&
                       std::is_rvalue_reference_v<R&&> && !std::is_const_v<Range>) {
    return ThreadItems<V>(std::vector<V>(std::move(items)));
  } else {
    std::vector<V> kept;
    if constexpr (std::ranges::sized_range<Range&>) {
      kept.reserve(static_cast<std::size_t>(std::ranges::size(items)));
    }
    for (auto&& item : items) kept.emplace_back(std::forward<decltype(item)>(item));
    return ThreadItems<V>(std::move(kept));
  }
}

}  // namespace runtime

template <class Options>
runtime::JobSettings ThreadPool::settings(const Options& options) const {
  core().check_running();
  runtime::JobSettings made{.timeout = options.timeout, .priority = options.priority};
  if constexpr (requires { options.progress; }) made.progress = options.progress;
  if constexpr (requires { options.joblog; }) {
    if (!options.joblog.empty()) {
      throw ValueError(
          "joblog: results of threads are not encoded and cannot be logged; use a Pool");
    }
  }
  return made;
}

// Blocks until the job has ended; gives its result or rethrows its error.
template <class Job>
auto ThreadPool::wait_for(const runtime::Ref<Job>& job) {
  core().submit(job, {});
  core().wait(*job, {});
  if (job->error()) std::rethrow_exception(job->error());
  return std::move(job->result());
}

template <class Item, class Job>
runtime::MapResult<Item> ThreadPool::finish(const runtime::Ref<Job>& job) {
  if constexpr (std::is_void_v<Item>) {
    (void)wait_for(job);
  } else {
    return wait_for(job);
  }
}

template <class F, class... A>
auto ThreadPool::do_apply(const TaskOptions& options, F&& f, A&&... arguments) {
  using Fn = std::decay_t<F>;
  static_assert(wire::CallableWith<Fn, wire::travel_t<A>...>,
                "millrace: the function cannot be called with the arguments given to apply");
  using R = runtime::arrival_t<Fn, wire::travel_t<A>...>;
  auto job = runtime::make_ref<runtime::ThreadApplyJob<R, Fn, wire::travel_t<A>...>>(
      settings(options), std::forward<F>(f), wire::travel_t<A>(std::forward<A>(arguments))...);
  if constexpr (std::is_void_v<R>) {
    (void)wait_for(job);
  } else {
    return wait_for(job);
  }
}

template <class R, class F, class... A>
auto ThreadPool::do_apply_async(const ApplyOptions<R>& options, F&& f, A&&... arguments) {
  auto made = settings(options);
  made.asynchronous = true;
  auto job = runtime::make_ref<runtime::ThreadApplyJob<R, std::decay_t<F>, wire::travel_t<A>...>>(
      std::move(made), std::forward<F>(f), wire::travel_t<A>(std::forward<A>(arguments))...);
  job->callback = options.callback;
  job->error_callback = options.error_callback;
  core().submit(job, {});
  return AsyncResult<R>(core_, std::move(job));
}

template <class Caller, bool Keep, class F, class R, class Options>
auto ThreadPool::make_map(F f, R&& items, const Options& options) {
  using V = runtime::ItemOf<R>;
  using Item = runtime::ThreadResult<Caller, F, V>;
  auto made = settings(options);
  made.asynchronous = Keep;
  auto source = runtime::thread_items<V, Keep>(std::forward<R>(items));
  made.total = source.size;
  const int workers = core().workers();
  const std::uint64_t chunk = runtime::chunk_of(options.chunksize, source.size, workers,
                                                runtime::default_chunk(source.size, workers));
  return runtime::make_ref<runtime::ThreadMapJob<Caller, F, V, Item>>(
      std::move(made), std::move(f), std::move(source),
      runtime::Chunker(chunk, options.chunksize.guided(), workers), !Keep);
}

template <class Caller, bool Keep, class F, class R, class Options>
auto ThreadPool::make_collect(F f, R&& items, const Options& options) {
  using V = runtime::ItemOf<R>;
  using Item = runtime::Valued<runtime::ThreadResult<Caller, F, V>>;
  auto made = settings(options);
  made.asynchronous = Keep;
  auto source = runtime::thread_items<V, Keep>(std::forward<R>(items));
  made.total = source.size;
  const int workers = core().workers();
  const std::uint64_t chunk = runtime::chunk_of(options.chunksize, source.size, workers,
                                                runtime::default_chunk(source.size, workers));
  return runtime::make_ref<runtime::ThreadCollectJob<Caller, F, V, Item>>(
      std::move(made), std::move(f), std::move(source),
      runtime::Chunker(chunk, options.chunksize.guided(), workers));
}

template <class Caller, class F, class R>
auto ThreadPool::do_map(F f, R&& items, const MapOptions& options) {
  return finish<runtime::ThreadResult<Caller, F, runtime::ItemOf<R>>>(
      make_map<Caller, false>(std::move(f), std::forward<R>(items), options));
}

template <class Caller, class F, class R>
auto ThreadPool::do_collect(F f, R&& items, const CollectOptions& options) {
  return wait_for(make_collect<Caller, false>(std::move(f), std::forward<R>(items), options));
}

template <class Caller, class F, class R, class Options>
auto ThreadPool::do_map_async(F f, R&& items, const Options& options) {
  using Item = runtime::ThreadResult<Caller, F, runtime::ItemOf<R>>;
  auto job = make_map<Caller, true>(std::move(f), std::forward<R>(items), options);
  job->callback = options.callback;
  job->error_callback = options.error_callback;
  core().submit(job, {});
  return AsyncResult<runtime::MapResult<Item>>(core_, std::move(job));
}

template <class Caller, class F, class R, class Options>
auto ThreadPool::do_collect_async(F f, R&& items, const Options& options) {
  using Item = runtime::Valued<runtime::ThreadResult<Caller, F, runtime::ItemOf<R>>>;
  auto job = make_collect<Caller, true>(std::move(f), std::forward<R>(items), options);
  job->callback = options.callback;
  job->error_callback = options.error_callback;
  core().submit(job, {});
  return AsyncResult<std::vector<Outcome<Item>>>(core_, std::move(job));
}

template <bool Collect, class F, class R, class Options>
auto ThreadPool::do_imap(F f, R&& items, const Options& options, bool ordered) {
  using V = runtime::ItemOf<R>;
  using Item = runtime::ThreadResult<runtime::CallItem, F, V>;
  // An rvalue range is kept, an lvalue one referred to.
  using Source = std::conditional_t<std::is_lvalue_reference_v<R>, std::remove_reference_t<R>*,
                                    std::remove_cvref_t<R>>;
  auto made = settings(options);
  made.caller_feeds = true;
  const auto workers = static_cast<std::uint64_t>(core().workers());
  const std::uint64_t chunk = runtime::chunk_of(options.chunksize, 0, core().workers(), 1);
  const std::uint64_t window =
      options.window != 0 ? runtime::larger(options.window, chunk) : 16 * workers * chunk;
  auto make_job = [&](Source source) {
    return runtime::make_ref<runtime::ThreadImapJob<F, Source, V, runtime::Valued<Item>>>(
        std::move(made), std::move(f), std::move(source), chunk, window, ordered);
  };
  auto job = [&] {
    if constexpr (std::is_lvalue_reference_v<R>) {
      return make_job(&items);
    } else {
      return make_job(std::forward<R>(items));
    }
  }();
  core().submit(job, {});
  return ImapIterator<Item, Collect>(core_, std::move(job));
}

template <bool Shared, class F, class Body>
void ThreadPool::run_range(F f, Body body, std::uint64_t size, const MapOptions& options) {
  auto made = settings(options);
  made.total = size;
  const auto workers = static_cast<std::uint64_t>(core().workers());
  const std::uint64_t chunk =
      runtime::chunk_of(options.chunksize, size, core().workers(),
                        runtime::larger(1, (size + 32 * workers - 1) / (32 * workers)));
  if (size == 0) return;
  (void)wait_for(runtime::make_ref<runtime::ThreadRangeJob<Shared, F, Body>>(
      std::move(made), std::move(f), std::move(body), size, chunk));
}

template <class F, class In, class Out>
void ThreadPool::map_into(F f, In&& in, Out&& out, const MapOptions& options) {
  static_assert(std::ranges::contiguous_range<In> && std::ranges::sized_range<In> &&
                    std::ranges::contiguous_range<Out> && std::ranges::sized_range<Out>,
                "millrace: map_into needs contiguous ranges (a vector, an array, a span, a "
                "shared_array)");
  using V = std::ranges::range_value_t<In>;
  using R = std::ranges::range_value_t<Out>;
  (void)runtime::check_items<runtime::CallItem, F, V>();
  static_assert(std::is_convertible_v<wire::invoke_result_t<F, V>, R>,
                "millrace: the function's result does not convert to the output's element type");
  const auto size = static_cast<std::uint64_t>(std::ranges::size(in));
  if (size != std::ranges::size(out)) {
    throw ValueError("map_into: the input has " + std::to_string(size) + " items and the output " +
                     std::to_string(std::ranges::size(out)) + "; they must be of one size");
  }
  const V* from = std::ranges::data(in);
  R* to = std::ranges::data(out);
  run_range<runtime::kShareable<F, V>>(
      std::move(f),
      [from, to](auto& function, std::uint64_t first, std::uint64_t last) {
        for (std::uint64_t i = first; i < last; ++i) {
          V item = from[i];
          to[i] = static_cast<R>(wire::call(function, item));
        }
      },
      size, options);
}

template <class F>
void ThreadPool::parallel_for(std::uint64_t first, std::uint64_t last, F f,
                              const MapOptions& options) {
  constexpr bool kByChunk = std::is_invocable_v<F&, std::size_t, std::size_t>;
  static_assert(std::is_invocable_v<F&, std::size_t> || kByChunk,
                "millrace: parallel_for calls f(i), or f(first, last) once per chunk");
  constexpr bool kShared = std::is_invocable_v<const F&, std::size_t> ||
                           std::is_invocable_v<const F&, std::size_t, std::size_t>;
  run_range<kShared && !runtime::kIsPartial<F>>(
      std::move(f),
      [first](auto& function, std::uint64_t from, std::uint64_t to) {
        if constexpr (kByChunk) {
          function(static_cast<std::size_t>(first + from), static_cast<std::size_t>(first + to));
        } else {
          for (std::uint64_t i = from; i < to; ++i) function(static_cast<std::size_t>(first + i));
        }
      },
      runtime::range_size(first, last), options);
}

template <class F, class Combine, class T, class R>
T ThreadPool::reduce(F f, Combine combine, T init, R&& items, const MapOptions& options) {
  using V = runtime::ItemOf<R>;
  if constexpr (runtime::check_reduce<F, Combine, T, V>()) {
    auto made = settings(options);
    auto source = runtime::thread_items<V, false>(std::forward<R>(items));
    made.total = source.size;
    const std::uint64_t chunk =
        runtime::chunk_of(options.chunksize, source.size, core().workers(),
                          runtime::default_chunk(source.size, core().workers()));
    Combine here(combine);
    auto parts = wait_for(runtime::make_ref<runtime::ThreadReduceJob<F, Combine, V, T>>(
        std::move(made), std::move(f), std::move(combine), std::move(source), chunk));
    for (std::optional<T>& part : parts) init = here(std::move(init), *std::move(part));
  }
  return init;
}

}  // namespace millrace
