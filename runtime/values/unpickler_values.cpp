// What a pickle's opcodes make of bytes and of the values on the stack.
#include <utility>

#include "runtime/base/utf8.hpp"
#include "runtime/values/unpickler.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kBytesAValue = 16;  // text of so many bytes weighs as one value

std::uint64_t weight_of(const Object& value) noexcept {
  return Access::has_node(value) ? Access::node(value)->weight : 1;
}

}  // namespace

Node& Unpickler::changeable(Object& value, ValueKind kind, ValueKind otherwise) {
  const ValueKind found = Access::kind(value);
  if (found != kind && found != otherwise) {
    refuse("the pickle puts elements into a value of type " + std::string(kind_name(found)));
  }
  Node& node = *Access::node(value);
  if (node.references.load(std::memory_order_relaxed) != node.in_memo + std::uint64_t{1}) {
    refuse("the pickle changes a value that it has used: a value cannot contain itself");
  }
  return node;
}

// Before they go in: how deep and heavy the container becomes.
void Unpickler::account(Node& container, std::span<const Object> values) {
  std::uint64_t weight = container.weight;
  unsigned depth = container.depth;
  for (const Object& each : values) {
    if (Access::has_node(each)) {
      const Node& node = *Access::node(each);
      weight += node.weight;
      if (node.depth >= depth) depth = node.depth + 1U;
      if (weight > values_) break;  // before it can overflow
    } else {
      ++weight;
    }
  }
  if (depth > limits_.depth || depth > 0xffff) refuse("the pickle is nested too deeply");
  if (weight > values_) refuse("the pickle stands for more values than its limit");
  container.weight = weight;
  container.depth = static_cast<std::uint16_t>(depth);
}

void Unpickler::charge(std::uint64_t work) {
  if (work > work_) refuse("the pickle asks for more work than its size warrants");
  work_ -= work;
}

// A key is looked into to be hashed and compared, as often as it occurs.
void Unpickler::charge_key(const Object& key) {
  if (Access::has_node(key)) charge(weight_of(key));
}

void Unpickler::append(std::size_t place) {
  if (place == 0) refuse("the pickle appends to nothing");
  const std::span<Object> values = from(place);
  Object& target = stack_->items[place - 1];
  auto& list = static_cast<ItemsNode&>(changeable(target, ValueKind::list, ValueKind::list));
  account(list, values);
  grow_list(list, list.size + values.size());
  // The values move as bytes, and their places on the stack are forgotten.
  if (!values.empty()) {
    __builtin_memcpy(static_cast<void*>(list.items + list.size), values.data(),
                     values.size_bytes());
  }
  list.size += values.size();
  stack_->size = place;
}

void Unpickler::put_pairs(TableNode& table, std::span<Object> pairs) {
  if (pairs.size() % 2 != 0) refuse("the pickle has a key without a value");
  account(table, pairs);
  if (table.used == 0) reserve_empty(table, pairs.size() / 2);
  for (std::size_t i = 0; i < pairs.size(); i += 2) {
    charge_key(pairs[i]);
    put_entry(table, std::move(pairs[i]), std::move(pairs[i + 1]));
  }
}

void Unpickler::put_keys(TableNode& table, std::span<Object> keys) {
  account(table, keys);
  if (table.used == 0) reserve_empty(table, keys.size());
  for (Object& each : keys) {
    charge_key(each);
    put_entry(table, std::move(each), Object());
  }
}

void Unpickler::set_items(std::size_t place) {
  if (place == 0) refuse("the pickle sets items of nothing");
  Object& target = stack_->items[place - 1];
  Node& table = changeable(target, ValueKind::dict, ValueKind::dict);
  put_pairs(static_cast<TableNode&>(table), from(place));
  drop_from(place);
}

void Unpickler::add_items(std::size_t place) {
  if (place == 0) refuse("the pickle adds items to nothing");
  Object& target = stack_->items[place - 1];
  Node& table = changeable(target, ValueKind::set, ValueKind::set);
  put_keys(static_cast<TableNode&>(table), from(place));
  drop_from(place);
}

void Unpickler::make_tuple(std::size_t place) {
  const std::span<Object> values = from(place);
  Object made = Access::adopt(new_items(ValueKind::tuple, values.size()));
  auto& tuple = *Access::node<ItemsNode>(made);
  account(tuple, values);
  if (!values.empty()) {
    __builtin_memcpy(static_cast<void*>(tuple.items), values.data(), values.size_bytes());
  }
  stack_->size = place;
  push(std::move(made));
}

void Unpickler::make_list(std::size_t place) {
  Object made = Access::adopt(new_list(from(place).size()));
  auto& list = *Access::node<ItemsNode>(made);
  account(list, from(place));
  for (Object& each : from(place)) append_to(list, std::move(each));
  stack_->size = place;
  push(std::move(made));
}

void Unpickler::make_dict(std::size_t place) {
  Object made = Access::adopt(new_table(ValueKind::dict, 0));
  put_pairs(*Access::node<TableNode>(made), from(place));
  drop_from(place);
  push(std::move(made));
}

void Unpickler::make_frozenset(std::size_t place) {
  Object made = Access::adopt(new_table(ValueKind::frozenset, 0));
  put_keys(*Access::node<TableNode>(made), from(place));
  drop_from(place);
  push(std::move(made));
}

void Unpickler::push_text(std::string_view text) {
  if (!is_utf8(text)) refuse("a str in the pickle is not UTF-8");
  if (text.size() <= kShortText) {
    return push_made([text] { return Access::short_text(text.data(), text.size()); });
  }
  TextNode* const node = new_text(ValueKind::text, text.size());
  __builtin_memcpy(node->data(), text.data(), text.size());
  node->weight += text.size() / kBytesAValue;
  push(Access::adopt(node));
  fresh_node_ = nullptr;  // its address may have come back
}

void Unpickler::push_input_text(std::string_view text) {
  push_text(text);
  if (text.size() <= kShortText) return;
  fresh_node_ = Access::node(top());
  fresh_text_ = text;
}

void Unpickler::push_bytes(ValueKind kind, std::string_view bytes) {
  push(text_node_of(kind, bytes));
  Access::node(top())->weight += bytes.size() / kBytesAValue;
}

// Two's complement, little-endian, of any length.
void Unpickler::push_long(std::string_view bytes) {
  if (bytes.size() >= 4 && bytes.size() <= 8) {  // both ends, overlapping
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __builtin_memcpy(&low, bytes.data(), sizeof low);
    __builtin_memcpy(&high, bytes.data() + bytes.size() - 4, sizeof high);
    const auto unused = static_cast<int>(64 - 8 * bytes.size());
    const std::uint64_t both = low | std::uint64_t{high} << (32 - unused);
    return push_integer(static_cast<std::int64_t>(both << unused) >> unused);
  }
  const bool negative = !bytes.empty() && (static_cast<unsigned char>(bytes.back()) & 0x80) != 0;
  std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    if (i < 8) {
      const std::uint64_t hole = std::uint64_t{0xff} << (8 * i);
      value = (value & ~hole) | std::uint64_t{byte} << (8 * i);
    } else if (byte != (negative ? 0xff : 0)) {
      throw OverflowError("an int in the pickle is beyond 64 bits");
    }
  }
  if ((value >> 63 != 0) != negative) {
    throw OverflowError("an int in the pickle is beyond 64 bits, with sign");
  }
  push_integer(static_cast<std::int64_t>(value));
}

}  // namespace millrace::runtime
