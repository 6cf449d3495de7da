// Callables on their way to another process: which may go, how they are called there, and the
// parcel that carries one.
#pragma once

#include <concepts>
#include <cstddef>
#include <millrace/function.hpp>
#include <millrace/serialize.hpp>
#include <tuple>
#include <type_traits>
#include <utility>

namespace millrace {
namespace wire {

/// std::invoke_result_t under the rule of the library's calls: the callee owns its arguments. They
/// are passed as rvalues if the callable accepts that, else all as lvalues.
template <class F, class... A>
struct InvokeResult {};
template <class F, class... A>
requires std::is_invocable_v<F&, A&&...>
struct InvokeResult<F, A...> : std::invoke_result<F&, A&&...> {
};
template <class F, class... A>
requires(!std::is_invocable_v<F&, A&&...> &&
         std::is_invocable_v<F&, A&...>) struct InvokeResult<F, A...>
    : std::invoke_result<F&, A&...> {
};

template <class F, class... A>
using invoke_result_t = typename InvokeResult<F, A...>::type;

/// True when an F can be called with what arguments of types A arrive as.
template <class F, class... A>
concept CallableWith = std::is_invocable_v < std::decay_t<F>
&, travel_t<A>&&... > || std::is_invocable_v<std::decay_t<F>&, travel_t<A>&...>;

/// The same object, of which the optimiser knows nothing. A pointer to a member function that is
/// decoded here might be virtual; gcc warns that a class smaller than a pointer has no table.
template <class F, class A>
A& unseen(A& argument) noexcept {
  if constexpr (std::is_member_function_pointer_v<F>) {
    A* place = std::addressof(argument);
    asm("" : "+r"(place));
    return *place;
  } else {
    return argument;
  }
}

// An argument converts to its parameter as in a call that the program writes itself, where the
// compiler knows that a literal fits. Here it knows only the type, and must not warn.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"

/// Calls f, handing the arguments over: moved from where f accepts rvalues, else as lvalues.
template <class F, class... A>
decltype(auto) call(F& f, A&... arguments) {
  if constexpr (std::is_invocable_v<F&, A&&...> && !std::is_member_pointer_v<F>) {
    return f(static_cast<A&&>(arguments)...);
  } else if constexpr (std::is_invocable_v<F&, A&&...>) {
    return std::apply(f, std::forward_as_tuple(std::move(unseen<F>(arguments))...));
  } else {
    static_assert(std::is_invocable_v<F&, A&...>,
                  "millrace: the callable does not accept these arguments; parameters may be T, "
                  "const T&, T&& or, where all are lvalues, T&");
    return std::apply(f, std::forward_as_tuple(arguments...));
  }
}

#pragma GCC diagnostic pop

/// call() with the elements of a tuple, pair or array.
template <class F, class Tuple>
decltype(auto) call_tuple(F& f, Tuple& arguments) {
  return std::apply([&f](auto&... each) -> decltype(auto) { return call(f, each...); }, arguments);
}

/// A callable with its first arguments filled in: what mp::partial makes. Each call passes the
/// bound values as const, else as lvalues, else as copies, whichever the callable accepts first.
template <class F, class... A>
class Partial {
 public:
  template <class G, class... B>
  explicit Partial(std::in_place_t, G&& f, B&&... arguments)
      : f_(std::forward<G>(f)), bound_(std::forward<B>(arguments)...) {}

  /// Calls the callable with the bound values, then `more`.
  template <class... B>
  requires(std::is_invocable_v<F&, const A&..., B...> || std::is_invocable_v<F&, A&..., B...> ||
           std::is_invocable_v<F&, A&&..., B...>) decltype(auto)
  operator()(B&&... more) const {
    return std::apply(
        [&](A&... bound) -> decltype(auto) {
          if constexpr (std::is_invocable_v<F&, const A&..., B...>) {
            return pass(std::as_const(bound)..., std::forward<B>(more)...);
          } else if constexpr (std::is_invocable_v<F&, A&..., B...>) {
            return pass(bound..., std::forward<B>(more)...);
          } else {
            return pass(A(std::as_const(bound))..., std::forward<B>(more)...);
          }
        },
        bound_);
  }

  [[nodiscard]] const F& function() const noexcept { return f_; }
  [[nodiscard]] const std::tuple<A...>& bound() const noexcept { return bound_; }

 private:
  template <class... B>
  decltype(auto) pass(B&&... all) const {
    return std::apply(f_, std::forward_as_tuple(std::forward<B>(all)...));
  }

  mutable F f_;
  mutable std::tuple<A...> bound_;
};

/// How a callable travels.
enum class CallableKind {
  none,   // it cannot
  value,  // encoded as a Serializable value
  empty,  // it has no state: nothing travels
  bytes,  // its bytes, checked for private addresses
  block   // a copy in the arena, checked likewise
};

template <class List>
inline constexpr bool kAnyFunctionPointer = false;
template <class... T>
inline constexpr bool kAnyFunctionPointer<TypeList<T...>> =
    ((kKind<T> == Kind::function || kKind<T> == Kind::member_function) || ...);

/// An aggregate that holds pointers to functions goes field by field: their addresses mean nothing
/// elsewhere, their ids do.
template <class F>
consteval bool fieldwise_for_functions() {
  if constexpr (kFieldwise<F>) {
    using Fields = FieldTypes<F>;
    return kAnyFunctionPointer<Fields> && AllTravel<Fields, F>::value;
  } else {
    return false;
  }
}

template <class F>
consteval CallableKind callable_kind() {
  constexpr Kind kind = kKind<F>;
  if constexpr (kind == Kind::function || kind == Kind::member_function ||
                std::is_member_object_pointer_v<F>) {
    return CallableKind::value;
  } else if constexpr (!std::is_class_v<F> || !std::is_copy_constructible_v<F> || TypeErased<F>) {
    return CallableKind::none;
  } else if constexpr (!has_call_operator<F>()) {
    return CallableKind::none;
  } else if constexpr (kind == Kind::opaque || kind == Kind::bytes) {
    if constexpr (std::is_empty_v<F> && std::is_trivially_copyable_v<F>) return CallableKind::empty;
    if constexpr (fieldwise_for_functions<F>()) return CallableKind::value;
    return std::is_trivially_copyable_v<F> ? CallableKind::bytes : CallableKind::block;
  } else {
    return travels<F>() ? CallableKind::value : CallableKind::none;
  }
}

template <class F>
inline constexpr CallableKind kCallableKind = callable_kind<F>();

/// Partial travels as its callable and its bound values. Unlike other values it may hold one whose
/// bytes travel.
template <class F, class... A>
requires(kCallableKind<F> != CallableKind::none &&
         (travels<A>() && ...)) struct Custom<Partial<F, A...>>;

/// A trivially copyable aggregate with pointers to functions, field by field.
template <class F>
struct Fieldwise {
  static void encode(Writer& out, const F& f) { Codec<F, Kind::aggregate>::encode(out, f); }
  static F decode(Reader& in) { return Codec<F, Kind::aggregate>::decode(in); }
};

/// Appends a callable as part of a message which then owns what it refers to.
template <class F>
void put_callable(Writer& out, const F& f) {
  constexpr CallableKind kind = kCallableKind<F>;
  if constexpr (kind == CallableKind::bytes) {
    put_checked_bytes(out, f);
  } else if constexpr (kind == CallableKind::block) {
    Codec<F, Kind::opaque>::encode(out, f);
  } else if constexpr (kind == CallableKind::value) {
    if constexpr (fieldwise_for_functions<F>()) {
      Fieldwise<F>::encode(out, f);
    } else {
      put_value(out, f);
    }
  }
}

/// Takes what put_callable() wrote.
template <class F>
F take_callable([[maybe_unused]] Reader& in) {
  constexpr CallableKind kind = kCallableKind<F>;
  if constexpr (kind == CallableKind::empty) {
    struct Nothing {
      std::byte bytes[sizeof(F)];
    };
    return __builtin_bit_cast(F, Nothing{});
  } else if constexpr (kind == CallableKind::bytes) {
    return in.take<F>();
  } else if constexpr (kind == CallableKind::block) {
    return Codec<F, Kind::opaque>::decode(in);
  } else if constexpr (fieldwise_for_functions<F>()) {
    return Fieldwise<F>::decode(in);
  } else {
    return take_value<F>(in);
  }
}

template <class F, class... A>
requires(kCallableKind<F> != CallableKind::none &&
         (travels<A>() && ...)) struct Custom<Partial<F, A...>> {
  using T = Partial<F, A...>;

  static void encode(Writer& out, const T& value) {
    put_callable(out, value.function());
    put_value(out, value.bound());
  }
  static T decode(Reader& in) {
    F f = take_callable<F>(in);
    auto bound = take_value<std::tuple<A...>>(in);
    return std::apply(
        [&f](A&... each) { return T(std::in_place, std::move(f), std::move(each)...); }, bound);
  }
};

}  // namespace wire

/// Callables that may be sent to another process: copyable, and not a type-erased std::function.
/// Function pointers, member functions, lambdas, function objects, mp::partial.
template <class F>
concept Sendable = wire::kCallableKind<std::decay_t<F>>
!= wire::CallableKind::none;

/// f with its first arguments filled in. Sendable and Serializable if f and the arguments are; may
/// be nested. Text is bound as std::string. Python: functools.partial.
template <class F, class... A>
[[nodiscard]] auto partial(F&& f, A&&... arguments) {
  return wire::Partial<std::decay_t<F>, wire::travel_t<A>...>(std::in_place, std::forward<F>(f),
                                                              std::forward<A>(arguments)...);
}

namespace wire {

/// Compiles if F may be sent to another process, otherwise says what to do.
template <class F>
consteval bool check_sendable() {
  using D = std::decay_t<F>;
  static_assert(!TypeErased<D>,
                "millrace: a std::function cannot travel to another process, what it holds cannot "
                "be seen; pass the function or lambda itself, or mp::partial");
  static_assert(TypeErased<D> || !std::is_class_v<D> || std::is_copy_constructible_v<D>,
                "millrace: a move-only callable cannot travel to another process; capture copyable "
                "values or handles, or pass what it owns as an argument");
  static_assert(
      TypeErased<D> || (std::is_class_v<D> && !std::is_copy_constructible_v<D>) || Sendable<D>,
      "millrace: this cannot be called in another process; pass a function, a member "
      "function, a lambda, a function object or mp::partial of Serializable values");
  return Sendable<D>;
}

/// Compiles if F may be called with arguments of types A, otherwise says what to do.
template <class F, class... A>
consteval bool check_callable() {
  static_assert(CallableWith<F, A...>,
                "millrace: the callable does not accept these arguments; they arrive decayed, text "
                "as std::string, and parameters may be T, const T&, T&& or, where all are lvalues, "
                "T&");
  return CallableWith<F, A...>;
}

/// A callable made ready for other processes of the program, which unpack() it from what write()
/// appends; they may do so as often as they like while the Parcel lives. Making one throws
/// TypeError, naming mp::partial, when it holds an address of this process's private memory.
template <class F>
class Parcel {
  static_assert(Sendable<F>, "millrace: this callable cannot travel to another process");
  static constexpr CallableKind kKindOfF = kCallableKind<F>;

 public:
  explicit Parcel(const F& f) {
    try {
      put_callable(content_, f);
    } catch (...) {
      content_.revert(0);
      throw;
    }
  }
  Parcel(const Parcel&) = delete;
  Parcel& operator=(const Parcel&) = delete;
  ~Parcel() { content_.revert(0); }

  /// Appends what unpack() reads.
  void write(Writer& out) const { out.write(content_.data(), content_.size()); }

 private:
  Writer content_;  // owns the arena block, and one reference to each handle
};

/// A copy of the callable that a Parcel<F> wrote, in any process of the program.
template <class F>
F unpack(Reader& in) {
  struct Borrowing {
    Reader& reader;
    References before = reader.references();
    ~Borrowing() { reader.set_references(before); }
  } const restore{in};
  in.set_references(References::borrow);
  return take_callable<F>(in);
}

template <class... A>
using Arguments = std::tuple<travel_t<A>...>;

template <class F>
struct MemberArguments;
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...)> {
  using of_object = Arguments<A...>;
  using with_object = Arguments<C, A...>;
};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...) const> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...)&> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...) const&> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...) &&> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...) noexcept> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...) const noexcept> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...)& noexcept> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...) const& noexcept> : MemberArguments<R (C::*)(A...)> {};
template <class R, class C, class... A>
struct MemberArguments<R (C::*)(A...)&& noexcept> : MemberArguments<R (C::*)(A...)> {};

template <std::size_t Skip, class Tuple>
struct DropFirst;
template <class... A>
struct DropFirst<0, std::tuple<A...>> {
  using type = std::tuple<A...>;
};
template <std::size_t Skip, class First, class... A>
requires(Skip > 0) struct DropFirst<Skip, std::tuple<First, A...>>
    : DropFirst<Skip - 1, std::tuple<A...>> {
};

template <class F>
struct ArgumentsOf {};
template <class R, class... A>
struct ArgumentsOf<R (*)(A...)> {
  using type = Arguments<A...>;
};
template <class R, class... A>
struct ArgumentsOf<R (*)(A...) noexcept> {
  using type = Arguments<A...>;
};
template <class F>
requires std::is_member_function_pointer_v<F>
struct ArgumentsOf<F> {
  using type = typename MemberArguments<F>::with_object;
};
template <class F>
requires(std::is_class_v<F>&& requires { &F::operator(); }) struct ArgumentsOf<F> {
  using type = typename MemberArguments<decltype(&F::operator())>::of_object;
};
template <class F, class... B>
requires requires { typename ArgumentsOf<F>::type; }
struct ArgumentsOf<Partial<F, B...>> : DropFirst<sizeof...(B), typename ArgumentsOf<F>::type> {};

/// What the arguments of a call arrive as, a tuple of travel_t: for functions, members (the object
/// first) and function objects with one call operator that is no template.
template <class F>
using arguments_of = typename ArgumentsOf<std::decay_t<F>>::type;

/// True when arguments_of<F> exists.
template <class F>
concept HasArguments = requires {
  typename arguments_of<F>;
};

}  // namespace wire
}  // namespace millrace
