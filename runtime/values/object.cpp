// What every Object can be asked: its size, its elements, what it contains.
#include <millrace/object.hpp>
#include <string>
#include <utility>

#include "runtime/base/utf8.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"

namespace millrace {

using runtime::Access;
using runtime::ItemsNode;
using runtime::RangeNode;
using runtime::TableNode;
using runtime::ValueKind;

namespace {

[[noreturn]] void throw_index(const Object& container) {
  const std::string name = container.type_name();
  throw IndexError((name == "str" ? "string" : name) + " index out of range");
}

// Where `i`, from the end if negative, lies among `size`.
std::size_t place_of(const Object& container, const Object& i, std::size_t size) {
  if (Access::kind(i) != ValueKind::integer && Access::kind(i) != ValueKind::boolean) {
    throw TypeError(container.type_name() + " indices must be integers or slices, not " +
                    i.type_name());
  }
  const std::int64_t index = Access::integer(i);
  const std::size_t place = static_cast<std::size_t>(index) + (index < 0 ? size : 0);
  if (place >= size) throw_index(container);
  return place;
}

// A slice's numbers for a container of `size`, as Python's slice.indices().
struct Steps {
  std::int64_t first;
  std::int64_t step;
  std::size_t count;
};

std::int64_t bound(const Object& wanted, std::int64_t otherwise, Steps limits) {
  if (wanted.is_none()) return otherwise;
  auto value = wanted.as<std::int64_t>();
  const auto size = static_cast<std::int64_t>(limits.count);
  const std::int64_t least = limits.step < 0 ? -1 : 0;
  if (value < 0) value = value < -size ? least : value + size;
  const std::int64_t most = limits.step < 0 ? size - 1 : size;
  return value < least ? least : value > most ? most : value;
}

Steps steps_of(const Slice& slice, std::size_t size) {
  const std::int64_t step = slice.step().is_none() ? 1 : slice.step().as<std::int64_t>();
  if (step == 0) throw ValueError("slice step cannot be zero");
  const Steps limits{0, step, size};
  const auto length = static_cast<std::int64_t>(size);
  const std::int64_t first = bound(slice.start(), step < 0 ? length - 1 : 0, limits);
  const std::int64_t last = bound(slice.stop(), step < 0 ? -1 : length, limits);
  return {first, step, static_cast<std::size_t>(Range(first, last, step).size())};
}

template <class At>
Object sliced_items(ValueKind kind, const Steps& steps, At&& at) {
  List list;
  list.reserve(steps.count);
  std::int64_t place = steps.first;
  for (std::size_t i = 0; i < steps.count; ++i, place += steps.step) {
    list.append(at(static_cast<std::size_t>(place)));
  }
  return kind == ValueKind::tuple ? Object(Tuple(list)) : Object(std::move(list));
}

// The code points of a text, each by itself.
List characters_of(std::string_view text) {
  List list;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const char* const from = at;
    runtime::next_code_point(at, end);
    list.append(runtime::text_of({from, static_cast<std::size_t>(at - from)}));
  }
  return list;
}

Object sliced(const Object& from, const Slice& slice) {
  const Steps steps = steps_of(slice, from.size());
  switch (Access::kind(from)) {
    case ValueKind::list:
    case ValueKind::tuple: {
      const auto items = Access::node<ItemsNode>(from)->span();
      return sliced_items(Access::kind(from), steps, [&](std::size_t i) { return items[i]; });
    }
    case ValueKind::range: {
      const Range& range = Access::node<RangeNode>(from)->range;
      const std::int64_t start = range.start() + steps.first * range.step();
      const std::int64_t step = range.step() * steps.step;
      return Range(start, start + static_cast<std::int64_t>(steps.count) * step, step);
    }
    default: {
      const bool text = runtime::is_text(from);
      const std::string_view bytes = Access::text(from);
      const List characters = text ? characters_of(bytes) : List();
      std::string out;
      std::int64_t place = steps.first;
      for (std::size_t i = 0; i < steps.count; ++i, place += steps.step) {
        if (text) {
          out += Access::text(characters[place]);
        } else {
          out += bytes[static_cast<std::size_t>(place)];
        }
      }
      if (text) return runtime::text_of(out);
      return runtime::text_node_of(Access::kind(from), out);
    }
  }
}

Object character_at(const Object& text, const Object& i) {
  const std::string_view bytes = Access::text(text);
  const std::size_t place = place_of(text, i, text.size());
  if (bytes.size() == text.size()) return runtime::text_of(bytes.substr(place, 1));
  const char* at = bytes.data();
  const char* from = at;
  for (std::size_t k = 0; k <= place; ++k) {
    from = at;
    runtime::next_code_point(at, bytes.data() + bytes.size());
  }
  return runtime::text_of({from, static_cast<std::size_t>(at - from)});
}

[[noreturn]] void throw_no_elements(const Object& value, const char* what) {
  throw TypeError("'" + value.type_name() + "' object " + what);
}

}  // namespace

Object Object::operator[](const Object& key) const {
  if (key.kind() == ValueKind::slice && kind() != ValueKind::dict) {
    return sliced(*this, runtime::to_slice(key));
  }
  switch (kind()) {
    case ValueKind::dict: {
      auto& table = *Access::node<TableNode>(*this);
      const std::uint32_t place = runtime::find_place(table, key);
      if (place == runtime::kNoPlace) throw KeyError(key.repr());
      return table.entries[place].value;
    }
    case ValueKind::list:
    case ValueKind::tuple: {
      const auto items = Access::node<ItemsNode>(*this)->span();
      return items[place_of(*this, key, items.size())];
    }
    case ValueKind::short_text:
    case ValueKind::text:
      return character_at(*this, key);
    case ValueKind::bytes:
    case ValueKind::bytearray: {
      const std::string_view bytes = Access::text(*this);
      return static_cast<unsigned char>(bytes[place_of(*this, key, bytes.size())]);
    }
    case ValueKind::range: {
      const Range& range = Access::node<RangeNode>(*this)->range;
      return range[static_cast<std::ptrdiff_t>(place_of(*this, key, range.size()))];
    }
    default:
      throw_no_elements(*this, "is not subscriptable");
  }
}

std::size_t Object::size() const {
  switch (kind()) {
    case ValueKind::list:
    case ValueKind::tuple:
      return Access::node<ItemsNode>(*this)->size;
    case ValueKind::dict:
    case ValueKind::set:
    case ValueKind::frozenset:
      return Access::node<TableNode>(*this)->live;
    case ValueKind::short_text:
    case ValueKind::text:
      return runtime::count_code_points(Access::text(*this));
    case ValueKind::bytes:
    case ValueKind::bytearray:
      return Access::text(*this).size();
    case ValueKind::range:
      return Access::node<RangeNode>(*this)->range.size();
    default:
      throw TypeError("object of type '" + type_name() + "' has no len()");
  }
}

bool Object::contains(const Object& element) const {
  switch (kind()) {
    case ValueKind::dict:
    case ValueKind::set:
    case ValueKind::frozenset:
      return runtime::find_place(*Access::node<TableNode>(*this), element) != runtime::kNoPlace;
    case ValueKind::short_text:
    case ValueKind::text:
      if (!runtime::is_text(element)) runtime::throw_not_a(element, "a str to look for");
      return Access::text(*this).find(Access::text(element)) != std::string_view::npos;
    default:
      for (const Object& each : *this) {
        if (runtime::same(each, element)) return true;
      }
      return false;
  }
}

Object::Iterator Object::begin() const {
  static_cast<void>(end());
  return {*this, 0};
}

Object::Iterator Object::end() const {
  switch (kind()) {
    case ValueKind::dict:
    case ValueKind::set:
    case ValueKind::frozenset:
      return {*this, Access::node<TableNode>(*this)->used};
    case ValueKind::short_text:
    case ValueKind::text:
      return {*this, Access::text(*this).size()};
    case ValueKind::list:
    case ValueKind::tuple:
    case ValueKind::bytes:
    case ValueKind::bytearray:
    case ValueKind::range:
      return {*this, size()};
    default:
      throw_no_elements(*this, "is not iterable");
  }
}

void Object::Iterator::settle() {
  if (container_ == nullptr || container_->is_none()) return;
  const Object& from = *container_;
  switch (from.kind()) {
    case ValueKind::list:
    case ValueKind::tuple:
      element_ = Access::node<ItemsNode>(from)->items + at_;
      return;
    case ValueKind::dict:
    case ValueKind::set:
    case ValueKind::frozenset: {
      auto& table = *Access::node<TableNode>(from);
      while (at_ < table.used && table.entries[at_].hash == runtime::TableEntry::kHole) ++at_;
      element_ = at_ < table.used ? &table.entries[at_].key : nullptr;  // an empty one has none
      return;
    }
    default:
      break;
  }
  element_ = &made_;
  if (from.kind() == ValueKind::range) {
    const Range& range = Access::node<RangeNode>(from)->range;
    if (at_ < range.size()) made_ = range[static_cast<std::ptrdiff_t>(at_)];
    return;
  }
  const std::string_view bytes = Access::text(from);
  if (at_ >= bytes.size()) return;
  if (runtime::is_text(from)) {
    const char* at = bytes.data() + at_;
    runtime::next_code_point(at, bytes.data() + bytes.size());
    step_ = static_cast<std::size_t>(at - bytes.data()) - at_;
    made_ = runtime::text_of(bytes.substr(at_, step_));
  } else {
    made_ = static_cast<unsigned char>(bytes[at_]);
  }
}

}  // namespace millrace
