// mp::Objects to C++ values, type by type. What can be compiled once is in the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <millrace/errors.hpp>
#include <millrace/object_containers.hpp>
#include <millrace/object_core.hpp>
#include <millrace/object_handle.hpp>
#include <millrace/object_make.hpp>
#include <millrace/type_key.hpp>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace millrace::runtime {

// Each throws TypeError naming what was wanted and what was found, or ValueError where the
// value would be lost.
[[noreturn]] void throw_not_a(const Object& value, const char* wanted);
[[noreturn]] void throw_length(const Object& value, std::size_t wanted);
[[noreturn]] void throw_does_not_fit(const Object& value, const char* type);
bool to_bool(const Object& value);
std::int64_t to_integer(const Object& value, std::int64_t least, std::int64_t most);
std::uint64_t to_unsigned(const Object& value, std::uint64_t most);
double to_real(const Object& value);
float to_float(const Object& value);
char to_character(const Object& value);
std::string to_text(const Object& value);
Bytes to_bytes(const Object& value);  // of bytes and bytearray
Slice to_slice(const Object& value);
Range to_range(const Object& value);
std::pair<double, double> to_complex(const Object& value);
std::exception_ptr to_exception(const Object& value);
/// Rethrows what to_exception() gives, for the caller to catch.
[[noreturn]] void raise(const Object& value);
/// The value itself, when it is one of `kind`.
const Object& to_own(const Object& value, ValueKind kind);
/// The elements of a list or tuple.
std::span<const Object> to_items(const Object& value);
/// The entries of a dict, or of a set or frozenset; holes among them.
std::span<const TableEntry> to_entries(const Object& value, bool is_dict);

bool is_kind(const Object& value, ValueKind kind) noexcept;
bool is_text(const Object& value) noexcept;
bool is_sequence(const Object& value) noexcept;  // list, tuple
bool is_any_set(const Object& value) noexcept;
bool is_byte_run(const Object& value) noexcept;  // bytes, bytearray

template <class T>
T integer_of(const Object& from) {
  if constexpr (std::is_unsigned_v<T>) {
    return static_cast<T>(to_unsigned(from, std::numeric_limits<T>::max()));
  } else {
    return static_cast<T>(
        to_integer(from, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
  }
}

template <class T>
T sequence_of(const Object& from) {
  const std::span<const Object> items = to_items(from);
  if constexpr (wire::StdArray<T>) {
    if (items.size() != std::tuple_size_v<T>) throw_length(from, std::tuple_size_v<T>);
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return T{convert<typename T::value_type>(items[I])...};
    }
    (std::make_index_sequence<std::tuple_size_v<T>>{});
  } else {
    static_assert(
        requires(T & t, typename T::value_type v) { t.push_back(std::move(v)); },
        "millrace: out of an mp::Object come owning containers with push_back()");
    T out{};
    if constexpr (requires { out.reserve(items.size()); }) out.reserve(items.size());
    for (const Object& each : items) out.push_back(convert<typename T::value_type>(each));
    return out;
  }
}

template <class T>
T table_of(const Object& from) {
  T out{};
  for (const TableEntry& each : to_entries(from, kForm<T> == Form::map)) {
    if (each.hash == TableEntry::kHole) continue;
    if constexpr (kForm<T> == Form::map) {
      out.emplace(convert<typename T::key_type>(each.key),
                  convert<typename T::mapped_type>(each.value));
    } else {
      out.emplace(convert<typename T::key_type>(each.key));
    }
  }
  return out;
}

template <class T>
T tuple_of(const Object& from) {
  constexpr std::size_t kSize = std::tuple_size_v<T>;
  const std::span<const Object> items = to_items(from);
  if (items.size() != kSize) throw_length(from, kSize);
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return T{convert<std::remove_cv_t<std::tuple_element_t<I, T>>>(items[I])...};
  }
  (std::make_index_sequence<kSize>{});
}

// The alternative whose type the value has, else the first that it converts to.
template <class T, std::size_t I = 0>
T variant_of(const Object& from, bool exact = true) {
  if constexpr (I == std::variant_size_v<T>) {
    if (exact) return variant_of<T, 0>(from, false);
    throw_not_a(from, "any alternative of the variant");
  } else {
    using Alternative = std::variant_alternative_t<I, T>;
    try {
      if (!exact || holds<Alternative>(from)) {
        return T(std::in_place_index<I>, convert<Alternative>(from));
      }
    } catch (const TypeError&) {
      return variant_of<T, I + 1>(from, exact);
    } catch (const ValueError&) {
      return variant_of<T, I + 1>(from, exact);
    }
    return variant_of<T, I + 1>(from, exact);
  }
}

template <class E>
E exception_of(const Object& from) {
  try {
    raise(from);
  } catch (const E& error) {
    return error;
  } catch (...) {
    throw_not_a(from, "an exception of this type");
  }
}

template <class T>
T own_of(const Object& from) {
  if constexpr (std::is_same_v<T, Bytes>) {
    return to_bytes(to_own(from, ValueKind::bytes));
  } else if constexpr (std::is_same_v<T, ByteArray>) {
    return ByteArray(to_bytes(to_own(from, ValueKind::bytearray)));
  } else if constexpr (std::is_same_v<T, Slice>) {
    return to_slice(from);
  } else if constexpr (std::is_same_v<T, Range>) {
    return to_range(from);
  } else {
    T out;
    const_cast<Object&>(object_inside(out)) = to_own(from, kOwnKind<T>);
    return out;
  }
}

template <class T>
T compound_of(const Object& from) {
  constexpr Form form = kForm<T>;
  if constexpr (form == Form::optional) {
    return from.is_none() ? T{} : T(convert<typename T::value_type>(from));
  } else if constexpr (form == Form::variant) {
    return variant_of<T>(from);
  } else if constexpr (form == Form::tuple) {
    return tuple_of<T>(from);
  } else if constexpr (form == Form::sequence) {
    return sequence_of<T>(from);
  } else if constexpr (form == Form::bytes) {
    const Bytes bytes = to_bytes(from);
    return T(bytes.begin(), bytes.end());
  } else if constexpr (form == Form::map || form == Form::set) {
    return table_of<T>(from);
  } else if constexpr (form == Form::handle) {
    const void* const handle = find_handle(from, wire::type_key<T>());
    if (handle == nullptr) throw_no_handle(from, wire::type_name<T>());
    return *static_cast<const T*>(handle);
  } else {
    static_assert(form == Form::exception);
    return exception_of<T>(from);
  }
}

template <class T>
T convert(const Object& from) {
  constexpr Form form = kForm<T>;
  if constexpr (form == Form::object) {
    return from;
  } else if constexpr (form == Form::own) {
    return own_of<T>(from);
  } else if constexpr (form == Form::null) {
    to_own(from, ValueKind::none);
    return None;
  } else if constexpr (form == Form::boolean) {
    return to_bool(from);
  } else if constexpr (form == Form::integer) {
    return integer_of<T>(from);
  } else if constexpr (form == Form::real) {
    return std::is_same_v<T, float> ? static_cast<T>(to_float(from))
                                    : static_cast<T>(to_real(from));
  } else if constexpr (form == Form::character) {
    return to_character(from);
  } else if constexpr (form == Form::text || form == Form::path) {
    return T(to_text(from));
  } else if constexpr (form == Form::complex) {
    const auto [real, imaginary] = to_complex(from);
    using Part = typename T::value_type;
    return T(static_cast<Part>(real), static_cast<Part>(imaginary));
  } else if constexpr (form == Form::exception_ptr) {
    return to_exception(from);
  } else {
    return compound_of<T>(from);
  }
}

template <class T>
bool all_hold(const Object& value) {
  if constexpr (kForm<T> == Form::map || kForm<T> == Form::set) {
    for (const TableEntry& each : to_entries(value, kForm<T> == Form::map)) {
      if (each.hash == TableEntry::kHole) continue;
      if (!holds<typename T::key_type>(each.key)) return false;
      if constexpr (kForm<T> == Form::map) {
        if (!holds<typename T::mapped_type>(each.value)) return false;
      }
    }
  } else {
    for (const Object& each : to_items(value)) {
      if (!holds<typename T::value_type>(each)) return false;
    }
  }
  return true;
}

template <class T>
bool tuple_holds(const Object& value) {
  const std::span<const Object> items = to_items(value);
  if (items.size() != std::tuple_size_v<T>) return false;
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return (holds<std::remove_cv_t<std::tuple_element_t<I, T>>>(items[I]) && ...);
  }
  (std::make_index_sequence<std::tuple_size_v<T>>{});
}

template <class T>
struct HoldsOne;
template <class... A>
struct HoldsOne<std::variant<A...>> {
  static bool of(const Object& value) { return (holds<A>(value) || ...); }
};

template <class E>
bool holds_exception(const Object& value) {
  if (!is_kind(value, ValueKind::exception)) return false;
  try {
    raise(value);
  } catch (const E&) {
    return true;
  } catch (...) {
    return false;
  }
}

template <class T>
bool holds(const Object& value) {
  constexpr Form form = kForm<T>;
  if constexpr (form == Form::object) {
    return true;
  } else if constexpr (form == Form::own) {
    return is_kind(value, kOwnKind<T>);
  } else if constexpr (form == Form::null) {
    return value.is_none();
  } else if constexpr (form == Form::boolean) {
    return is_kind(value, ValueKind::boolean);
  } else if constexpr (form == Form::integer) {
    return is_kind(value, ValueKind::integer);
  } else if constexpr (form == Form::real) {
    return is_kind(value, ValueKind::real);
  } else if constexpr (form == Form::character || form == Form::text || form == Form::path) {
    return is_text(value);
  } else if constexpr (form == Form::complex) {
    return is_kind(value, ValueKind::complex);
  } else if constexpr (form == Form::bytes) {
    return is_byte_run(value);
  } else if constexpr (form == Form::exception) {
    return holds_exception<T>(value);
  } else if constexpr (form == Form::exception_ptr) {
    return is_kind(value, ValueKind::exception);
  } else if constexpr (form == Form::handle) {
    return find_handle(value, wire::type_key<T>()) != nullptr;
  } else if constexpr (form == Form::optional) {
    return value.is_none() || holds<typename T::value_type>(value);
  } else if constexpr (form == Form::variant) {
    return HoldsOne<T>::of(value);
  } else if constexpr (form == Form::tuple) {
    return is_sequence(value) && tuple_holds<T>(value);
  } else if constexpr (form == Form::map) {
    return is_kind(value, ValueKind::dict) && all_hold<T>(value);
  } else if constexpr (form == Form::set) {
    return is_any_set(value) && all_hold<T>(value);
  } else {
    return is_sequence(value) && all_hold<T>(value);
  }
}

}  // namespace millrace::runtime
