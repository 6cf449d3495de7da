#include "runtime/values/object_node.hpp"

#include <cstring>
#include <memory>
#include <utility>

#include "runtime/values/object_table.hpp"

namespace millrace {
namespace runtime {
namespace {

// True when the caller's reference was the last.
bool drop(Node& node) noexcept {
  // OBSERVE holders: a sole holder sees what earlier ones wrote before they let go.
  if (node.references.load(std::memory_order_acquire) == 1) return true;
  // PUBLISH holders, OBSERVE holders: what this holder did with the node is over for the last one.
  return node.references.fetch_sub(1, std::memory_order_acq_rel) == 1;
}

// Nodes to destroy, linked through their reference counts: values nested a million deep need no
// stack.
class Doomed {
 public:
  void add(Node& node) noexcept {
    // relaxed: nobody else holds it.
    node.references.store(reinterpret_cast<std::uintptr_t>(first_), std::memory_order_relaxed);
    first_ = &node;
  }
  Node* take() noexcept {
    Node* const node = first_;
    if (node != nullptr) {
      first_ = reinterpret_cast<Node*>(node->references.load(std::memory_order_relaxed));
    }
    return node;
  }
  void add_children(std::span<Object> values) noexcept {
    for (const Object& each : values) add_child(each);
  }
  void add_child(const Object& value) noexcept {
    if (!Access::has_node(value)) return;
    Node& node = *Access::node(value);
    if (drop(node)) add(node);
  }

 private:
  Node* first_ = nullptr;
};

void destroy(Node& node, Doomed& doomed) noexcept {
  switch (node.kind) {
    case ValueKind::list: {
      auto& list = static_cast<ItemsNode&>(node);
      doomed.add_children(list.span());
      std::free(list.items);
      break;
    }
    case ValueKind::tuple:
    case ValueKind::slice:
    case ValueKind::global:
    case ValueKind::instance:
      doomed.add_children(static_cast<ItemsNode&>(node).span());
      break;
    case ValueKind::dict:
    case ValueKind::set:
    case ValueKind::frozenset: {
      auto& table = static_cast<TableNode&>(node);
      for (TableEntry& each : table.span()) {
        doomed.add_child(each.key);
        doomed.add_child(each.value);
      }
      std::free(table.entries);
      break;
    }
    case ValueKind::exception: {
      auto& exception = static_cast<ExceptionNode&>(node);
      doomed.add_children(exception.parts);
      for (Object& each : exception.parts) Access::detach(each);
      exception.~ExceptionNode();
      break;
    }
    case ValueKind::handle: {
      auto& handle = static_cast<HandleNode&>(node);
      handle.ops->destroy(handle.handle());
      break;
    }
    default:
      break;
  }
  std::free(&node);
}

Node* copy_of_list(ItemsNode& list) {
  Object copy = Access::adopt(new_list(list.size));
  for (const Object& each : list.span()) append_to(*Access::node<ItemsNode>(copy), Object(each));
  return Access::detach(copy);
}

// Of a node that may be changed: all others are only ever shared.
Node* copy_of(Node& node) {
  if (node.kind == ValueKind::list) return copy_of_list(static_cast<ItemsNode&>(node));
  return copy_of_table(static_cast<TableNode&>(node));
}

}  // namespace

void throw_nested_too_deeply() {
  throw ValueError("a value is nested more than " + std::to_string(kMaxNesting) + " deep");
}

void Access::unshare(Object& value) { value = adopt(copy_of(*node(value))); }

ItemsNode* new_list(std::size_t capacity) {
  auto* const list = ::new (checked(std::malloc(sizeof(ItemsNode)))) ItemsNode(ValueKind::list);
  try {
    grow_list(*list, capacity);
  } catch (...) {
    std::free(list);
    throw;
  }
  return list;
}

void grow_list(ItemsNode& list, std::size_t capacity) {
  if (capacity <= list.capacity) return;
  if (capacity > std::numeric_limits<std::size_t>::max() / 4 / sizeof(Object)) {
    throw std::bad_alloc();
  }
  const std::size_t doubled = list.capacity * 2;
  if (list.capacity != 0 && capacity < doubled) capacity = doubled;
  if (capacity < 4) capacity = 4;
  // Objects may be moved as bytes: none of them points into itself.
  list.items = static_cast<Object*>(
      checked(std::realloc(static_cast<void*>(list.items), capacity * sizeof(Object))));
  list.capacity = capacity;
}

ItemsNode* new_items(ValueKind kind, std::size_t size) {
  if (size > std::numeric_limits<std::size_t>::max() / 4 / sizeof(Object)) throw std::bad_alloc();
  void* const block = checked(std::malloc(sizeof(ItemsNode) + size * sizeof(Object)));
  auto* const node = ::new (block) ItemsNode(kind);
  node->items = reinterpret_cast<Object*>(node + 1);
  std::uninitialized_value_construct_n(node->items, size);
  node->size = size;
  node->capacity = size;
  return node;
}

Object items_of(ValueKind kind, std::span<Object> elements) {
  ItemsNode* const node = new_items(kind, elements.size());
  for (std::size_t i = 0; i < elements.size(); ++i) node->items[i] = std::move(elements[i]);
  return Access::adopt(node);
}

TextNode* new_text(ValueKind kind, std::size_t size) {
  if (size > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
  auto* const node = ::new (checked(std::malloc(sizeof(TextNode) + size))) TextNode(kind);
  node->size = size;
  return node;
}

Object text_node_of(ValueKind kind, std::string_view bytes) {
  TextNode* const node = new_text(kind, bytes.size());
  if (!bytes.empty()) std::memcpy(node->data(), bytes.data(), bytes.size());
  return Access::adopt(node);
}

Object object_of_handle(const HandleOps& ops, const void* handle) {
  void* const block = checked(std::malloc(HandleNode::kOffset + ops.bytes));
  auto* const node = ::new (block) HandleNode(ops);
  try {
    ops.copy(node->handle(), handle);
  } catch (...) {
    std::free(block);
    throw;
  }
  return Access::adopt(node);
}

const void* find_handle(const Object& value, std::string_view type) noexcept {
  if (Access::kind(value) != ValueKind::handle) return nullptr;
  auto* const node = Access::node<HandleNode>(value);
  return node->ops->type == type ? node->handle() : nullptr;
}

}  // namespace runtime

void Object::share(const Object& other) {
  auto* node = runtime::Access::node(other);
  if (node->exposed) {
    node = runtime::copy_of(*node);
  } else {
    // relaxed: whoever holds one reference may add another; only letting go is ordered.
    node->references.fetch_add(1, std::memory_order_relaxed);
  }
  raw_[0] = other.raw_[0];
  __builtin_memcpy(raw_ + 8, &node, sizeof node);
}

void Object::release() noexcept {
  auto* node = runtime::Access::node(*this);
  if (!runtime::drop(*node)) return;
  runtime::Doomed doomed;
  doomed.add(*node);
  while ((node = doomed.take()) != nullptr) runtime::destroy(*node, doomed);
}

}  // namespace millrace
