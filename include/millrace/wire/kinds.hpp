// How a type travels, decided at compile time from its shape. Containers are known by what they
// offer rather than by name: no container's header is included here, and other libraries' qualify.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <millrace/wire/buffer.hpp>
#include <millrace/wire/fields.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace millrace::wire {

class OutputArchive;
class InputArchive;
template <class F, class... A>
class Partial;

/// Specialised for types of the library that bring their own encoding, handles first of all:
/// `static void encode(Writer&, const T&)` and `static T decode(Reader&)`. One that counts
/// references puts one into the message, with Writer::keep(), and takes or leaves it as
/// Reader::references() says.
template <class T>
struct Custom {};

/// Specialised by <millrace/cereal.hpp> for what only cereal knows how to serialise:
/// `static void encode(Writer&, const T&)` and `static void decode_into(Reader&, T&)`.
template <class T>
struct Foreign {};

/// The spelling of a type, as the compiler writes it.
template <class T>
consteval std::string_view type_name() {
  const std::string_view text = __PRETTY_FUNCTION__;
  const std::size_t first = text.find("T = ") + 4;
  const std::size_t semicolon = text.find(';', first);  // g++ goes on with what string_view is
  const std::size_t last = semicolon == std::string_view::npos ? text.rfind(']') : semicolon;
  return text.substr(first, last - first);
}

enum class Kind {
  none,             // cannot travel
  custom,           // Custom<T>
  archived,         // serialize() or save() and load()
  function,         // pointer to function
  member_function,  // pointer to member function
  bytes,            // its own bytes
  tuple,            // pair, tuple
  array,            // std::array, C array
  optional,
  variant,
  path,         // filesystem::path
  unique,       // unique_ptr with the default deleter
  sequence,     // string, vector, deque, list ...
  associative,  // set, map and their multi and unordered kin
  aggregate,    // field by field
  opaque,       // a lambda, or a function object that does not say what it holds
  foreign       // Foreign<T>
};

template <class T>
concept HasCustom = requires(Writer& w, Reader& r, const T& v) {
  Custom<T>::encode(w, v);
  { Custom<T>::decode(r) } -> std::same_as<T>;
};
template <class T>
concept HasForeign = requires(Writer& w, Reader& r, const T& c, T& v) {
  Foreign<T>::encode(w, c);
  Foreign<T>::decode_into(r, v);
};

// cereal's four public spellings.
template <class T>
concept MemberSerialize = requires(T& v, OutputArchive& out, InputArchive& in) {
  v.serialize(out);
  v.serialize(in);
};
template <class T>
concept MemberSaveLoad = requires(const T& c, T& v, OutputArchive& out, InputArchive& in) {
  c.save(out);
  v.load(in);
};
template <class T>
concept FreeSerialize = requires(T& v, OutputArchive& out, InputArchive& in) {
  serialize(out, v);
  serialize(in, v);
};
template <class T>
concept FreeSaveLoad = requires(const T& c, T& v, OutputArchive& out, InputArchive& in) {
  save(out, c);
  load(in, v);
};
template <class T>
concept Archived = (std::is_class_v<T> || std::is_union_v<T> ||
                    std::is_enum_v<T>)&&(MemberSerialize<T> || MemberSaveLoad<T> ||
                                         FreeSerialize<T> || FreeSaveLoad<T>);

template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T>
inline constexpr bool kIsTuple = false;
template <class... T>
inline constexpr bool kIsTuple<std::tuple<T...>> = true;
template <class A, class B>
inline constexpr bool kIsTuple<std::pair<A, B>> = true;
template <class T>
inline constexpr bool kIsPartial = false;
template <class F, class... A>
inline constexpr bool kIsPartial<Partial<F, A...>> = true;
template <class T>
inline constexpr bool kIsList = false;
template <class T>
inline constexpr bool kIsList<std::initializer_list<T>> = true;

template <class T>
inline constexpr bool kIsListOfTypes = false;
template <template <class...> class List, class... A>
inline constexpr bool kIsListOfTypes<List<A...>> = true;
template <class T>
concept Variant = kIsListOfTypes<T> && std::is_class_v<T> && requires(const T& v) {
  { v.index() } -> std::same_as<std::size_t>;
  { v.valueless_by_exception() } -> std::same_as<bool>;
};
template <class T>
concept StdArray = std::is_class_v<T> && requires(T& v) {
  std::tuple_size<T>::value;
  typename T::value_type;
  { v.data() } -> std::same_as<typename T::value_type*>;
};
template <class T>
concept Path = std::is_class_v<T> && requires(const T& v) {
  typename T::string_type;
  { v.native() } -> std::same_as<const typename T::string_type&>;
  T(std::declval<typename T::string_type>());
};
template <class T>
concept Container = std::is_class_v<T> && std::default_initializable<T> && requires(T& v) {
  typename T::value_type;
  v.begin();
  v.end();
  { v.size() } -> std::convertible_to<std::size_t>;
};
template <class T>
concept Growing = Container<T> && requires(T& v, typename T::value_type&& e) {
  v.push_back(std::move(e));
};
/// Elements side by side, filled in place after resize().
template <class T>
concept Contiguous = Container<T> && requires(T& v, std::size_t count) {
  { v.data() } -> std::same_as<typename T::value_type*>;
  v.resize(count);
};
template <class T>
concept Sequence = Growing<T> || Contiguous<T>;
template <class T>
concept SetLike = Container<T> && !requires {
  typename T::mapped_type;
}
&&requires(T& v, typename T::key_type&& k) { v.emplace_hint(v.end(), std::move(k)); };
template <class T>
concept MapLike = Container<T> &&
    requires(T& v, typename T::key_type&& k, typename T::mapped_type&& m) {
  v.emplace_hint(v.end(), std::move(k), std::move(m));
};

template <class T>
concept UniquePointer = std::is_class_v<T> && requires(T& v) {
  typename T::deleter_type;
  requires type_name<typename T::deleter_type>()
  .starts_with("std::default_delete<");
  { v.release() } -> std::same_as<typename T::element_type*>;
  requires std::is_object_v<typename T::element_type>;
  requires !std::is_polymorphic_v<typename T::element_type>;
  *v;
};

struct CallTrap {
  void operator()();
};
template <class T>
struct CallProbe : T, CallTrap {};

/// True for a class with a call operator, overloaded or generic ones included.
template <class T>
consteval bool has_call_operator() {
  if constexpr (!std::is_class_v<T>) {
    return false;
  } else if constexpr (std::is_final_v<T>) {
    return requires { &T::operator(); };
  } else {
    return !requires { &CallProbe<T>::operator(); };  // ambiguous when T has one too
  }
}

/// Type-erased callables (std::function): what they hold cannot be seen, so they do not travel.
template <class T>
concept TypeErased = std::is_class_v<T> && requires(const T& v) {
  v.target_type();
};

/// Raw addresses and views: what they refer to would stay behind.
template <class T>
inline constexpr bool kRefersAway = std::is_reference_v<T> || std::is_void_v<T> ||
                                    std::is_function_v<T> || std::is_pointer_v<T> ||
                                    std::is_same_v<T, std::string_view> || kIsList<T> ||
                                    (std::is_class_v<T> &&
                                     type_name<T>().starts_with("std::reference_wrapper<"));

/// Copied as bytes. A class that is neither an aggregate nor assignable holds references.
template <class T>
inline constexpr bool kTravelsAsBytes =
    std::is_trivially_copyable_v<T>&& std::is_move_constructible_v<T> &&
    (!std::is_class_v<T> || std::is_aggregate_v<T> || std::is_move_assignable_v<T> ||
     std::is_copy_assignable_v<T>);

template <class T>
inline constexpr bool kOpaqueCallable =
    has_call_operator<T>() && !std::is_aggregate_v<T> && std::is_copy_constructible_v<T> &&
    !TypeErased<T> && !std::is_polymorphic_v<T> && !kIsPartial<T>;

template <class T>
inline constexpr bool kFieldwise = [] {
  if constexpr (!std::is_class_v<T> || !std::is_aggregate_v<T>) {
    return false;
  } else if constexpr (HasBase<T>) {
    return false;
  } else {
    return kFieldCount<T> != 0 && kFieldCount<T> <= kMaxFields;
  }
}();

// The second half of native_kind(): types with no name of their own in this file.
template <class T>
consteval Kind kind_by_shape() {
  if constexpr (StdArray<T> || std::is_array_v<T>) {
    return Kind::array;
  } else if constexpr (kOpaqueCallable<T> && std::is_trivially_copyable_v<T>) {
    return Kind::opaque;
  } else if constexpr (kTravelsAsBytes<T>) {
    return Kind::bytes;
  } else if constexpr (Path<T>) {
    return Kind::path;
  } else if constexpr (UniquePointer<T>) {
    return Kind::unique;
  } else if constexpr (Sequence<T>) {
    return Kind::sequence;
  } else if constexpr (SetLike<T> || MapLike<T>) {
    return Kind::associative;
  } else if constexpr (kFieldwise<T>) {
    return Kind::aggregate;
  } else if constexpr (kOpaqueCallable<T>) {
    return Kind::opaque;
  } else {
    return Kind::none;
  }
}

/// How T travels by what is known here, if what it is made of does.
template <class T>
consteval Kind native_kind() {
  if constexpr (std::is_arithmetic_v<T>) {
    return Kind::bytes;
  } else if constexpr (std::is_pointer_v<T> && std::is_function_v<std::remove_pointer_t<T>>) {
    return Kind::function;
  } else if constexpr (kRefersAway<T> || std::is_const_v<T> || std::is_volatile_v<T>) {
    return Kind::none;
  } else if constexpr (HasCustom<T>) {
    return Kind::custom;
  } else if constexpr (Archived<T>) {
    return std::default_initializable<T> ? Kind::archived : Kind::none;
  } else if constexpr (std::is_member_function_pointer_v<T>) {
    return Kind::member_function;
  } else if constexpr (kIsTuple<T>) {
    return Kind::tuple;
  } else if constexpr (kIsOptional<T>) {
    return Kind::optional;
  } else if constexpr (Variant<T>) {
    return Kind::variant;
  } else {
    return kind_by_shape<T>();
  }
}

template <class T>
consteval Kind kind_of() {
  constexpr Kind native = native_kind<T>();
  if constexpr (native == Kind::none && HasForeign<T>) {
    return Kind::foreign;
  } else {
    return native;
  }
}

/// How T travels if what it is made of does.
template <class T>
inline constexpr Kind kKind = kind_of<T>();

template <class T, class... Open>
consteval bool travels();

template <class List, class... Open>
struct AllTravel;
template <template <class...> class List, class... T, class... Open>
struct AllTravel<List<T...>, Open...>
    : std::bool_constant<(travels<std::remove_const_t<T>, Open...>() && ...)> {};

template <class T>
struct ElementOf {
  using type = typename T::value_type;
};
template <class T, std::size_t N>
struct ElementOf<T[N]> {
  using type = T;
};
template <class T>
using element_t = typename ElementOf<T>::type;

/// Whether T and all it is made of travel. `Open` are the aggregates being looked into: a type that
/// contains itself, through a container or unique_ptr, travels if the rest of it does.
template <class T, class... Open>
consteval bool travels() {
  constexpr Kind kind = kKind<T>;
  if constexpr (kind == Kind::none || (std::is_same_v<T, Open> || ...)) {
    return kind != Kind::none;
  } else if constexpr (kind == Kind::tuple || kind == Kind::variant || kind == Kind::optional) {
    return AllTravel<T, Open...>::value;
  } else if constexpr (kind == Kind::array || kind == Kind::sequence) {
    return travels<element_t<T>, Open...>();
  } else if constexpr (kind == Kind::associative) {
    if constexpr (MapLike<T>) {
      return travels<typename T::key_type, Open...>() &&
             travels<typename T::mapped_type, Open...>();
    } else {
      return travels<typename T::key_type, Open...>();
    }
  } else if constexpr (kind == Kind::unique) {
    return travels<typename T::element_type, Open...>();
  } else if constexpr (kind == Kind::aggregate) {
    return AllTravel<FieldTypes<T>, T, Open...>::value;
  } else {
    return true;
  }
}

/// Values whose bytes may be copied in one go: trivially copyable ones, and pairs and tuples of
/// such, which are that in all but their assignment.
template <class T>
inline constexpr bool kBitwise = kKind<T> == Kind::bytes;
template <class... T>
inline constexpr bool kBitwise<std::tuple<T...>> =
    (kBitwise<T> && ...) && std::is_trivially_copy_constructible_v<std::tuple<T...>>;
template <class A, class B>
inline constexpr bool kBitwise<std::pair<A, B>> =
    kBitwise<A>&& kBitwise<B>&& std::is_trivially_copy_constructible_v<std::pair<A, B>>;
template <StdArray T>
inline constexpr bool kBitwise<T> = kBitwise<typename T::value_type>;

}  // namespace millrace::wire
