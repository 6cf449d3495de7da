// What conversions between C++ values and Objects have in common.
#include <cmath>
#include <limits>
#include <millrace/object_convert.hpp>
#include <new>
#include <utility>

#include "runtime/base/utf8.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kMostInteger = std::numeric_limits<std::int64_t>::max();

bool holds_integer(const Object& value) noexcept {
  return is_kind(value, ValueKind::integer) || is_kind(value, ValueKind::boolean);
}

// The number as an int, where a float has no fraction.
std::int64_t whole_of(const Object& value) {
  if (holds_integer(value)) return Access::integer(value);
  if (!is_kind(value, ValueKind::real)) throw_not_a(value, "an int");
  const double real = Access::real(value);
  if (!(real >= -0x1p63 && real < 0x1p63) || real != std::trunc(real)) {
    throw_does_not_fit(value, "an int of 64 bits");
  }
  return static_cast<std::int64_t>(real);
}

std::string shown(const Object& value) {
  std::string text = value.repr();
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

Object object_of_bool(bool value) noexcept {
  return Access::plain(ValueKind::boolean, std::int64_t{value});
}
Object object_of_integer(std::int64_t value) noexcept {
  return Access::plain(ValueKind::integer, value);
}
Object object_of_unsigned(std::uint64_t value) {
  if (value > kMostInteger) {
    throw OverflowError(std::to_string(value) + " is beyond the 64 bits, with sign, of an int");
  }
  return object_of_integer(static_cast<std::int64_t>(value));
}
Object object_of_real(double value) noexcept { return Access::plain(ValueKind::real, value); }
Object object_of_text(std::string_view text) { return text_of(text); }
Object object_of_bytes(std::string_view bytes) { return text_node_of(ValueKind::bytes, bytes); }
Object object_of_bytearray(std::string_view bytes) {
  return text_node_of(ValueKind::bytearray, bytes);
}
Object object_of_slice(const Slice& slice) {
  Object parts[] = {slice.start(), slice.stop(), slice.step()};
  return items_of(ValueKind::slice, parts);
}
Object object_of_range(const Range& range) {
  return Access::adopt(::new (checked(std::malloc(sizeof(RangeNode)))) RangeNode(range));
}
Object object_of_complex(double real, double imaginary) {
  void* const block = checked(std::malloc(sizeof(ComplexNode)));
  return Access::adopt(::new (block) ComplexNode(real, imaginary));
}

template <class T>
const Object& object_inside(const T& container) noexcept {
  return Access::inside(container);
}
template const Object& object_inside(const List&) noexcept;
template const Object& object_inside(const Tuple&) noexcept;
template const Object& object_inside(const Dict&) noexcept;
template const Object& object_inside(const Set&) noexcept;
template const Object& object_inside(const FrozenSet&) noexcept;

void throw_not_a(const Object& value, const char* wanted) {
  throw TypeError(std::string("expected ") + wanted + ", not " + value.type_name() + ": " +
                  shown(value));
}
void throw_length(const Object& value, std::size_t wanted) {
  throw ValueError("expected " + std::to_string(wanted) + " elements, not " +
                   std::to_string(value.size()) + ": " + shown(value));
}
void throw_does_not_fit(const Object& value, const char* type) {
  throw ValueError(shown(value) + " does not fit " + type);
}
void throw_no_handle(const Object& value, std::string_view type) {
  if (is_kind(value, ValueKind::instance)) {
    const std::string wanted = std::string(type) +
                               " (made only of what a peer sends that has proved the authkey, or "
                               "is a process of this user on this machine)";
    throw_not_a(value, wanted.c_str());
  }
  throw_not_a(value, std::string(type).c_str());
}

bool to_bool(const Object& value) {
  if (!is_kind(value, ValueKind::boolean)) throw_not_a(value, "a bool");
  return Access::integer(value) != 0;
}
std::int64_t to_integer(const Object& value, std::int64_t least, std::int64_t most) {
  const std::int64_t whole = whole_of(value);
  if (whole < least || whole > most) {
    throw ValueError(shown(value) + " does not fit an integer from " + std::to_string(least) +
                     " to " + std::to_string(most));
  }
  return whole;
}
std::uint64_t to_unsigned(const Object& value, std::uint64_t most) {
  const std::int64_t whole = whole_of(value);
  if (whole < 0 || static_cast<std::uint64_t>(whole) > most) {
    throw ValueError(shown(value) + " does not fit an integer from 0 to " + std::to_string(most));
  }
  return static_cast<std::uint64_t>(whole);
}
double to_real(const Object& value) {
  if (is_kind(value, ValueKind::real)) return Access::real(value);
  if (!holds_integer(value)) throw_not_a(value, "a float");
  const auto real = static_cast<double>(Access::integer(value));
  if (real >= 0x1p63 || static_cast<std::int64_t>(real) != Access::integer(value)) {
    throw_does_not_fit(value, "a double exactly");
  }
  return real;
}
float to_float(const Object& value) {
  const double real = to_real(value);
  const auto narrow = static_cast<float>(real);
  if (static_cast<double>(narrow) != real && !std::isnan(real)) {
    throw_does_not_fit(value, "a float exactly");
  }
  return narrow;
}
char to_character(const Object& value) {
  if (!is_text(value)) throw_not_a(value, "a str");
  if (Access::text(value).size() != 1) throw_does_not_fit(value, "a char");
  return Access::text(value)[0];
}
std::string to_text(const Object& value) {
  if (!is_text(value)) throw_not_a(value, "a str");
  return std::string(Access::text(value));
}
Bytes to_bytes(const Object& value) {
  if (!is_byte_run(value)) throw_not_a(value, "bytes");
  return {Access::text(value)};
}
Slice to_slice(const Object& value) {
  const auto parts = Access::node<ItemsNode>(to_own(value, ValueKind::slice))->span();
  return {parts[0], parts[1], parts[2]};
}
Range to_range(const Object& value) {
  return Access::node<RangeNode>(to_own(value, ValueKind::range))->range;
}
std::pair<double, double> to_complex(const Object& value) {
  if (!is_kind(value, ValueKind::complex)) return {to_real(value), 0.0};
  const auto* const node = Access::node<ComplexNode>(value);
  return {node->real, node->imaginary};
}

const Object& to_own(const Object& value, ValueKind kind) {
  if (!is_kind(value, kind)) throw_not_a(value, std::string(kind_name(kind)).c_str());
  return value;
}
std::span<const Object> to_items(const Object& value) {
  if (!is_sequence(value)) throw_not_a(value, "a list or tuple");
  return Access::node<ItemsNode>(value)->span();
}
std::span<const TableEntry> to_entries(const Object& value, bool is_dict) {
  if (is_dict ? !is_kind(value, ValueKind::dict) : !is_any_set(value)) {
    throw_not_a(value, is_dict ? "a dict" : "a set");
  }
  return Access::node<TableNode>(value)->span();
}

bool is_kind(const Object& value, ValueKind kind) noexcept { return Access::kind(value) == kind; }
bool is_text(const Object& value) noexcept {
  return is_kind(value, ValueKind::short_text) || is_kind(value, ValueKind::text);
}
bool is_sequence(const Object& value) noexcept {
  return is_kind(value, ValueKind::list) || is_kind(value, ValueKind::tuple);
}
bool is_any_set(const Object& value) noexcept {
  return is_kind(value, ValueKind::set) || is_kind(value, ValueKind::frozenset);
}
bool is_byte_run(const Object& value) noexcept {
  return is_kind(value, ValueKind::bytes) || is_kind(value, ValueKind::bytearray);
}

}  // namespace millrace::runtime
