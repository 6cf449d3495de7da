// Which C++ types are which of Python's, decided at compile time from their shape.
#pragma once

#include <compare>
#include <concepts>
#include <cstddef>
#include <exception>
#include <millrace/bytes.hpp>
#include <millrace/none.hpp>
#include <millrace/wire/kinds.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace millrace {

class Object;
class List;
class Tuple;
class Dict;
class Set;
class FrozenSet;
class ByteArray;
class Slice;
class Range;
class SystemExit;
class KeyboardInterrupt;

namespace runtime {

/// What an Object holds. From `first_node` on the value lies in a node of the heap.
enum class ValueKind : unsigned char {
  none,
  boolean,
  integer,
  real,
  short_text,  // up to kShortText bytes, inside the Object
  deferred,    // text that still lies in the pickle: only ever in an unpickler's memo
  text,
  bytes,
  bytearray,
  list,
  tuple,
  dict,
  set,
  frozenset,
  slice,
  range,
  complex,
  exception,
  handle,
  global,   // a name of Python's that a pickle refers to
  instance  // what such a name would make of its arguments; never made here
};

/// The library's own classes of values, each of which holds one kind.
template <class T>
inline constexpr ValueKind kOwnKind = ValueKind::none;
template <>
inline constexpr ValueKind kOwnKind<Bytes> = ValueKind::bytes;
template <>
inline constexpr ValueKind kOwnKind<ByteArray> = ValueKind::bytearray;
template <>
inline constexpr ValueKind kOwnKind<List> = ValueKind::list;
template <>
inline constexpr ValueKind kOwnKind<Tuple> = ValueKind::tuple;
template <>
inline constexpr ValueKind kOwnKind<Dict> = ValueKind::dict;
template <>
inline constexpr ValueKind kOwnKind<Set> = ValueKind::set;
template <>
inline constexpr ValueKind kOwnKind<FrozenSet> = ValueKind::frozenset;
template <>
inline constexpr ValueKind kOwnKind<Slice> = ValueKind::slice;
template <>
inline constexpr ValueKind kOwnKind<Range> = ValueKind::range;

/// How a C++ type becomes a value of Python's and back.
enum class Form {
  none,  // it does not
  object,
  null,
  boolean,
  integer,
  real,
  character,  // char: a str of length 1
  text,
  own,  // List, Dict ...
  optional,
  variant,
  tuple,
  bytes,  // a container of std::byte
  sequence,
  map,
  set,
  complex,
  exception,
  exception_ptr,
  path,
  handle
};

template <class T>
concept ComplexNumber = std::is_class_v<T> && requires(const T& v) {
  requires std::floating_point<typename T::value_type>;
  { v.real() } -> std::same_as<typename T::value_type>;
  { v.imag() } -> std::same_as<typename T::value_type>;
};
/// What can be read from begin() to end(), as const.
template <class T>
concept Readable = std::is_class_v<T> && requires(const T& v) {
  typename T::value_type;
  v.begin();  // comparing them here would ask Object's own == about every iterator
  v.end();
};
template <class T>
concept KeyedPairs = Readable<T> && requires {
  typename T::key_type;
  typename T::mapped_type;
};
template <class T>
concept Keyed = Readable<T> && requires {
  typename T::key_type;
};
/// Handles bring their own encoding and are copied by reference; all compare by identity.
template <class T>
concept HandleLike =
    std::is_class_v<T> && !wire::kIsPartial<T> && wire::HasCustom<T> && std::copy_constructible<T>;

template <class T>
inline constexpr bool kIsException =
    std::is_same_v<T, SystemExit> || std::is_same_v<T, KeyboardInterrupt> ||
    std::is_base_of_v<std::exception, T>;
template <class T>
inline constexpr bool kIsCharacter = std::is_same_v<T, wchar_t> || std::is_same_v<T, char8_t> ||
                                     std::is_same_v<T, char16_t> || std::is_same_v<T, char32_t>;

template <class T>
consteval Form form_of_class() {
  if constexpr (wire::kIsOptional<T>) {
    return Form::optional;
  } else if constexpr (wire::Variant<T>) {
    return Form::variant;
  } else if constexpr (wire::kIsTuple<T>) {
    return Form::tuple;
  } else if constexpr (kIsException<T>) {
    return Form::exception;
  } else if constexpr (std::is_same_v<T, std::exception_ptr>) {
    return Form::exception_ptr;
  } else if constexpr (ComplexNumber<T>) {
    return Form::complex;
  } else if constexpr (HandleLike<T>) {
    return Form::handle;
  } else if constexpr (wire::Path<T>) {
    return Form::path;
  } else if constexpr (KeyedPairs<T>) {
    return Form::map;
  } else if constexpr (Keyed<T>) {
    return Form::set;
  } else if constexpr (Readable<T>) {
    return std::is_same_v<std::remove_cv_t<typename T::value_type>, std::byte> ? Form::bytes
                                                                               : Form::sequence;
  } else {
    return Form::none;
  }
}

template <class T>
consteval Form form_of() {
  if constexpr (std::is_same_v<T, Object>) {
    return Form::object;
  } else if constexpr (kOwnKind<T> != ValueKind::none) {
    return Form::own;
  } else if constexpr (std::is_same_v<T, NoneType>) {
    return Form::null;
  } else if constexpr (std::is_same_v<T, bool>) {
    return Form::boolean;
  } else if constexpr (std::is_same_v<T, char>) {
    return Form::character;
  } else if constexpr (std::is_integral_v<T>) {
    return kIsCharacter<T> || sizeof(T) > 8 ? Form::none : Form::integer;
  } else if constexpr (std::is_floating_point_v<T>) {
    return Form::real;
  } else if constexpr (std::is_array_v<T>) {
    return std::is_same_v<std::remove_extent_t<T>, char> ? Form::text : Form::sequence;
  } else if constexpr (std::is_same_v<T, const char*> || std::is_same_v<T, char*>) {
    return Form::text;
  } else if constexpr (!std::is_class_v<T>) {
    return Form::none;
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return Form::text;
  } else {
    return form_of_class<T>();
  }
}
template <class T>
inline constexpr Form kForm = form_of<T>();

template <class T>
consteval bool has_form();

template <class T>
struct AllHaveForm;
template <template <class...> class List, class... T>
struct AllHaveForm<List<T...>> : std::bool_constant<(has_form<std::remove_cv_t<T>>() && ...)> {};

/// Whether T, with all it is made of, is a value that an Object can hold.
template <class T>
consteval bool has_form() {
  constexpr Form form = kForm<T>;
  if constexpr (form == Form::optional) {
    return has_form<std::remove_cv_t<typename T::value_type>>();
  } else if constexpr (form == Form::variant || form == Form::tuple) {
    return AllHaveForm<T>::value;
  } else if constexpr (form == Form::sequence && std::is_array_v<T>) {
    return has_form<std::remove_cv_t<std::remove_extent_t<T>>>();
  } else if constexpr (form == Form::sequence || form == Form::set) {
    return has_form<std::remove_cv_t<typename T::value_type>>();
  } else if constexpr (form == Form::map) {
    return has_form<typename T::key_type>() && has_form<typename T::mapped_type>();
  } else {
    return form != Form::none;
  }
}

}  // namespace runtime

/// Types that become an Object implicitly, and that Object::as() gives back.
template <class T>
concept ObjectValue = runtime::has_form<std::remove_cvref_t<T>>();

}  // namespace millrace
