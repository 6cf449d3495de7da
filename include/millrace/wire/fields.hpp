// The fields of an aggregate, counted and named without its help.
//
// A field count is the largest number of `{}` that initialises the type: each pair of braces
// stands for exactly one field, arrays included. Where a field has no `{}` (no default
// constructor), placeholders that convert to anything are counted instead.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace millrace::wire {

/// Aggregates have at most this many fields; more is a compile-time error.
inline constexpr std::size_t kMaxFields = 16;

template <class Whole>
struct AnyField {
  template <class T>
  requires(!std::is_same_v<T, Whole> && !std::is_base_of_v<T, Whole>) constexpr operator T()
      const noexcept;  // NOLINT(google-explicit-constructor): a placeholder
};

template <class Whole>
struct AnyBase {
  template <class T>
  requires(std::is_base_of_v<T, Whole> && !std::is_same_v<T, Whole>) constexpr operator T()
      const noexcept;  // NOLINT(google-explicit-constructor): a placeholder
};

/// True for an aggregate with a base class, whose fields cannot be named.
template <class T>
concept HasBase = requires {
  T{AnyBase<T>{}};
};

template <class T, std::size_t... I>
constexpr bool initialised_by(std::index_sequence<I...>) {
  return requires { T{(static_cast<void>(I), AnyField<T>{})...}; };
}

// Downwards: fewer than all may leave a field without its value.
template <class T, std::size_t N = kMaxFields + 1>
consteval std::size_t count_placeholders() {
  if constexpr (N == 0 || initialised_by<T>(std::make_index_sequence<N>{})) {
    return N;
  } else {
    return count_placeholders<T, N - 1>();
  }
}

template <class T>
consteval std::size_t count_braces() {
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; })
    return 17;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 16;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 15;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 14;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 13;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 12;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 11;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 10;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}, {}}; }) return 9;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}, {}}; }) return 8;
  if (requires { T{{}, {}, {}, {}, {}, {}, {}}; }) return 7;
  if (requires { T{{}, {}, {}, {}, {}, {}}; }) return 6;
  if (requires { T{{}, {}, {}, {}, {}}; }) return 5;
  if (requires { T{{}, {}, {}, {}}; }) return 4;
  if (requires { T{{}, {}, {}}; }) return 3;
  if (requires { T{{}, {}}; }) return 2;
  if (requires { T{{}}; }) return 1;
  return 0;
}

template <class T>
consteval std::size_t count_fields() {
  if constexpr (requires { T{}; }) {
    return count_braces<T>();
  } else {
    return count_placeholders<T>();
  }
}

/// How many fields an aggregate has; kMaxFields + 1 for more than that, 0 when they defy counting.
template <class T>
inline constexpr std::size_t kFieldCount = count_fields<T>();

template <std::size_t N>
using FieldCount = std::integral_constant<std::size_t, N>;

// Calls visit(field...) for a value with N fields; T may be const.
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<0>, T&, Visit&& visit) {
  return visit();
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<1>, T& value, Visit&& visit) {
  auto& [a] = value;
  return visit(a);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<2>, T& value, Visit&& visit) {
  auto& [a, b] = value;
  return visit(a, b);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<3>, T& value, Visit&& visit) {
  auto& [a, b, c] = value;
  return visit(a, b, c);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<4>, T& value, Visit&& visit) {
  auto& [a, b, c, d] = value;
  return visit(a, b, c, d);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<5>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e] = value;
  return visit(a, b, c, d, e);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<6>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f] = value;
  return visit(a, b, c, d, e, f);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<7>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g] = value;
  return visit(a, b, c, d, e, f, g);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<8>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h] = value;
  return visit(a, b, c, d, e, f, g, h);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<9>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i] = value;
  return visit(a, b, c, d, e, f, g, h, i);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<10>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j] = value;
  return visit(a, b, c, d, e, f, g, h, i, j);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<11>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j, k] = value;
  return visit(a, b, c, d, e, f, g, h, i, j, k);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<12>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j, k, l] = value;
  return visit(a, b, c, d, e, f, g, h, i, j, k, l);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<13>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = value;
  return visit(a, b, c, d, e, f, g, h, i, j, k, l, m);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<14>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = value;
  return visit(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<15>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = value;
  return visit(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
}
template <class T, class Visit>
constexpr decltype(auto) visit_counted(FieldCount<16>, T& value, Visit&& visit) {
  auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = value;
  return visit(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
}

/// Calls `visit` with every field of an aggregate, in order.
template <class T, class Visit>
constexpr decltype(auto) visit_fields(T& value, Visit&& visit) {
  return visit_counted(FieldCount<kFieldCount<std::remove_const_t<T>>>{}, value,
                       std::forward<Visit>(visit));
}

template <class... T>
struct TypeList {};

struct ListTypes {
  template <class... F>
  constexpr TypeList<std::remove_cv_t<F>...> operator()(const F&...) const {
    return {};
  }
};

/// The types of an aggregate's fields, as a TypeList.
template <class T>
using FieldTypes = decltype(visit_fields(std::declval<const T&>(), ListTypes{}));

}  // namespace millrace::wire
