// Memory without a lock: RawValue and RawArray, and what Value and Array (sharedctypes.hpp) share
// with them. Python: multiprocessing.sharedctypes.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <millrace/bytes.hpp>
#include <millrace/errors.hpp>
#include <millrace/shared_handle.hpp>
#include <millrace/wire/kinds.hpp>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

namespace sharedctypes {

template <class T>
inline constexpr bool kCanBeShared =
    std::is_trivially_copyable_v<T> && !std::is_const_v<T> && !std::is_reference_v<T>;

shm::ObjectRef make_memory(std::size_t elements, std::size_t element_bytes, std::uint64_t type);
/// The index behind a Python index; IndexError when there is none.
std::size_t checked_index(std::ptrdiff_t index, std::size_t size);
/// The part of a sequence that a Python slice means.
struct Part {
  std::size_t first;
  std::size_t count;
};
Part part_of(std::ptrdiff_t first, std::ptrdiff_t last, std::size_t size);
/// ValueError when a slice or a text does not fit.
void check_length(std::size_t given, std::size_t wanted);
void check_text(std::size_t given, std::size_t room);
[[noreturn]] void throw_negative_size();
[[noreturn]] void throw_moved_from(const char* what);

/// "3", "2.0", "'x'": an arithmetic value as ctypes shows it.
std::string text_of(wchar_t value);
std::string text_of(long long value);
std::string text_of(unsigned long long value);
std::string text_of(double value);

template <class T>
constexpr std::string_view ctypes_name() {
  if constexpr (std::same_as<T, bool>) return "c_bool";
  if constexpr (std::same_as<T, char>) return "c_char";
  if constexpr (std::same_as<T, wchar_t>) return "c_wchar";
  if constexpr (std::same_as<T, signed char>) return "c_byte";
  if constexpr (std::same_as<T, unsigned char>) return "c_ubyte";
  if constexpr (std::same_as<T, short>) return "c_short";
  if constexpr (std::same_as<T, unsigned short>) return "c_ushort";
  if constexpr (std::same_as<T, int>) return "c_int";
  if constexpr (std::same_as<T, unsigned>) return "c_uint";
  if constexpr (std::same_as<T, long> || std::same_as<T, long long>) return "c_long";
  if constexpr (std::same_as<T, unsigned long> || std::same_as<T, unsigned long long>) {
    return "c_ulong";
  }
  if constexpr (std::same_as<T, float>) return "c_float";
  if constexpr (std::same_as<T, double>) return "c_double";
  if constexpr (std::same_as<T, long double>) return "c_longdouble";
  return {};
}

/// "c_int(3)"; the type's own name for what has no counterpart.
template <class T>
std::string ctypes_repr(const T& value) {
  constexpr std::string_view name = ctypes_name<T>();
  if constexpr (name.empty()) {
    return std::string(wire::type_name<T>());
  } else {
    std::string text;
    if constexpr (std::same_as<T, bool>) {
      text = value ? "True" : "False";
    } else if constexpr (std::same_as<T, char>) {
      text = Bytes(std::string(1, value)).repr();
    } else if constexpr (std::same_as<T, wchar_t>) {
      text = text_of(value);
    } else if constexpr (std::floating_point<T>) {
      text = text_of(static_cast<double>(value));
    } else if constexpr (std::is_signed_v<T>) {
      text = text_of(static_cast<long long>(value));
    } else {
      text = text_of(static_cast<unsigned long long>(value));
    }
    return std::string(name) + "(" + text + ")";
  }
}

/// "<multiprocessing.sharedctypes.c_int_Array_3 object at 0x20000000>"; `element` is ctypes' name
/// for it, or the type's own.
std::string array_repr(std::string_view element, std::size_t elements, const shm::ObjectRef& array);
template <class T>
std::string array_repr_of(std::size_t elements, const shm::ObjectRef& array) {
  constexpr std::string_view name = ctypes_name<T>();
  return array_repr(name.empty() ? wire::type_name<T>() : name, elements, array);
}

/// A range whose elements an array of T can be made of. Text is not one: it goes by string_view.
template <class R, class T>
concept ElementsOf =
    std::ranges::input_range<R> && std::convertible_to<std::ranges::range_reference_t<R>, T> &&
    !(std::same_as<T, char> && std::convertible_to<R, std::string_view>);

template <class T, class R>
std::vector<T> collect(R&& range) {
  std::vector<T> all;
  for (auto&& element : range) all.push_back(static_cast<T>(element));
  return all;
}

}  // namespace sharedctypes

/// One T in shared memory. Nothing is locked. Python: sharedctypes.RawValue, T03.
template <class T>
class RawValue : public shm::SharedHandle {
  static_assert(sharedctypes::kCanBeShared<T>,
                "millrace: a shared value is seen as bytes by every process: T must be trivially "
                "copyable and not const; for strings and containers use mp::shared_allocator");

 public:
  using SharedType = RawValue;
  using value_type = T;
  /// All bytes zero.
  RawValue() : SharedHandle(sharedctypes::make_memory(1, sizeof(T), tag())) {}
  explicit RawValue(const T& value) : RawValue() { get_obj() = value; }
  /// For the library: an object that exists.
  RawValue(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  [[nodiscard]] T get() const { return get_obj(); }
  void set(const T& value) const { get_obj() = value; }
  /// The value itself.
  [[nodiscard]] T& get_obj() const {
    if (object().payload() == nullptr) sharedctypes::throw_moved_from("RawValue");
    return *static_cast<T*>(object().payload());
  }
  /// "c_int(3)".
  [[nodiscard]] std::string repr() const { return sharedctypes::ctypes_repr(get_obj()); }

  static std::uint64_t tag() { return shm::object_type<RawValue>(); }
};

/// `size()` elements in shared memory, a contiguous range. Nothing is locked.
/// Python: sharedctypes.RawArray, T04.
template <class T>
class RawArray : public shm::SharedHandle {
  static_assert(sharedctypes::kCanBeShared<T>,
                "millrace: shared elements are seen as bytes by every process: T must be trivially "
                "copyable and not const; for strings and containers use mp::shared_allocator");

 public:
  using SharedType = RawArray;
  using value_type = T;
  using iterator = T*;

  /// `n` elements, all bytes zero. ValueError for a negative number.
  template <std::integral N>
  explicit RawArray(N n) : SharedHandle(make(n < N{} ? -1 : 0, static_cast<std::size_t>(n))) {}
  RawArray(std::initializer_list<T> elements) : RawArray(Copied{}, elements) {}
  /// Copies of a range's elements, converted as by assignment.
  template <sharedctypes::ElementsOf<T> R>
  requires(!std::derived_from<std::remove_cvref_t<R>, shm::SharedHandle>) explicit RawArray(
      R&& range)
      : RawArray(Copied{}, sharedctypes::collect<T>(range)) {}
  /// The text, without a terminating NUL.
  explicit RawArray(std::string_view text) requires std::same_as<T, char>
      : RawArray(Copied{}, std::span<const char>(text)) {}
  /// For the library: an object that exists.
  RawArray(shm::Existing, shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}

  [[nodiscard]] T* data() const noexcept { return static_cast<T*>(object().payload()); }
  [[nodiscard]] std::size_t size() const noexcept {
    return data() == nullptr ? 0 : static_cast<std::size_t>(shm::prefix_of(data()).elements);
  }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// A plain pointer's: not checked.
  [[nodiscard]] T& operator[](std::size_t i) const noexcept { return data()[i]; }
  /// Checked; negative indexes count from the end. Throws IndexError.
  [[nodiscard]] T& at(std::ptrdiff_t i) const {
    return data()[sharedctypes::checked_index(i, size())];
  }
  [[nodiscard]] T* begin() const noexcept { return data(); }
  [[nodiscard]] T* end() const noexcept { return data() + size(); }
  [[nodiscard]] std::span<T> span() const noexcept { return {data(), size()}; }

  /// The text up to the first NUL. Python: T14.
  [[nodiscard]] std::string value() const requires std::same_as<T, char> {
    return {begin(), std::find(begin(), end(), '\0')};
  }
  /// Writes a text, and a NUL behind it if there is room. ValueError when it is too long.
  void value(std::string_view text) const requires std::same_as<T, char> {
    sharedctypes::check_text(text.size(), size());
    if (!text.empty()) std::memcpy(data(), text.data(), text.size());
    if (text.size() < size()) data()[text.size()] = '\0';
  }
  /// All bytes. Python: T15.
  [[nodiscard]] std::string raw() const requires std::same_as<T, char> { return {begin(), end()}; }
  /// "<multiprocessing.sharedctypes.c_int_Array_3 object at 0x20000000>".
  [[nodiscard]] std::string repr() const {
    return sharedctypes::array_repr_of<T>(size(), object());
  }

  static std::uint64_t tag() { return shm::object_type<RawArray>(); }

 private:
  struct Copied {};
  RawArray(Copied, std::span<const T> elements) : RawArray(elements.size()) {
    if (!elements.empty()) std::memcpy(data(), elements.data(), elements.size_bytes());
  }
  static shm::ObjectRef make(int sign, std::size_t n) {
    if (sign < 0) sharedctypes::throw_negative_size();
    return sharedctypes::make_memory(n, sizeof(T), tag());
  }
};

}  // namespace millrace
