// C++ values to mp::Objects, type by type. What can be compiled once is in the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <millrace/object_containers.hpp>
#include <millrace/object_core.hpp>
#include <millrace/object_handle.hpp>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

namespace millrace::runtime {

Object object_of_bool(bool value) noexcept;
Object object_of_integer(std::int64_t value) noexcept;
Object object_of_unsigned(std::uint64_t value);  // OverflowError beyond 2^63 - 1
Object object_of_real(double value) noexcept;
Object object_of_text(std::string_view text);
Object object_of_bytes(std::string_view bytes);
Object object_of_bytearray(std::string_view bytes);
Object object_of_slice(const Slice& slice);
Object object_of_range(const Range& range);
Object object_of_complex(double real, double imaginary);
Object object_of_exception(std::exception_ptr error);
/// The value inside one of the library's containers.
template <class T>
const Object& object_inside(const T& container) noexcept;

template <class T>
Object list_of(T&& range) {
  List list;
  if constexpr (requires { range.size(); }) list.reserve(range.size());
  for (auto&& each : range) {
    using Element = typename std::remove_cvref_t<decltype(range)>;
    if constexpr (std::is_array_v<Element>) {
      list.append(make_object(each));
    } else if constexpr (std::is_rvalue_reference_v<T&&>) {
      list.append(make_object(static_cast<typename Element::value_type>(std::move(each))));
    } else {
      const typename Element::value_type& element = each;  // vector<bool> gives proxies
      list.append(make_object(element));
    }
  }
  return make_object(std::move(list));
}

template <class T>
Object dict_of(const T& map) {
  Dict dict;
  for (const auto& [key, value] : map) dict.set(make_object(key), make_object(value));
  return make_object(std::move(dict));
}

template <class T>
Object set_of(const T& elements) {
  Set set;
  for (const auto& each : elements) set.add(make_object(each));
  return make_object(std::move(set));
}

template <class T>
Object bytes_of(const T& range) {
  if constexpr (requires { range.data(); }) {
    return object_of_bytes({reinterpret_cast<const char*>(range.data()), range.size()});
  } else {
    std::string bytes;
    for (const std::byte each : range) bytes.push_back(static_cast<char>(each));
    return object_of_bytes(bytes);
  }
}

/// One of the library's own types.
template <class T>
Object object_of_own(T&& value) {
  using V = std::remove_cvref_t<T>;
  if constexpr (std::is_same_v<V, Bytes>) {
    return object_of_bytes(value.view());
  } else if constexpr (std::is_same_v<V, ByteArray>) {
    return object_of_bytearray(value.view());
  } else if constexpr (std::is_same_v<V, Slice>) {
    return object_of_slice(value);
  } else if constexpr (std::is_same_v<V, Range>) {
    return object_of_range(value);
  } else if constexpr (std::is_rvalue_reference_v<T&&> && !std::is_const_v<T>) {
    return std::move(const_cast<Object&>(object_inside(value)));
  } else {
    return object_inside(value);
  }
}

/// What is made of other values.
template <Form F, class T>
Object object_of_compound(T&& value) {
  if constexpr (F == Form::optional) {
    return value.has_value() ? make_object(*std::forward<T>(value)) : Object();
  } else if constexpr (F == Form::variant) {
    return std::visit([](auto&& each) { return make_object(std::forward<decltype(each)>(each)); },
                      std::forward<T>(value));
  } else if constexpr (F == Form::tuple) {
    return std::apply(
        [](auto&&... each) {
          Object elements[sizeof...(each) + 1] = {
              make_object(std::forward<decltype(each)>(each))...};
          return make_object(Tuple(std::span<Object>(elements, sizeof...(each))));
        },
        std::forward<T>(value));
  } else if constexpr (F == Form::sequence) {
    return list_of(std::forward<T>(value));
  } else if constexpr (F == Form::map) {
    return dict_of(value);
  } else {
    static_assert(F == Form::set);
    return set_of(value);
  }
}

template <class T>
Object make_object(T&& value) {
  using V = std::remove_cvref_t<T>;
  constexpr Form form = kForm<V>;
  if constexpr (form == Form::object) {
    return std::forward<T>(value);
  } else if constexpr (form == Form::own) {
    return object_of_own(std::forward<T>(value));
  } else if constexpr (form == Form::null) {
    return {};
  } else if constexpr (form == Form::boolean) {
    return object_of_bool(value);
  } else if constexpr (form == Form::integer && std::is_unsigned_v<V>) {
    return object_of_unsigned(value);
  } else if constexpr (form == Form::integer) {
    return object_of_integer(value);
  } else if constexpr (form == Form::real) {
    return object_of_real(static_cast<double>(value));
  } else if constexpr (form == Form::character) {
    return object_of_text({&value, 1});
  } else if constexpr (form == Form::text) {
    return object_of_text(value);
  } else if constexpr (form == Form::path) {
    return object_of_text(value.native());
  } else if constexpr (form == Form::bytes) {
    return bytes_of(value);
  } else if constexpr (form == Form::complex) {
    return object_of_complex(static_cast<double>(value.real()), static_cast<double>(value.imag()));
  } else if constexpr (form == Form::exception) {
    return object_of_exception(std::make_exception_ptr(value));
  } else if constexpr (form == Form::exception_ptr) {
    return object_of_exception(std::forward<T>(value));
  } else if constexpr (form == Form::handle) {
    return object_of_handle(handle_ops<V>(), &value);
  } else {
    return object_of_compound<form>(std::forward<T>(value));
  }
}

}  // namespace millrace::runtime
