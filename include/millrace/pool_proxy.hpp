// A Pool in a manager's server. Functions run in the server's workers: clients of its own program
// only. Python: PoolProxy, G22.
#pragma once

#include <millrace/manager_pool_call.hpp>
#include <millrace/proxies.hpp>
#include <optional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

/// A result that the server waits for.
template <class R>
class AsyncResultProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  /// The result, or what the call threw. TimeoutError.
  R get(Timeout timeout = {}) const { return call<R>("get", runtime::seconds_of(timeout)); }
  void wait(Timeout timeout = {}) const { call("wait", runtime::seconds_of(timeout)); }
  [[nodiscard]] bool ready() const { return call<bool>("ready"); }
  /// ValueError before it is ready.
  [[nodiscard]] bool successful() const { return call<bool>("successful"); }
};

class PoolProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;

  /// As mp::Pool's calls; arguments go to the server, which has the workers.
  template <class F, class... A>
  requires Sendable<std::decay_t<F>>
  auto apply(F&& f, A&&... arguments) const {
    using R = std::decay_t<decltype(std::declval<Pool&>().apply(f, arguments...))>;
    return call<R>("apply", make<runtime::DoApply>(std::forward<F>(f), tuple_of(arguments...)));
  }
  template <class F, class... A>
  requires Sendable<std::decay_t<F>>
  auto apply_async(F&& f, A&&... arguments) const {
    using R = std::decay_t<decltype(std::declval<Pool&>().apply(f, arguments...))>;
    return call<AsyncResultProxy<R>>(
        "apply_async", make<runtime::DoApplyAsync>(std::forward<F>(f), tuple_of(arguments...)));
  }
  template <class F, std::ranges::input_range Range>
  requires Sendable<std::decay_t<F>>
  auto map(F&& f, Range&& items) const {
    auto input = vector_of(std::forward<Range>(items));
    using R = std::decay_t<decltype(std::declval<Pool&>().map(f, input))>;
    return call<R>("map", make<runtime::DoMap>(std::forward<F>(f), std::move(input)));
  }
  template <class F, std::ranges::input_range Range>
  requires Sendable<std::decay_t<F>>
  auto map_async(F&& f, Range&& items) const {
    auto input = vector_of(std::forward<Range>(items));
    using R = std::decay_t<decltype(std::declval<Pool&>().map(f, input))>;
    return call<AsyncResultProxy<R>>(
        "map_async", make<runtime::DoMapAsync>(std::forward<F>(f), std::move(input)));
  }
  template <class F, std::ranges::input_range Range>
  requires Sendable<std::decay_t<F>>
  auto starmap(F&& f, Range&& items) const {
    auto input = vector_of(std::forward<Range>(items));
    using R = std::decay_t<decltype(std::declval<Pool&>().starmap(f, input))>;
    return call<R>("starmap", make<runtime::DoStarmap>(std::forward<F>(f), std::move(input)));
  }
  template <class F, std::ranges::input_range Range>
  requires Sendable<std::decay_t<F>>
  auto starmap_async(F&& f, Range&& items) const {
    auto input = vector_of(std::forward<Range>(items));
    using R = std::decay_t<decltype(std::declval<Pool&>().starmap(f, input))>;
    return call<AsyncResultProxy<R>>(
        "starmap_async", make<runtime::DoStarmapAsync>(std::forward<F>(f), std::move(input)));
  }
  /// Computes all results, then gives them one by one.
  template <class F, std::ranges::input_range Range>
  requires Sendable<std::decay_t<F>>
  [[nodiscard]] IteratorProxy imap(F&& f, Range&& items) const {
    return call<IteratorProxy>(
        "imap", make<runtime::DoMap>(std::forward<F>(f), vector_of(std::forward<Range>(items))));
  }
  /// As imap(): the order is that of the input here, too.
  template <class F, std::ranges::input_range Range>
  requires Sendable<std::decay_t<F>>
  [[nodiscard]] IteratorProxy imap_unordered(F&& f, Range&& items) const {
    return call<IteratorProxy>("imap_unordered",
                               make<runtime::DoMap>(std::forward<F>(f),
                                                    vector_of(std::forward<Range>(items))));
  }
  void close() const { call("close"); }
  void terminate() const { call("terminate"); }
  void join() const { call("join"); }

 private:
  template <class Do, class F, class Input>
  static runtime::PoolCallHandle make(F&& f, Input input) {
    return runtime::pool_call<Do>(std::decay_t<F>(std::forward<F>(f)), std::move(input));
  }
  template <class... A>
  static std::tuple<wire::travel_t<A>...> tuple_of(A&... arguments) {
    return {wire::travel_t<A>(arguments)...};
  }
  template <class Range>
  static auto vector_of(Range&& items) {
    std::vector<wire::travel_t<std::ranges::range_value_t<Range>>> all;
    for (auto&& each : items) all.emplace_back(std::forward<decltype(each)>(each));
    return all;
  }
};

namespace runtime {
template <>
inline constexpr const char* kProxyClass<PoolProxy> = "PoolProxy";
}  // namespace runtime

}  // namespace millrace
