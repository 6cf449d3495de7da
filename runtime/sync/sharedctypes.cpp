// The byte core of Value, Array and their raw kin.
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <millrace/arena.hpp>
#include <millrace/sharedctypes.hpp>
#include <system_error>

#include "runtime/base/utf8.hpp"
#include "runtime/sync/synchronize.hpp"

namespace millrace::sharedctypes {

shm::ObjectRef make_memory(std::size_t elements, std::size_t element_bytes, std::uint64_t type) {
  if (elements > std::numeric_limits<std::size_t>::max() / 2 / element_bytes) {
    shm::throw_array_too_long(elements, element_bytes);
  }
  return shm::ObjectRef(shm::ObjectRequest{elements * element_bytes, type, elements, {}});
}

shm::ObjectRef make_synchronized(const std::optional<AnyLock>& lock, const shm::ObjectRef& memory,
                                 std::uint64_t type) {
  if (memory.payload() == nullptr) throw_moved_from("synchronized");
  const AnyLock used = lock ? *lock : AnyLock(RLock());
  shm::ObjectRef made(shm::ObjectRequest{sizeof(Synchronized), type, 0, {}, 2});
  ::new (made.payload()) Synchronized{used, memory};
  return made;
}

std::size_t checked_index(std::ptrdiff_t index, std::size_t size) {
  const std::size_t k = static_cast<std::size_t>(index) + (index < 0 ? size : 0);
  if (k < size) return k;
  throw IndexError("index " + std::to_string(index) + " in an array of " + std::to_string(size));
}

Part part_of(std::ptrdiff_t first, std::ptrdiff_t last, std::size_t size) {
  const auto all = static_cast<std::ptrdiff_t>(size);
  const auto clamp = [all](std::ptrdiff_t i) {
    return std::clamp<std::ptrdiff_t>(i < 0 ? i + all : i, 0, all);
  };
  const std::ptrdiff_t from = clamp(first);
  const std::ptrdiff_t to = std::max(from, clamp(last));
  return {static_cast<std::size_t>(from), static_cast<std::size_t>(to - from)};
}

void check_length(std::size_t given, std::size_t wanted) {
  if (given == wanted) return;
  throw ValueError("can only assign a sequence of the same length: " + std::to_string(given) +
                   " elements to " + std::to_string(wanted));
}

void check_text(std::size_t given, std::size_t room) {
  if (given <= room) return;
  throw ValueError("byte string too long: " + std::to_string(given) + " bytes in an array of " +
                   std::to_string(room));
}

void throw_negative_size() { throw ValueError("Array length must be >= 0"); }
void throw_moved_from(const char* what) { runtime::throw_moved_from(what); }

std::string text_of(long long value) { return std::to_string(value); }
std::string text_of(unsigned long long value) { return std::to_string(value); }

std::string text_of(double value) {
  if (std::isnan(value)) return "nan";
  const double size = std::fabs(value);
  // As Python chooses; by itself to_chars() takes the shorter one.
  const auto format = size >= 1e16 || (size > 0 && size < 1e-4) ? std::chars_format::scientific
                                                                : std::chars_format::fixed;
  std::array<char, 64> text{};
  const auto written = std::to_chars(text.begin(), text.end(), value, format);
  std::string shown(text.data(), written.ptr);
  if (format == std::chars_format::fixed &&
      shown.find_first_not_of("-0123456789") == std::string::npos)
    shown += ".0";
  return shown;
}

std::string text_of(wchar_t value) {
  std::string text;
  runtime::put_code_point(text, static_cast<char32_t>(value));
  std::string shown;
  runtime::put_text_repr(shown, text);
  return shown;
}

std::string array_repr(std::string_view element, std::size_t elements,
                       const shm::ObjectRef& array) {
  return "<multiprocessing.sharedctypes." + std::string(element) + "_Array_" +
         std::to_string(elements) + " object at " + runtime::address_text(array) + ">";
}

}  // namespace millrace::sharedctypes
