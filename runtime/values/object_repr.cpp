// What values look like: Python's repr() and str().
#include <charconv>
#include <cmath>
#include <ostream>
#include <string>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/utf8.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace {
namespace runtime {
namespace {

using Kind = ValueKind;

// The shortest digits that read back as the same number, laid out as Python does; whole numbers end
// in ".0" if `dot`.
void put_real(std::string& out, double value, bool dot) {
  if (std::isnan(value)) {
    out += "nan";
    return;
  }
  if (std::signbit(value)) out += '-';
  if (std::isinf(value)) {
    out += "inf";
    return;
  }
  char text[40];
  const char* const end =
      std::to_chars(text, text + sizeof text, std::fabs(value), std::chars_format::scientific).ptr;
  const std::string_view all(text, static_cast<std::size_t>(end - text));
  const std::size_t mark = all.find('e');
  std::string digits(1, all[0]);
  if (mark > 2) digits += all.substr(2, mark - 2);
  int exponent = 0;
  std::from_chars(text + mark + (all[mark + 1] == '+' ? 2 : 1), end, exponent);
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out.append(".").append(digits, 1);
    out += exponent < 0 ? "e-" : "e+";
    if (std::abs(exponent) < 10) out += '0';
    out += std::to_string(std::abs(exponent));
  } else if (exponent < 0) {
    out.append("0.").append(static_cast<std::size_t>(-exponent - 1), '0').append(digits);
  } else if (count <= exponent + 1) {
    out.append(digits).append(static_cast<std::size_t>(exponent + 1 - count), '0');
    if (dot) out += ".0";
  } else {
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    out.append(digits, 0, whole).append(".").append(digits, whole);
  }
}

void put_complex(std::string& out, const ComplexNode& value) {
  const bool imaginary_only = value.real == 0 && !std::signbit(value.real);
  if (!imaginary_only) {
    out += '(';
    put_real(out, value.real, false);
    if (std::isnan(value.imaginary) || !std::signbit(value.imaginary)) out += '+';
  }
  put_real(out, value.imaginary, false);
  out += imaginary_only ? "j" : "j)";
}

// "open a, b close"; a tuple of one ends in a comma.
void put_items(std::string& out, const Object& value, int depth) {
  const bool tuple = Access::kind(value) == Kind::tuple;
  const auto items = Access::node<ItemsNode>(value)->span();
  out += tuple ? '(' : '[';
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i != 0) out += ", ";
    put_repr(out, items[i], depth + 1);
  }
  if (tuple && items.size() == 1) out += ',';
  out += tuple ? ')' : ']';
}

void put_table(std::string& out, const Object& value, int depth) {
  auto& table = *Access::node<TableNode>(value);
  const Kind kind = table.kind;
  if (kind == Kind::set && table.live == 0) {
    out += "set()";
    return;
  }
  if (kind == Kind::frozenset) out += "frozenset(";
  const bool braces = kind != Kind::frozenset || table.live != 0;
  if (braces) out += '{';
  const char* before = "";
  for (const TableEntry& each : table.span()) {
    if (each.hash == TableEntry::kHole) continue;
    out += before;
    before = ", ";
    put_repr(out, each.key, depth + 1);
    if (kind != Kind::dict) continue;
    out += ": ";
    put_repr(out, each.value, depth + 1);
  }
  if (braces) out += '}';
  if (kind == Kind::frozenset) out += ')';
}

void put_range(std::string& out, const Range& range) {
  out += "range(" + std::to_string(range.start()) + ", " + std::to_string(range.stop());
  if (range.step() != 1) out += ", " + std::to_string(range.step());
  out += ')';
}

// name(arguments), as an exception shows itself.
void put_call(std::string& out, std::string_view name, const Object& arguments, int depth) {
  out += name;
  const auto items = Access::node<ItemsNode>(arguments)->span();
  if (items.size() == 1) {
    out += '(';
    put_repr(out, items[0], depth + 1);
    out += ')';
  } else {
    put_items(out, arguments, depth);
  }
}

void put_handle(std::string& out, const Object& value) {
  auto& node = *Access::node<HandleNode>(value);
  const std::string text = node.ops->repr(node.handle());
  out += text.empty() ? "<" + value.type_name() + ">" : text;
}

void put_global(std::string& out, const Object& value) {
  const auto items = Access::node<ItemsNode>(value)->span();
  out.append("<class '").append(items[0].str() + "." + items[1].str()).append("'>");
}

// True for an OSError that tells its errno: of Python's own, there is another TimeoutError.
template <class Items>
bool tells_errno(const Object& exception, const Items& arguments) {
  return arguments.size() >= 2 && arguments.size() <= 5 && is_os_error(exception.type_name()) &&
         Access::text(Access::node<ItemsNode>(exception)->items[0]) == "builtins";
}

// True for an OSError that names a file: its arguments are {errno, text, file, None, other file}.
template <class Items>
bool names_file(const Object& exception, const Items& arguments) {
  if (arguments.size() < 3 || arguments[2].is_none()) return false;
  if (!tells_errno(exception, arguments)) return false;
  const bool number = arguments[2].template is<std::int64_t>() || arguments[2].template is<bool>();
  return !number || exception.type_name() != "BlockingIOError";  // of which it is a count
}

// Python takes the files for no arguments: they are in str() alone.
Object shown_arguments(const Object& exception) {
  const Object& arguments = Access::node<ItemsNode>(exception)->items[2];
  const auto items = Access::node<ItemsNode>(arguments)->span();
  if (!names_file(exception, items)) return arguments;
  return Object(Tuple{items[0], items[1]});
}

void put_node(std::string& out, const Object& value, int depth) {
  switch (Access::kind(value)) {
    case Kind::bytes:
      out += Bytes(Access::text(value)).repr();
      break;
    case Kind::bytearray:
      out += ByteArray(Access::text(value)).repr();
      break;
    case Kind::list:
    case Kind::tuple:
      put_items(out, value, depth);
      break;
    case Kind::slice: {
      const Slice slice = to_slice(value);
      put_call(out, "slice", Tuple{slice.start(), slice.stop(), slice.step()}, depth);
      break;
    }
    case Kind::range:
      put_range(out, Access::node<RangeNode>(value)->range);
      break;
    case Kind::complex:
      put_complex(out, *Access::node<ComplexNode>(value));
      break;
    case Kind::exception:
      put_call(out, value.type_name(), shown_arguments(value), depth);
      break;
    case Kind::handle:
      put_handle(out, value);
      break;
    case Kind::global:
      put_global(out, value);
      break;
    case Kind::instance:
      put_call(out, value.type_name(), Access::node<ItemsNode>(value)->items[1], depth);
      break;
    default:
      put_table(out, value, depth);
  }
}

// str() of an exception: its one argument, or all of them.
std::string exception_text(const Object& value) {
  const Object& arguments = Access::node<ItemsNode>(value)->items[2];
  const auto items = Access::node<ItemsNode>(arguments)->span();
  if (items.empty()) return {};
  const std::string name = value.type_name();
  if (items.size() == 1) return name == "KeyError" ? items[0].repr() : items[0].str();
  if (tells_errno(value, items)) {
    std::string text = "[Errno " + items[0].str() + "] " + items[1].str();
    if (!names_file(value, items)) return text;
    text += ": " + items[2].repr();
    if (items.size() > 4 && !items[4].is_none()) text += " -> " + items[4].repr();
    return text;
  }
  return arguments.repr();
}

// The name that a handle's C++ type has in Python: the last part, without template arguments.
std::string short_name(std::string_view type) {
  type = type.substr(0, type.find('<'));
  const std::size_t colon = type.rfind(':');
  return std::string(colon == std::string_view::npos ? type : type.substr(colon + 1));
}

}  // namespace

std::string_view kind_name(ValueKind kind) noexcept {
  static constexpr std::string_view kNames[] = {
      "NoneType", "bool",      "int",     "float",     "str",    "str",  "str",
      "bytes",    "bytearray", "list",    "tuple",     "dict",   "set",  "frozenset",
      "slice",    "range",     "complex", "Exception", "handle", "type", "instance"};
  return kNames[static_cast<std::size_t>(kind)];
}

void put_repr(std::string& out, const Object& value, int depth) {
  if (depth > kMaxNesting) throw_nested_too_deeply();
  switch (Access::kind(value)) {
    case Kind::none:
      out += "None";
      break;
    case Kind::boolean:
      out += Access::integer(value) != 0 ? "True" : "False";
      break;
    case Kind::integer:
      out += std::to_string(Access::integer(value));
      break;
    case Kind::real:
      put_real(out, Access::real(value), true);
      break;
    case Kind::short_text:
    case Kind::text:
      put_text_repr(out, Access::text(value));
      break;
    default:
      put_node(out, value, depth);
  }
}

}  // namespace runtime

using runtime::Access;
using runtime::ValueKind;

std::string Object::repr() const {
  std::string out;
  runtime::put_repr(out, *this);
  return out;
}

std::string Object::str() const {
  if (runtime::is_text(*this)) return std::string(Access::text(*this));
  if (kind() == ValueKind::exception) return runtime::exception_text(*this);
  return repr();
}

std::string Object::type_name() const {
  switch (kind()) {
    case ValueKind::exception:
      return std::string(Access::text(Access::node<runtime::ItemsNode>(*this)->items[1]));
    case ValueKind::handle:
      return runtime::short_name(
          runtime::demangle(Access::node<runtime::HandleNode>(*this)->ops->type.data()));
    case ValueKind::instance: {
      const Object& callable = Access::node<runtime::ItemsNode>(*this)->items[0];
      if (callable.kind() != ValueKind::global) return callable.type_name();
      return std::string(Access::text(Access::node<runtime::ItemsNode>(callable)->items[1]));
    }
    default:
      return std::string(runtime::kind_name(kind()));
  }
}

// As of bytes, but an apostrophe is escaped within either kind of quotes.
std::string ByteArray::repr() const {
  const std::string bytes = bytes_.repr();
  std::string out = "bytearray(";
  const bool escape = bytes[1] == '"';
  for (const char each : bytes) {
    if (escape && each == '\'') out += '\\';
    out += each;
  }
  return out + ')';
}

std::ostream& Object::write(std::ostream& out) const { return out << str(); }

}  // namespace millrace
