// List and Tuple, Range.
#include <algorithm>
#include <cstring>
#include <memory>
#include <millrace/object_containers.hpp>
#include <utility>

#include "runtime/values/object_node.hpp"

namespace millrace {

using runtime::Access;
using runtime::ItemsNode;
using runtime::ValueKind;

namespace {

// Null for what has been moved from, which is empty.
ItemsNode* items_in(const Object& value) noexcept {
  return Access::has_node(value) ? Access::node<ItemsNode>(value) : nullptr;
}

std::span<Object> span_in(const Object& value) noexcept {
  ItemsNode* const node = items_in(value);
  return node == nullptr ? std::span<Object>() : node->span();
}

// The node of a List, to be changed.
ItemsNode& own_list(Object& value) {
  if (!Access::has_node(value)) value = Access::adopt(runtime::new_list(0));
  return *Access::own<ItemsNode>(value);
}

Object& element_at(std::span<Object> items, std::ptrdiff_t i, const char* what) {
  const std::size_t place = static_cast<std::size_t>(i) + (i < 0 ? items.size() : 0);
  if (place >= items.size()) {
    throw IndexError(std::string(what) + " index out of range: " + std::to_string(i) + " of " +
                     std::to_string(items.size()));
  }
  return items[place];
}

// Python's clamping of a slice's ends.
std::size_t clamped(std::ptrdiff_t i, std::size_t size) noexcept {
  const auto length = static_cast<std::ptrdiff_t>(size);
  if (i < 0) i += length;
  return static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(i, 0, length));
}

// Puts None at `place`, the rest one further.
void open_gap(ItemsNode& list, std::size_t place) {
  if (list.size == list.capacity) runtime::grow_list(list, list.size + 1);
  Object* const at = list.items + place;
  // Objects may be moved as bytes.
  std::memmove(static_cast<void*>(at + 1), at, (list.size - place) * sizeof(Object));
  ::new (at) Object();
  ++list.size;
}

Object close_gap(ItemsNode& list, std::size_t place) {
  Object* const at = list.items + place;
  Object value = std::move(*at);
  std::memmove(static_cast<void*>(at), at + 1, (list.size - place - 1) * sizeof(Object));
  --list.size;
  return value;
}

}  // namespace

List::List() : value_(Access::adopt(runtime::new_list(0))) {}

List::List(std::initializer_list<Object> elements) : List() {
  reserve(elements.size());
  for (const Object& each : elements) append(each);
}

std::size_t List::size() const noexcept { return span_in(value_).size(); }
const Object* List::begin() const noexcept { return span_in(value_).data(); }

Object* List::begin() {
  ItemsNode& list = own_list(value_);
  list.exposed = true;
  return list.items;
}

const Object& List::operator[](std::ptrdiff_t i) const {
  return element_at(span_in(value_), i, "list");
}

Object& List::operator[](std::ptrdiff_t i) {
  ItemsNode& list = own_list(value_);
  list.exposed = true;
  return element_at(list.span(), i, "list");
}

void List::reserve(std::size_t count) { runtime::grow_list(own_list(value_), count); }

void List::append(Object value) { runtime::append_to(own_list(value_), std::move(value)); }

void List::extend(const Object& values) {
  const Object source = values;  // may be this very list
  for (const Object& each : source) append(each);
}

void List::insert(std::ptrdiff_t i, Object value) {
  ItemsNode& list = own_list(value_);
  const std::size_t place = clamped(i, list.size);
  open_gap(list, place);
  list.items[place] = std::move(value);
}

Object List::pop(std::ptrdiff_t i) {
  ItemsNode& list = own_list(value_);
  const Object& element = element_at(list.span(), i, "pop");
  return close_gap(list, static_cast<std::size_t>(&element - list.items));
}

void List::remove(const Object& value) {
  const auto items = span_in(value_);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!runtime::same(items[i], value)) continue;
    static_cast<void>(pop(static_cast<std::ptrdiff_t>(i)));
    return;
  }
  throw ValueError("list.remove(x): x not in list");
}

std::size_t List::index(const Object& value) const {
  const auto items = span_in(value_);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (runtime::same(items[i], value)) return i;
  }
  throw ValueError(value.repr() + " is not in list");
}

std::size_t List::count(const Object& value) const {
  const auto found = std::ranges::count_if(
      span_in(value_), [&value](const Object& each) { return runtime::same(each, value); });
  return static_cast<std::size_t>(found);
}

List List::slice(std::ptrdiff_t first, std::ptrdiff_t last) const {
  const auto items = span_in(value_);
  List out;
  const std::size_t end = clamped(last, items.size());
  for (std::size_t i = clamped(first, items.size()); i < end; ++i) out.append(items[i]);
  return out;
}

void List::reverse() { std::ranges::reverse(own_list(value_).span()); }

void List::sort() { std::ranges::stable_sort(own_list(value_).span(), std::less<>()); }

void List::clear() { *this = List(); }

Tuple::Tuple(std::initializer_list<Object> elements) : Tuple(List(elements)) {}

Tuple::Tuple(const List& list)
    : value_(Access::adopt(runtime::new_items(ValueKind::tuple, list.size()))) {
  std::copy(list.begin(), list.end(), Access::node<ItemsNode>(value_)->items);
}

Tuple::Tuple(std::span<Object> elements) : value_(items_of(ValueKind::tuple, elements)) {}

std::size_t Tuple::size() const noexcept { return span_in(value_).size(); }
const Object* Tuple::begin() const noexcept { return span_in(value_).data(); }
const Object& Tuple::operator[](std::ptrdiff_t i) const {
  return element_at(span_in(value_), i, "tuple");
}

Range::Range(std::int64_t start, std::int64_t stop, std::int64_t step)
    : start_(start), stop_(stop), step_(step) {
  if (step == 0) throw ValueError("range() arg 3 must not be zero");
}

std::uint64_t Range::size() const noexcept {
  const auto first = static_cast<std::uint64_t>(start_);
  const auto last = static_cast<std::uint64_t>(stop_);
  const auto step = static_cast<std::uint64_t>(step_);
  if (step_ > 0) return start_ < stop_ ? (last - first - 1) / step + 1 : 0;
  return start_ > stop_ ? (first - last - 1) / (~step + 1) + 1 : 0;
}

std::int64_t Range::operator[](std::ptrdiff_t i) const {
  const std::uint64_t count = size();
  const std::uint64_t place = static_cast<std::uint64_t>(i) + (i < 0 ? count : 0);
  if (place >= count) throw IndexError("range object index out of range");
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(start_) +
                                   place * static_cast<std::uint64_t>(step_));
}

}  // namespace millrace
