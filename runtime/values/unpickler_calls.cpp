// Names in a pickle, and what becomes of calling them: values of the library's own types; of the
// other names on the list a record of the call, which says the same when it is written again.
#include <cstring>
#include <utility>

#include "runtime/base/utf8.hpp"
#include "runtime/values/pickle_handles.hpp"
#include "runtime/values/unpickler.hpp"

namespace millrace::runtime {
namespace {

std::span<Object> elements(const Object& items) { return Access::node<ItemsNode>(items)->span(); }

// A global keeps what it is in the place of a capacity that it does not need.
Callable callable_of(const Object& global) {
  return static_cast<Callable>(Access::node<ItemsNode>(global)->capacity);
}

Object made_slice(std::span<Object> parts) {
  switch (parts.size()) {
    case 1:
      return object_of_slice(Slice(parts[0]));
    case 2:
      return object_of_slice(Slice(parts[0], parts[1]));
    case 3:
      return object_of_slice(Slice(parts[0], parts[1], parts[2]));
    default:
      refuse("a slice of " + std::to_string(parts.size()) + " parts");
  }
}

Object made_range(std::span<Object> parts) {
  std::int64_t numbers[3] = {0, 0, 1};
  if (parts.empty() || parts.size() > 3) refuse("a range without its numbers");
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!is_kind(parts[i], ValueKind::integer)) refuse("a range of something else than ints");
    numbers[parts.size() == 1 ? 1 : i] = Access::integer(parts[i]);
  }
  return object_of_range(Range(numbers[0], numbers[1], numbers[2]));
}

Object made_complex(std::span<Object> parts) {
  if (parts.size() > 2) refuse("a complex of more than two parts");
  const double real = parts.empty() ? 0 : to_real(parts[0]);
  return object_of_complex(real, parts.size() < 2 ? 0 : to_real(parts[1]));
}

// Text whose code points are bytes, as protocols before 3 write them.
std::string latin1(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  const char* at = text.data();
  while (at != text.data() + text.size()) {
    const char32_t code = next_code_point(at, text.data() + text.size());
    if (code > 0xff) refuse("bytes written as text hold a code point above 255");
    bytes += static_cast<char>(code);
  }
  return bytes;
}

template <class T>
void append_numbers(List& list, std::string_view bytes) {
  if (bytes.size() % sizeof(T) != 0) refuse("an array ends within an element");
  list.reserve(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < bytes.size(); i += sizeof(T)) {
    T number;
    std::memcpy(&number, bytes.data() + i, sizeof number);
    list.append(number);
  }
}

// As Python writes an array of 'u' here: code points of four bytes each.
void append_characters(List& list, std::string_view bytes) {
  List codes;
  append_numbers<std::uint32_t>(codes, bytes);
  for (const Object& each : std::as_const(codes)) {
    const auto code = each.as<std::uint32_t>();
    if (code > 0x10ffff) refuse("an array of text holds what is no code point");
    std::string text;
    put_code_point(text, code);
    list.append(text);
  }
}

}  // namespace

List array_numbers(char typecode, std::string_view bytes) {
  List list;
  if (typecode == 'u') {
    append_characters(list, bytes);
    return list;
  }
  const auto append = [&]<class... T>(std::string_view codes, T...) {
    std::size_t i = 0;
    return ((codes[i++] == typecode ? (append_numbers<T>(list, bytes), true) : false) || ...);
  };
  if (!append("bBhHiIlLqQfd", std::int8_t{}, std::uint8_t{}, short{}, std::uint16_t{}, int{}, 0U,
              0L, 0UL, 0LL, 0ULL, 0.0F, 0.0)) {
    refuse(std::string("an array of typecode '") + typecode + "'");
  }
  return list;
}

void Unpickler::push_global(std::string_view module, std::string_view name) {
  const PickleName found = find_name(module, name);
  if (found.callable == Callable::refused) {
    std::string shown;
    put_text_repr(shown,
                  std::string(module.substr(0, 100)) + "." + std::string(name.substr(0, 100)));
    refuse("the global " + shown + " is not on the list of those that are data");
  }
  Object made = Access::adopt(new_items(ValueKind::global, 2));
  auto& global = *Access::node<ItemsNode>(made);
  global.items[0] = text_of(found.module);
  global.items[1] = text_of(found.name);
  global.capacity = static_cast<std::size_t>(found.callable);
  push(std::move(made));
}

void Unpickler::call(bool by_newobj) {
  static_cast<void>(top(1));
  Object arguments = pop();
  const Object callable = pop();
  if (!is_kind(arguments, ValueKind::tuple)) refuse("the arguments of a call are no tuple");
  const bool global = is_kind(callable, ValueKind::global);
  if (!global && !is_kind(callable, ValueKind::instance)) refuse("a call of a value");
  if (global && callable_of(callable) != Callable::opaque) {
    if (by_newobj && callable_of(callable) != Callable::exception) {
      refuse("a type of Python's own made by NEWOBJ");
    }
    push(made_of(callable, arguments));
    return;
  }
  Object made = Access::adopt(new_items(ValueKind::instance, 4));
  auto& record = *Access::node<ItemsNode>(made);
  record.items[0] = callable;
  record.items[1] = std::move(arguments);
  if (by_newobj) record.items[3] = object_of_bool(true);
  account(record, record.span());
  push(limits_.handles ? handle_of_python(std::move(made), arrival_) : std::move(made));
}

Object Unpickler::made_of(const Object& callable, Object& arguments) {
  const std::span<Object> parts = elements(arguments);
  switch (callable_of(callable)) {
    case Callable::slice: {
      Object made = made_slice(parts);
      account(*Access::node(made), parts);
      return made;
    }
    case Callable::range:
      return made_range(parts);
    case Callable::complex:
      return made_complex(parts);
    case Callable::bytes:
    case Callable::encode:
      return made_bytes(parts, ValueKind::bytes);
    case Callable::bytearray:
      return made_bytes(parts, ValueKind::bytearray);
    case Callable::array:
      return made_array(parts);
    case Callable::exception: {
      const auto name = elements(callable);
      Object made = exception_of_name(name[0], name[1], arguments);
      account(*Access::node(made), {&arguments, 1});
      return made;
    }
    default:
      break;
  }
  if (parts.size() > 1) refuse("a list or set made of more than one argument");
  const Object from = parts.empty() ? items_of(ValueKind::tuple, {}) : parts[0];
  const Callable what = callable_of(callable);
  if (what == Callable::list) return made_list(from);
  return made_set(from, what == Callable::set ? ValueKind::set : ValueKind::frozenset);
}

Object Unpickler::made_list(const Object& from) {
  if (is_kind(from, ValueKind::list)) return Access::share_private(from);
  if (!is_kind(from, ValueKind::tuple)) refuse("a list made of something else than a sequence");
  charge(elements(from).size());
  Object made = Access::adopt(new_list(elements(from).size()));
  account(*Access::node(made), elements(from));
  for (const Object& each : elements(from)) {
    append_to(*Access::node<ItemsNode>(made), Access::share_private(each));
  }
  return made;
}

Object Unpickler::made_set(const Object& from, ValueKind kind) {
  if (!is_sequence(from)) refuse("a set made of something else than a sequence");
  charge(elements(from).size());
  std::vector<Object> keys;
  keys.reserve(elements(from).size());
  for (const Object& each : elements(from)) keys.push_back(Access::share_private(each));
  Object made = Access::adopt(new_table(kind, 0));
  put_keys(*Access::node<TableNode>(made), keys);
  return made;
}

Object Unpickler::made_bytes(std::span<Object> arguments, ValueKind kind) {
  if (arguments.empty()) return text_node_of(kind, {});
  const Object& from = arguments[0];
  if (!is_byte_run(from) && !is_text(from)) refuse("bytes made of something else than bytes");
  charge(Access::text(from).size());
  Object made = is_text(from) ? text_node_of(kind, latin1(Access::text(from)))
                              : text_node_of(kind, Access::text(from));
  Access::node(made)->weight += Access::text(made).size() / 16;
  return made;
}

Object Unpickler::made_array(std::span<Object> arguments) {
  if (arguments.size() != 2 || !is_text(arguments[0]) || Access::text(arguments[0]).size() != 1) {
    refuse("an array without its typecode and elements");
  }
  if (is_sequence(arguments[1])) return made_list(arguments[1]);
  if (!is_byte_run(arguments[1])) refuse("an array of something else than bytes");
  const std::string_view bytes = Access::text(arguments[1]);
  charge(bytes.size());
  Object made = array_numbers(Access::text(arguments[0])[0], bytes);
  account(*Access::node(made), elements(made));
  return made;
}

// The attributes of an exception or record.
void Unpickler::build() {
  static_cast<void>(top(1));
  Object state = pop();
  Node& node = changeable(top(), ValueKind::instance, ValueKind::exception);
  auto& target = static_cast<ItemsNode&>(node);
  Object& place = target.items[node.kind == ValueKind::instance ? 2 : 3];
  if (!place.is_none()) refuse("the pickle sets a value's state twice");
  if (node.kind == ValueKind::exception && !is_kind(state, ValueKind::dict) && !state.is_none()) {
    refuse("an exception's state is no dict");
  }
  account(target, {&state, 1});
  place = std::move(state);
}

}  // namespace millrace::runtime
