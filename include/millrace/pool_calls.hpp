// Every form in which the calls of a pool can be written, for pools of processes and of threads.
// Each form does nothing but name its arguments and pass them to one of the `do_` functions of the
// pool that it belongs to.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <millrace/callable.hpp>
#include <millrace/pool_entries.hpp>
#include <millrace/pool_options.hpp>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

template <class R>
using ItemOf = wire::travel_t<std::ranges::range_value_t<R>>;

/// The result of F on an item of type V; NoneType where it cannot be called, so that the call's own
/// static_assert can say so in a sentence.
template <class F, class V>
struct ResultOf {
  using type = NoneType;
};
template <class F, class V>
requires wire::CallableWith<F, V>
struct ResultOf<F, V> {
  using type = arrival_t<F, V>;
};

/// A tuple, a pair, an array: what a starmap takes apart.
template <class V>
concept Unpackable = requires {
  std::tuple_size<V>::value;
};
template <class V>
inline constexpr std::size_t kElements = 0;
template <Unpackable V>
inline constexpr std::size_t kElements<V> = std::tuple_size_v<V>;

/// The same for a tuple-like V whose elements are the arguments.
template <class F, class V, class = std::make_index_sequence<kElements<V>>>
struct UnpackedResultOf;
template <class F, class V, std::size_t... I>
struct UnpackedResultOf<F, V, std::index_sequence<I...>> {
  static consteval bool can_be_called() {
    if constexpr (Unpackable<V>) return wire::CallableWith<F, std::tuple_element_t<I, V>...>;
    return false;
  }
  static auto probe() {
    if constexpr (can_be_called()) {
      return std::type_identity<arrival_t<F, std::tuple_element_t<I, V>...>>();
    } else {
      return std::type_identity<NoneType>();
    }
  }
  using type = typename decltype(probe())::type;
};

/// Whether F, as a Caller calls it, can be called with an item of type V. Where it cannot a
/// sentence says so, and the caller leaves the call out, which would say it once more in pages.
template <class Caller, class F, class V>
consteval bool check_items() {
  if constexpr (std::same_as<Caller, CallItem>) {
    static_assert(wire::CallableWith<F, V>,
                  "millrace: the function of a map cannot be called with an item of the range");
    return wire::CallableWith<F, V>;
  } else {
    static_assert(
        Unpackable<V>,
        "millrace: the items of a starmap are tuples, pairs or arrays, whose elements are "
        "the arguments");
    static_assert(!Unpackable<V> || UnpackedResultOf<F, V>::can_be_called(),
                  "millrace: the function of a starmap cannot be called with the elements of an "
                  "item");
    return UnpackedResultOf<F, V>::can_be_called();
  }
}

/// The same for the functions of a reduce over items of type V from a T on.
template <class F, class Combine, class T, class V>
consteval bool check_reduce() {
  constexpr bool kCombines = std::is_invocable_r_v<T, Combine&, T, T>;
  static_assert(kCombines,
                "millrace: combine takes two partial results and gives one of the same type");
  if constexpr (check_items<CallItem, F, V>()) {
    constexpr bool kStarts = std::is_constructible_v<T, wire::invoke_result_t<F, V>>;
    static_assert(kStarts,
                  "millrace: the result of reduce's function does not convert to the type of init");
    return kCombines && kStarts;
  }
  return false;
}

template <class R>
using MapResult = std::conditional_t<std::is_void_v<R>, void, std::vector<Valued<R>>>;
template <class F, class V>
using MapOf = MapResult<typename ResultOf<F, V>::type>;
template <class F, class V>
using StarmapOf = MapResult<typename UnpackedResultOf<F, V>::type>;
template <class F, class V>
using CollectOf = std::vector<Outcome<Valued<typename ResultOf<F, V>::type>>>;
template <class F, class V>
using CollectStarOf = std::vector<Outcome<Valued<typename UnpackedResultOf<F, V>::type>>>;

/// A braced list of T for a starmap of F is no list of F's arguments: items of T convert to none.
template <class F, class T>
concept OwnItems = !wire::HasArguments<F> || !std::convertible_to<T, wire::arguments_of<F>>;

/// Ranges that a map can read; options and plain numbers are none.
template <class R>
concept Input = std::ranges::input_range<R>;

template <class Self>
class PoolCalls {
 public:
  // apply

  /// Runs f(args...) in a worker and gives its result; rethrows what it threw. Blocks.
  /// Python: Pool.apply.
  template <class F, class... A>
  requires(!std::same_as<std::remove_cvref_t<F>, TaskOptions>) auto apply(F&& f, A&&... arguments) {
    return self().do_apply(TaskOptions{}, std::forward<F>(f), std::forward<A>(arguments)...);
  }
  template <class F, class... A>
  auto apply(const TaskOptions& options, F&& f, A&&... arguments) {
    return self().do_apply(options, std::forward<F>(f), std::forward<A>(arguments)...);
  }
  /// Starts f(args...) in a worker. Python: Pool.apply_async.
  template <class F, class... A>
  requires wire::CallableWith<std::decay_t<F>, wire::travel_t<A>...>
  auto apply_async(F&& f, A&&... arguments) {
    return self().do_apply_async(ApplyOptions<arrival_t<std::decay_t<F>, wire::travel_t<A>...>>{},
                                 std::forward<F>(f), std::forward<A>(arguments)...);
  }
  template <class F, class... A>
  auto apply_async(const ApplyOptions<arrival_t<std::decay_t<F>, wire::travel_t<A>...>>& options,
                   F&& f, A&&... arguments) {
    return self().do_apply_async(options, std::forward<F>(f), std::forward<A>(arguments)...);
  }

  // map

  /// f on every item, in parallel; the results in input order. Blocks; rethrows the first failure
  /// to arrive once every chunk has ended. Python: Pool.map.
  template <class F, Input R>
  auto map(F f, R&& items, const MapOptions& options = {}) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_map<CallItem>(std::move(f), std::forward<R>(items), options);
    }
  }
  template <class F, Input R>
  auto map(F f, R&& items, const CollectOptions& options) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_collect<CallItem>(std::move(f), std::forward<R>(items), options);
    }
  }
  template <class F, Input R>
  auto map(F f, R&& items, std::integral auto chunksize) {
    return map(std::move(f), std::forward<R>(items), MapOptions{.chunksize = chunksize});
  }
  template <class F, class T>
  auto map(F f, std::initializer_list<T> items, const MapOptions& options = {}) {
    return map(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto map(F f, std::initializer_list<T> items, const CollectOptions& options) {
    return map(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto map(F f, std::initializer_list<T> items, std::integral auto chunksize) {
    return map(std::move(f), own(items), chunksize);
  }

  // starmap

  /// As map, the elements of each tuple-like item being the arguments. Python: Pool.starmap.
  template <class F, Input R>
  auto starmap(F f, R&& items, const MapOptions& options = {}) {
    if constexpr (check_items<CallUnpacked, F, ItemOf<R>>()) {
      return self().template do_map<CallUnpacked>(std::move(f), std::forward<R>(items), options);
    }
  }
  template <class F, Input R>
  auto starmap(F f, R&& items, const CollectOptions& options) {
    if constexpr (check_items<CallUnpacked, F, ItemOf<R>>()) {
      return self().template do_collect<CallUnpacked>(std::move(f), std::forward<R>(items),
                                                      options);
    }
  }
  template <class F, Input R>
  auto starmap(F f, R&& items, std::integral auto chunksize) {
    return starmap(std::move(f), std::forward<R>(items), MapOptions{.chunksize = chunksize});
  }
  template <class F>
  auto starmap(F f, std::initializer_list<wire::arguments_of<F>> items,
               const MapOptions& options = {}) {
    return starmap(std::move(f), own(items), options);
  }
  template <class F>
  auto starmap(F f, std::initializer_list<wire::arguments_of<F>> items,
               const CollectOptions& options) {
    return starmap(std::move(f), own(items), options);
  }
  template <class F>
  auto starmap(F f, std::initializer_list<wire::arguments_of<F>> items,
               std::integral auto chunksize) {
    return starmap(std::move(f), own(items), chunksize);
  }
  /// Items that say what they are: {std::pair{1, 2}, ...}.
  template <class F, class T>
  requires OwnItems<F, T>
  auto starmap(F f, std::initializer_list<T> items, const MapOptions& options = {}) {
    return starmap(std::move(f), own(items), options);
  }
  template <class F, class T>
  requires OwnItems<F, T>
  auto starmap(F f, std::initializer_list<T> items, const CollectOptions& options) {
    return starmap(std::move(f), own(items), options);
  }
  template <class F, class T>
  requires OwnItems<F, T>
  auto starmap(F f, std::initializer_list<T> items, std::integral auto chunksize) {
    return starmap(std::move(f), own(items), chunksize);
  }
  /// {{1, 2}, {3, 4}} for a function that does not say what its arguments are.
  template <class F, class T, std::size_t Items, std::size_t Each>
  requires(!wire::HasArguments<F>) auto starmap(F f, const T (&items)[Items][Each],
                                                const MapOptions& options = {}) {
    return starmap(std::move(f), own_rows(items), options);
  }
  template <class F, class T, std::size_t Items, std::size_t Each>
  requires(!wire::HasArguments<F>) auto starmap(F f, const T (&items)[Items][Each],
                                                const CollectOptions& options) {
    return starmap(std::move(f), own_rows(items), options);
  }
  template <class F, class T, std::size_t Items, std::size_t Each>
  requires(!wire::HasArguments<F>) auto starmap(F f, const T (&items)[Items][Each],
                                                std::integral auto chunksize) {
    return starmap(std::move(f), own_rows(items), chunksize);
  }

  // imap, imap_unordered

  /// The results as they are ready, in input order; the input is read lazily. Python: Pool.imap.
  template <class F, Input R>
  auto imap(F f, R&& items, const MapOptions& options = {}) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_imap<false>(std::move(f), std::forward<R>(items), options, true);
    }
  }
  template <class F, Input R>
  auto imap(F f, R&& items, const CollectOptions& options) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_imap<true>(std::move(f), std::forward<R>(items), options, true);
    }
  }
  template <class F, Input R>
  auto imap(F f, R&& items, std::integral auto chunksize) {
    return imap(std::move(f), std::forward<R>(items), MapOptions{.chunksize = chunksize});
  }
  template <class F, class T>
  auto imap(F f, std::initializer_list<T> items, const MapOptions& options = {}) {
    return imap(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto imap(F f, std::initializer_list<T> items, const CollectOptions& options) {
    return imap(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto imap(F f, std::initializer_list<T> items, std::integral auto chunksize) {
    return imap(std::move(f), own(items), chunksize);
  }
  /// As imap, in the order in which results arrive. Python: Pool.imap_unordered.
  template <class F, Input R>
  auto imap_unordered(F f, R&& items, const MapOptions& options = {}) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_imap<false>(std::move(f), std::forward<R>(items), options, false);
    }
  }
  template <class F, Input R>
  auto imap_unordered(F f, R&& items, const CollectOptions& options) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_imap<true>(std::move(f), std::forward<R>(items), options, false);
    }
  }
  template <class F, Input R>
  auto imap_unordered(F f, R&& items, std::integral auto chunksize) {
    return imap_unordered(std::move(f), std::forward<R>(items), MapOptions{.chunksize = chunksize});
  }
  template <class F, class T>
  auto imap_unordered(F f, std::initializer_list<T> items, const MapOptions& options = {}) {
    return imap_unordered(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto imap_unordered(F f, std::initializer_list<T> items, const CollectOptions& options) {
    return imap_unordered(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto imap_unordered(F f, std::initializer_list<T> items, std::integral auto chunksize) {
    return imap_unordered(std::move(f), own(items), chunksize);
  }

  // map_async, starmap_async

  /// Starts a map; the input has been read when the call returns. Python: Pool.map_async.
  template <class F, Input R>
  auto map_async(F f, R&& items, const MapAsyncOptions<MapOf<F, ItemOf<R>>>& options = {}) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_map_async<CallItem>(std::move(f), std::forward<R>(items), options);
    }
  }
  template <class F, Input R>
  auto map_async(F f, R&& items, const CollectAsyncOptions<CollectOf<F, ItemOf<R>>>& options) {
    if constexpr (check_items<CallItem, F, ItemOf<R>>()) {
      return self().template do_collect_async<CallItem>(std::move(f), std::forward<R>(items),
                                                        options);
    }
  }
  template <class F, Input R>
  auto map_async(F f, R&& items, std::integral auto chunksize) {
    return map_async(std::move(f), std::forward<R>(items),
                     MapAsyncOptions<MapOf<F, ItemOf<R>>>{.chunksize = chunksize});
  }
  template <class F, class T>
  auto map_async(F f, std::initializer_list<T> items,
                 const MapAsyncOptions<MapOf<F, wire::travel_t<T>>>& options = {}) {
    return map_async(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto map_async(F f, std::initializer_list<T> items,
                 const CollectAsyncOptions<CollectOf<F, wire::travel_t<T>>>& options) {
    return map_async(std::move(f), own(items), options);
  }
  template <class F, class T>
  auto map_async(F f, std::initializer_list<T> items, std::integral auto chunksize) {
    return map_async(std::move(f), own(items), chunksize);
  }
  /// Starts a starmap. Python: Pool.starmap_async.
  template <class F, Input R>
  auto starmap_async(F f, R&& items, const MapAsyncOptions<StarmapOf<F, ItemOf<R>>>& options = {}) {
    if constexpr (check_items<CallUnpacked, F, ItemOf<R>>()) {
      return self().template do_map_async<CallUnpacked>(std::move(f), std::forward<R>(items),
                                                        options);
    }
  }
  template <class F, Input R>
  auto starmap_async(F f, R&& items,
                     const CollectAsyncOptions<CollectStarOf<F, ItemOf<R>>>& options) {
    if constexpr (check_items<CallUnpacked, F, ItemOf<R>>()) {
      return self().template do_collect_async<CallUnpacked>(std::move(f), std::forward<R>(items),
                                                            options);
    }
  }
  template <class F, Input R>
  auto starmap_async(F f, R&& items, std::integral auto chunksize) {
    return starmap_async(std::move(f), std::forward<R>(items),
                         MapAsyncOptions<StarmapOf<F, ItemOf<R>>>{.chunksize = chunksize});
  }
  template <class F>
  auto starmap_async(F f, std::initializer_list<wire::arguments_of<F>> items,
                     const MapAsyncOptions<StarmapOf<F, wire::arguments_of<F>>>& options = {}) {
    return starmap_async(std::move(f), own(items), options);
  }
  template <class F>
  auto starmap_async(F f, std::initializer_list<wire::arguments_of<F>> items,
                     const CollectAsyncOptions<CollectStarOf<F, wire::arguments_of<F>>>& options) {
    return starmap_async(std::move(f), own(items), options);
  }
  template <class F>
  auto starmap_async(F f, std::initializer_list<wire::arguments_of<F>> items,
                     std::integral auto chunksize) {
    return starmap_async(std::move(f), own(items), chunksize);
  }

 private:
  template <class T>
  static std::vector<wire::travel_t<T>> own(std::initializer_list<T> items) {
    return std::vector<wire::travel_t<T>>(items.begin(), items.end());
  }
  template <class T, std::size_t Items, std::size_t Each>
  static auto own_rows(const T (&items)[Items][Each]) {
    std::vector<std::array<wire::travel_t<T>, Each>> rows(Items);
    for (std::size_t i = 0; i < Items; ++i) std::ranges::copy(items[i], rows[i].begin());
    return rows;
  }
  Self& self() noexcept { return static_cast<Self&>(*this); }
};

}  // namespace millrace::runtime
