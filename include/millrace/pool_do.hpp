// The bodies of Pool's templates: each turns one call into one job. Included by pool.hpp.
#pragma once

#include <exception>
#include <millrace/pool.hpp>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {
namespace runtime {

template <class Caller, class F, class V>
struct ResultFor : ResultOf<F, V> {};
template <class F, class V>
struct ResultFor<CallUnpacked, F, V> : UnpackedResultOf<F, V> {};

template <class Caller, class F, class V>
using Result = std::decay_t<typename ResultFor<Caller, F, V>::type>;

template <class Caller, class F, class V>
consteval void check_map() {
  (void)wire::check_sendable<F>();
  (void)wire::check_serializable<V>();
  (void)wire::check_serializable<Valued<Result<Caller, F, V>>>();
}

/// The items of a call as something random-access that a job can read: a pointer to the caller's
/// range while the caller is blocked (Keep = false), else a container of its own.
template <class V, bool Keep, class R>
auto items_of(R&& items) {
  using Input = std::remove_cvref_t<R>;
  constexpr bool indexed = std::ranges::random_access_range<Input> &&
                           std::ranges::sized_range<Input> &&
                           std::ranges::random_access_range<std::remove_reference_t<R>&>;
  if constexpr (indexed && !Keep) {
    return &items;
  } else if constexpr (std::same_as<Input, std::vector<V>> && std::is_rvalue_reference_v<R&&>) {
    return std::vector<V>(std::move(items));
  } else {
    std::vector<V> kept;
    if constexpr (std::ranges::sized_range<std::remove_reference_t<R>&>) {
      kept.reserve(static_cast<std::size_t>(std::ranges::size(items)));
    }
    for (auto&& item : items) kept.emplace_back(std::forward<decltype(item)>(item));
    return kept;
  }
}

/// Bulk: bytes in, bytes out, no encoding.
template <class R, class V>
concept BulkInput = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
    std::same_as<std::ranges::range_value_t<R>, V> && wire::kBitwise<V> &&
    std::is_default_constructible_v<V>;
template <class R>
concept BulkResult = wire::kBitwise<R>;

template <class Caller, class V, class Item, class F>
MapResult<Item> bulk_map(PoolCore& core, const F& f, std::span<const V> items,
                         const MapOptions& options) {
  using R = Valued<Item>;
  EntryPoint entry = entry_point<BulkEntry<Caller, F, V>>();
  if (in_arena(items.data(), items.size() * sizeof(V))) {
    entry.id = entry_point<BulkInPlaceEntry<Caller, F, V>>().id;
  }
  BulkMap map{.items = items.data(),
              .size = items.size(),
              .item_bytes = sizeof(V),
              .result_bytes = sizeof(R)};
  MapPlan plan = plan_map(core, wishes_of(options), entry, map.size);
  if constexpr (std::is_void_v<Item>) {
    run_bulk_map(core, map, std::move(plan), make_context({}, f));
  } else {
    std::vector<R> results;
    results.reserve(map.size);
    map.results = &results;
    map.append = &append_bulk<R>;
    run_bulk_map(core, map, std::move(plan), make_context({}, f));
    return results;
  }
}

/// The sizes of map_into's ranges; ValueError where they do not go together.
void check_map_into(const BulkInto& map, std::uint64_t results, const MapOptions& options);

}  // namespace runtime

template <class R, class Options, class F, class... A>
auto Pool::start_apply(const Options& options, bool asynchronous, F&& f, A&&... arguments) {
  using Fn = std::decay_t<F>;
  (void)wire::check_sendable<Fn>();
  (void)(wire::check_serializable<wire::travel_t<A>>() && ... && true);
  (void)wire::check_serializable<runtime::Valued<R>>();
  runtime::JobSettings made{
      .entry = runtime::entry_point<runtime::ApplyEntry<Fn, wire::travel_t<A>...>>().id,
      .timeout = options.timeout,
      .retries = options.retries,
      .priority = options.priority,
      .node = options.node,
      .asynchronous = asynchronous,
      .total = 1};
  core().check_running();
  auto job = runtime::make_ref<runtime::ApplyJob<R, Fn, wire::travel_t<A>...>>(
      std::move(made), std::forward<F>(f), wire::travel_t<A>(std::forward<A>(arguments))...);
  return job;
}

template <class F, class... A>
auto Pool::do_apply(const TaskOptions& options, F&& f, A&&... arguments) {
  static_assert(wire::CallableWith<std::decay_t<F>, wire::travel_t<A>...>,
                "millrace: the function cannot be called with the arguments given to apply");
  using R = runtime::arrival_t<std::decay_t<F>, wire::travel_t<A>...>;
  auto job = start_apply<std::decay_t<R>>(options, false, std::forward<F>(f),
                                          std::forward<A>(arguments)...);
  core().submit(job, {});
  if constexpr (std::is_void_v<R>) {
    (void)wait_for(job);
  } else {
    return wait_for(job);
  }
}

template <class R, class F, class... A>
auto Pool::do_apply_async(const ApplyOptions<R>& options, F&& f, A&&... arguments) {
  auto job = start_apply<std::decay_t<R>>(options, true, std::forward<F>(f),
                                          std::forward<A>(arguments)...);
  job->callback = options.callback;
  job->error_callback = options.error_callback;
  core().submit(job, {});
  return AsyncResult<std::decay_t<R>>(core_, std::move(job));
}

template <class Caller, class F, class R>
auto Pool::do_map(F f, R&& items, const MapOptions& options) {
  using V = runtime::ItemOf<R>;
  using Input = std::remove_reference_t<R>;
  runtime::check_map<Caller, F, V>();
  using Item = runtime::Result<Caller, F, V>;
  if constexpr (runtime::BulkInput<Input, V> && runtime::BulkResult<runtime::Valued<Item>>) {
    return runtime::bulk_map<Caller, V, Item>(
        core(), f, std::span<const V>(std::ranges::data(items), std::ranges::size(items)), options);
  } else {
    auto source = runtime::items_of<V, false>(std::forward<R>(items));
    using Source = runtime::ItemSource<decltype(source), V>;
    auto plan = runtime::plan_map(core(), runtime::wishes_of(options),
                                  runtime::entry_point<runtime::MapEntry<Caller, F, V>>(),
                                  Source::size_of(source));
    auto job = runtime::make_ref<runtime::MapJob<decltype(source), V, Item>>(
        std::move(plan.settings), std::move(source), plan.chunker);
    runtime::submit_job(core(), job, runtime::make_context({}, f));
    return finish<Item>(job);
  }
}

template <class Caller, class F, class R>
auto Pool::do_collect(F f, R&& items, const CollectOptions& options) {
  using V = runtime::ItemOf<R>;
  runtime::check_map<Caller, F, V>();
  using Item = runtime::Valued<runtime::Result<Caller, F, V>>;
  auto source = runtime::items_of<V, false>(std::forward<R>(items));
  using Source = runtime::ItemSource<decltype(source), V>;
  auto plan = runtime::plan_map(core(), runtime::wishes_of(options),
                                runtime::entry_point<runtime::OutcomeEntry<Caller, F, V>>(),
                                Source::size_of(source));
  auto job = runtime::make_ref<runtime::CollectJob<decltype(source), V, Item>>(
      std::move(plan.settings), std::move(source), plan.chunker);
  runtime::submit_job(core(), job, runtime::make_context({}, f));
  return wait_for(job);
}

template <class Caller, class F, class R, class Options>
auto Pool::do_map_async(F f, R&& items, const Options& options) {
  using V = runtime::ItemOf<R>;
  runtime::check_map<Caller, F, V>();
  using Item = runtime::Result<Caller, F, V>;
  core().check_running();
  auto source = runtime::items_of<V, true>(std::forward<R>(items));
  auto plan =
      runtime::plan_map(core(), runtime::wishes_of(options),
                        runtime::entry_point<runtime::MapEntry<Caller, F, V>>(), source.size());
  plan.settings.asynchronous = true;
  auto job = runtime::make_ref<runtime::MapJob<std::vector<V>, V, Item>>(
      std::move(plan.settings), std::move(source), plan.chunker);
  job->callback = options.callback;
  job->error_callback = options.error_callback;
  runtime::submit_job(core(), job, runtime::make_context({}, f));
  return AsyncResult<runtime::MapResult<Item>>(core_, std::move(job));
}

template <class Caller, class F, class R, class Options>
auto Pool::do_collect_async(F f, R&& items, const Options& options) {
  using V = runtime::ItemOf<R>;
  runtime::check_map<Caller, F, V>();
  using Item = runtime::Valued<runtime::Result<Caller, F, V>>;
  core().check_running();
  auto source = runtime::items_of<V, true>(std::forward<R>(items));
  auto plan =
      runtime::plan_map(core(), runtime::wishes_of(options),
                        runtime::entry_point<runtime::OutcomeEntry<Caller, F, V>>(), source.size());
  plan.settings.asynchronous = true;
  auto job = runtime::make_ref<runtime::CollectJob<std::vector<V>, V, Item>>(
      std::move(plan.settings), std::move(source), plan.chunker);
  job->callback = options.callback;
  job->error_callback = options.error_callback;
  runtime::submit_job(core(), job, runtime::make_context({}, f));
  return AsyncResult<std::vector<Outcome<Item>>>(core_, std::move(job));
}

template <bool Collect, class F, class R, class Options>
auto Pool::do_imap(F f, R&& items, const Options& options, bool ordered) {
  using V = runtime::ItemOf<R>;
  runtime::check_map<runtime::CallItem, F, V>();
  using Item = runtime::Result<runtime::CallItem, F, V>;
  core().check_running();
  // An rvalue range is kept, an lvalue one referred to.
  using Source = std::conditional_t<std::is_lvalue_reference_v<R>, std::remove_reference_t<R>*,
                                    std::remove_cvref_t<R>>;
  auto made =
      runtime::job_settings(runtime::wishes_of(options),
                            runtime::entry_point<runtime::OutcomeEntry<runtime::CallItem, F, V>>());
  made.caller_feeds = true;
  const std::uint64_t chunk = runtime::chunk_of(options.chunksize, 0, core().workers(), 1);
  made.chunk = chunk;
  const std::uint64_t window = options.window != 0
                                   ? runtime::larger(options.window, chunk)
                                   : 16 * static_cast<std::uint64_t>(core().workers()) * chunk;
  auto make_job = [&](Source source) {
    return runtime::make_ref<runtime::ImapJob<Source, V, runtime::Valued<Item>>>(
        std::move(made), std::move(source), chunk, window, ordered);
  };
  auto job = [&] {
    if constexpr (std::is_lvalue_reference_v<R>) {
      return make_job(&items);
    } else {
      return make_job(std::forward<R>(items));
    }
  }();
  runtime::submit_job(core(), job, runtime::make_context({}, f));
  return ImapIterator<Item, Collect>(core_, std::move(job));
}

template <class F, class In, class Out>
void Pool::map_into(F f, In&& in, Out&& out, const MapOptions& options) {
  static_assert(std::ranges::contiguous_range<In> && std::ranges::sized_range<In> &&
                    std::ranges::contiguous_range<Out> && std::ranges::sized_range<Out>,
                "millrace: map_into needs contiguous ranges (a vector, an array, a span, a "
                "shared_array)");
  using V = std::ranges::range_value_t<In>;
  using R = std::ranges::range_value_t<Out>;
  (void)runtime::check_items<runtime::CallItem, F, V>();
  runtime::check_map<runtime::CallItem, F, V>();
  static_assert(std::is_convertible_v<wire::invoke_result_t<F, V>, R>,
                "millrace: the function's result does not convert to the output's element type");
  const runtime::BulkInto call{.items = std::ranges::data(in),
                               .results = std::ranges::data(out),
                               .size = std::ranges::size(in),
                               .item_bytes = sizeof(V),
                               .result_bytes = sizeof(R)};
  runtime::check_map_into(call, std::ranges::size(out), options);
  core().check_running();
  if constexpr (wire::kBitwise<V> && wire::kBitwise<R> && std::is_default_constructible_v<V>) {
    const bool shared = runtime::in_arena(call.items, call.size * sizeof(V)) &&
                        runtime::in_arena(call.results, call.size * sizeof(R));
    if (shared && options.joblog.empty()) {
      const runtime::IntoPlace place{reinterpret_cast<std::uint64_t>(call.items),
                                     reinterpret_cast<std::uint64_t>(call.results)};
      const auto prefix = std::span(reinterpret_cast<const std::byte*>(&place), sizeof place);
      runtime::RangeCall range{.entry = runtime::entry_point<runtime::MapIntoEntry<F, V, R>>().id,
                               .last = call.size};
      if (!plan_range(range, options)) return;
      const auto context = runtime::make_context(prefix, f);
      range.context = context->bytes();
      core().run_range(range);
      return;
    }
    if (options.joblog.empty()) {  // a joblog keeps results: then they travel, as map's do
      auto plan =
          runtime::plan_map(core(), runtime::wishes_of(options),
                            runtime::entry_point<runtime::BulkIntoEntry<F, V, R>>(), call.size);
      runtime::run_bulk_into(core(), call, std::move(plan), runtime::make_context({}, f));
      return;
    }
  }
  auto results = map(std::move(f), std::forward<In>(in), options);
  auto from = results.begin();  // as many as there are places; said so, a compiler believes it
  for (auto& place : std::span(std::ranges::data(out), std::ranges::size(out))) {
    place = static_cast<R>(std::move(*from++));
  }
}

template <class F>
void Pool::parallel_for(std::uint64_t first, std::uint64_t last, F f, const MapOptions& options) {
  static_assert(
      std::is_invocable_v<F&, std::size_t> || std::is_invocable_v<F&, std::size_t, std::size_t>,
      "millrace: parallel_for calls f(i), or f(first, last) once per chunk");
  (void)wire::check_sendable<F>();
  runtime::RangeCall range{.entry = runtime::entry_point<runtime::ParallelForEntry<F>>().id,
                           .first = first,
                           .last = last};
  if (!plan_range(range, options)) return;
  if constexpr (wire::kCallableKind<F> == wire::CallableKind::empty) {
    core().run_range(range);
  } else {
    const auto context = runtime::make_context({}, f);
    range.context = context->bytes();
    core().run_range(range);
  }
}

template <class F, class Combine, class T, class R>
T Pool::reduce(F f, Combine combine, T init, R&& items, const MapOptions& options) {
  using V = runtime::ItemOf<R>;
  using Input = std::remove_reference_t<R>;
  if constexpr (runtime::check_reduce<F, Combine, T, V>()) {
    runtime::check_map<runtime::CallItem, F, V>();
    (void)wire::check_sendable<Combine>();
    (void)wire::check_serializable<T>();
    using Entry = runtime::ReduceEntry<F, Combine, V, T>;
    auto source = runtime::items_of<V, false>(std::forward<R>(items));
    using Source = runtime::ItemSource<decltype(source), V>;
    auto plan = runtime::plan_map(core(), runtime::wishes_of(options),
                                  runtime::entry_point<Entry>(), Source::size_of(source));
    auto job = runtime::make_ref<runtime::ReduceJob<decltype(source), V, T>>(
        std::move(plan.settings), source, plan.chunk);
    if constexpr (runtime::BulkInput<Input, V>) {
      job->contiguous(std::ranges::data(items), sizeof(V));
    }
    runtime::submit_job(core(), job, runtime::make_context({}, f, combine));
    for (std::optional<T>& part : wait_for(job)) init = combine(std::move(init), *std::move(part));
  }
  return init;
}

}  // namespace millrace
