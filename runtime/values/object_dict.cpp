// Dict, Set and FrozenSet.
#include <millrace/object_containers.hpp>
#include <utility>

#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"

namespace millrace {

using runtime::Access;
using runtime::kNoPlace;
using runtime::TableEntry;
using runtime::TableNode;
using runtime::ValueKind;

namespace {

Object new_empty(ValueKind kind) { return Access::adopt(runtime::new_table(kind, 0)); }

// The node of a Dict or Set, to be changed; one that was moved from is empty.
TableNode& own_table(Object& value, ValueKind kind) {
  if (!Access::has_node(value)) value = new_empty(kind);
  return *Access::own<TableNode>(value);
}

std::size_t size_of(const Object& value) noexcept {
  return Access::has_node(value) ? Access::node<TableNode>(value)->live : 0;
}

const TableEntry* entry_of(const Object& value, const Object& key) {
  if (!Access::has_node(value)) return nullptr;
  auto& table = *Access::node<TableNode>(value);
  const std::uint32_t place = runtime::find_place(table, key);
  return place == kNoPlace ? nullptr : table.entries + place;
}

template <class Use>
void for_each_entry(const Object& value, Use&& use) {
  if (!Access::has_node(value)) return;
  for (const TableEntry& each : Access::node<TableNode>(value)->span()) {
    if (each.hash != TableEntry::kHole) use(each);
  }
}

}  // namespace

Dict::Dict() : value_(new_empty(ValueKind::dict)) {}

Dict::Dict(std::initializer_list<Item> items)
    : value_(Access::adopt(runtime::new_table(ValueKind::dict, items.size()))) {
  for (const auto& [key, value] : items) set(key, value);
}

std::size_t Dict::size() const noexcept { return size_of(value_); }

const Object* Dict::find(const Object& key) const {
  const TableEntry* const entry = entry_of(value_, key);
  return entry == nullptr ? nullptr : &entry->value;
}

const Object& Dict::at(const Object& key) const {
  const Object* const value = find(key);
  if (value == nullptr) throw KeyError(key.repr());
  return *value;
}

Object Dict::get(const Object& key, Object otherwise) const {
  const Object* const value = find(key);
  return value == nullptr ? std::move(otherwise) : *value;
}

void Dict::set(Object key, Object value) {
  runtime::put_entry(own_table(value_, ValueKind::dict), std::move(key), std::move(value));
}

Object Dict::setdefault(const Object& key, Object value) {
  if (const Object* const there = find(key)) return *there;
  set(key, value);
  return value;
}

void Dict::update(const Dict& other) {
  const Dict source = other;  // may be this very dict
  for_each_entry(source.value_, [this](const TableEntry& each) { set(each.key, each.value); });
}

void Dict::erase(const Object& key) { static_cast<void>(pop(key)); }

Object Dict::pop(const Object& key) {
  auto& table = own_table(value_, ValueKind::dict);
  const std::uint32_t place = runtime::find_place(table, key);
  if (place == kNoPlace) throw KeyError(key.repr());
  return runtime::remove_entry(table, place);
}

void Dict::clear() { *this = Dict(); }

List Dict::keys() const {
  List out;
  for_each_entry(value_, [&out](const TableEntry& each) { out.append(each.key); });
  return out;
}

List Dict::values() const {
  List out;
  for_each_entry(value_, [&out](const TableEntry& each) { out.append(each.value); });
  return out;
}

std::vector<Dict::Item> Dict::items() const {
  std::vector<Item> out;
  out.reserve(size());
  for_each_entry(value_,
                 [&out](const TableEntry& each) { out.emplace_back(each.key, each.value); });
  return out;
}

Set::Set() : value_(new_empty(ValueKind::set)) {}

Set::Set(std::initializer_list<Object> elements) : Set() {
  for (const Object& each : elements) add(each);
}

std::size_t Set::size() const noexcept { return size_of(value_); }
bool Set::contains(const Object& element) const { return entry_of(value_, element) != nullptr; }

void Set::add(Object element) {
  runtime::put_entry(own_table(value_, ValueKind::set), std::move(element), Object());
}

bool Set::discard(const Object& element) {
  auto& table = own_table(value_, ValueKind::set);
  const std::uint32_t place = runtime::find_place(table, element);
  if (place == kNoPlace) return false;
  runtime::remove_entry(table, place);
  return true;
}

void Set::clear() { *this = Set(); }

FrozenSet::FrozenSet(Set elements) {
  Object& set = Access::inside(elements);
  auto& table = own_table(set, ValueKind::set);
  table.kind = ValueKind::frozenset;
  value_ = Access::adopt(Access::detach(set));
}

std::size_t FrozenSet::size() const noexcept { return size_of(value_); }
bool FrozenSet::contains(const Object& element) const {
  return entry_of(value_, element) != nullptr;
}

}  // namespace millrace
