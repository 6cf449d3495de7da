// What lies behind an mp::Object: nodes in this process's heap, counted.
//
// Invariants
// 1. A node is changed only by a holder that is its only one (own() sees to it), or by the
// unpickler
//    before anybody else has seen it.
// 2. A node whose elements were handed out for writing (`exposed`) has one holder for the rest of
//    its life: copying it copies the elements.
// 3. Nothing here is shared between processes; a forked child has its own copies.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <limits>
#include <millrace/object.hpp>
#include <new>
#include <span>
#include <string_view>

namespace millrace::runtime {

struct Node {
  explicit Node(ValueKind of) noexcept : kind(of) {}

  // How many Objects hold it. While it is being destroyed: the next node to destroy.
  std::atomic<std::uint64_t> references{1};
  // The unpickler's, while it builds: values in here, nested and shared ones counted wherever they
  // occur; how many holders are its memo; how deep this is nested.
  std::uint64_t weight = 1;
  std::uint32_t in_memo = 0;
  std::uint16_t depth = 0;
  ValueKind kind;
  bool exposed = false;
};

/// text, bytes, bytearray: the bytes follow.
struct TextNode : Node {
  using Node::Node;
  std::size_t size = 0;
  [[nodiscard]] char* data() noexcept { return reinterpret_cast<char*>(this + 1); }
  [[nodiscard]] std::string_view view() noexcept { return {data(), size}; }
};

/// list: elements in a block of their own. tuple, slice (3), global (module, name), instance
/// (callable, arguments, state, True if by NEWOBJ): elements follow.
struct ItemsNode : Node {
  using Node::Node;
  Object* items = nullptr;
  std::size_t size = 0;
  std::size_t capacity = 0;
  [[nodiscard]] std::span<Object> span() noexcept { return {items, size}; }
};

/// dict, set, frozenset: entries in the order of insertion, then, from 9 entries on, slots that
/// find them by hash: 0 for none, else 1 + place; all in one block.
struct TableNode : Node {
  using Node::Node;
  TableEntry* entries = nullptr;
  std::uint32_t* slots = nullptr;
  std::uint32_t mask = 0;      // slots - 1
  std::uint32_t used = 0;      // entries, holes too
  std::uint32_t live = 0;      // without holes
  std::uint32_t capacity = 0;  // of entries
  [[nodiscard]] std::span<TableEntry> span() noexcept { return {entries, used}; }
};

struct RangeNode : Node {
  explicit RangeNode(const Range& of) noexcept : Node(ValueKind::range), range(of) {}
  Range range;
};

struct ComplexNode : Node {
  ComplexNode(double a, double b) noexcept : Node(ValueKind::complex), real(a), imaginary(b) {}
  double real;
  double imaginary;
};

/// Items: module, class name, arguments (a tuple), state (a dict or None).
struct ExceptionNode : ItemsNode {
  ExceptionNode() noexcept : ItemsNode(ValueKind::exception) {}
  Object parts[4];
  std::exception_ptr native;  // null when it came from Python and has not been asked for
};

struct HandleNode : Node {
  explicit HandleNode(const HandleOps& of) noexcept : Node(ValueKind::handle), ops(&of) {}
  const HandleOps* ops;
  [[nodiscard]] void* handle() noexcept { return reinterpret_cast<char*>(this) + kOffset; }
  static constexpr std::size_t kOffset = 32;
};
static_assert(sizeof(HandleNode) <= HandleNode::kOffset);

/// memcpy() of up to 16 bytes, without a call.
inline void copy_few(char* to, const char* from, std::size_t size) noexcept {
  const auto ends = [&](auto word) {  // the first and the last word, which may overlap
    __builtin_memcpy(&word, from, sizeof word);
    auto last = word;
    __builtin_memcpy(&last, from + size - sizeof last, sizeof last);
    __builtin_memcpy(to, &word, sizeof word);
    __builtin_memcpy(to + size - sizeof last, &last, sizeof last);
  };
  if (size >= 8) {
    ends(std::uint64_t{});
  } else if (size >= 4) {
    ends(std::uint32_t{});
  } else if (size >= 2) {
    ends(std::uint16_t{});
  } else if (size == 1) {
    *to = *from;
  }
}

/// The way in, for the files named object_* and pickle_*.
struct Access {
  static ValueKind kind(const Object& value) noexcept { return value.kind(); }
  static bool has_node(const Object& value) noexcept { return value.has_node(); }
  template <class N = Node>
  static N* node(const Object& value) noexcept {
    return static_cast<N*>(value.payload<Node*>());
  }
  static std::int64_t integer(const Object& value) noexcept {
    return value.payload<std::int64_t>();
  }
  static double real(const Object& value) noexcept { return value.payload<double>(); }

  /// An Object without a node.
  template <class T>
  static Object plain(ValueKind kind, T payload) noexcept {
    static_assert(sizeof(T) == 8);
    Object value;
    value.raw_[0] = static_cast<unsigned char>(kind);
    __builtin_memcpy(value.raw_ + 8, &payload, sizeof payload);
    return value;
  }
  /// Takes over the one reference that the caller holds.
  static Object adopt(Node* node) noexcept { return plain(node->kind, node); }
  /// The node, with the reference that the Object held; leaves None.
  static Node* detach(Object& value) noexcept {
    Node* const held = node(value);
    value.raw_[0] = 0;
    return held;
  }
  /// Another holder of a node that no other thread has seen; whatever `exposed` says.
  static Object share_private(const Object& value) noexcept {
    Object copy;
    __builtin_memcpy(copy.raw_, value.raw_, sizeof copy.raw_);
    if (value.has_node()) {
      auto& count = node(value)->references;
      count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    return copy;
  }
  static Object short_text(const char* text, std::size_t size) noexcept {
    Object value;
    value.raw_[0] = static_cast<unsigned char>(ValueKind::short_text);
    value.raw_[1] = static_cast<unsigned char>(size);
    copy_few(reinterpret_cast<char*>(value.raw_) + 2, text, size);
    return value;
  }
  /// Text that stays where it is, shorter than 4 GiB, and back.
  static Object deferred(std::string_view text) noexcept {
    Object value = plain(ValueKind::deferred, text.data());
    const auto size = static_cast<std::uint32_t>(text.size());
    __builtin_memcpy(value.raw_ + 4, &size, sizeof size);
    return value;
  }
  static std::string_view deferred_text(const Object& value) noexcept {
    std::uint32_t size = 0;
    __builtin_memcpy(&size, value.raw_ + 4, sizeof size);
    return {value.payload<const char*>(), size};
  }
  /// The text of a short_text or text.
  static std::string_view text(const Object& value) noexcept {
    if (value.kind() == ValueKind::short_text) {
      return {reinterpret_cast<const char*>(value.raw_) + 2, value.raw_[1]};
    }
    return node<TextNode>(value)->view();
  }
  static const unsigned char* raw(const Object& value) noexcept { return value.raw_; }
  template <class T>
  static Object& inside(T& container) noexcept {
    return container.value_;
  }
  template <class T>
  static const Object& inside(const T& container) noexcept {
    return container.value_;
  }
  /// The node, with this Object as its only holder: copied first when it is not.
  template <class N>
  static N* own(Object& value) {
    // OBSERVE holders, see object_node.cpp: earlier holders have read what is about to change.
    if (node(value)->references.load(std::memory_order_acquire) != 1) unshare(value);
    return node<N>(value);
  }
  static void unshare(Object& value);
};

/// std::malloc() and std::realloc() that throw std::bad_alloc.
inline void* checked(void* block) {
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

/// An empty list with room for `capacity` elements.
ItemsNode* new_list(std::size_t capacity);
/// A node of `kind` whose elements, all None, follow it.
ItemsNode* new_items(ValueKind kind, std::size_t size);
/// The same, taking the elements out of their places.
Object items_of(ValueKind kind, std::span<Object> elements);
void grow_list(ItemsNode& list, std::size_t capacity);
/// Appends; the list has one holder.
inline void append_to(ItemsNode& list, Object&& value) {
  if (list.size == list.capacity) grow_list(list, list.size + 1);
  ::new (list.items + list.size) Object(std::move(value));
  ++list.size;
}

TextNode* new_text(ValueKind kind, std::size_t size);
Object text_node_of(ValueKind kind, std::string_view bytes);
/// Text whose bytes are UTF-8 already.
inline Object text_of(std::string_view text) {
  return text.size() <= kShortText ? Access::short_text(text.data(), text.size())
                                   : text_node_of(ValueKind::text, text);
}

/// An exception by its name in Python; `state` is a dict or None.
Object exception_of_name(Object module, Object name, Object arguments, Object state = {});

/// The same exception with the C++ one that it stands for; it has one holder.
Object exception_with(Object exception, std::exception_ptr native);
/// True for OSError and the names of its subclasses.
bool is_os_error(std::string_view name) noexcept;

/// How deep values may be nested before walking them is refused: as wire::kMaxDepth.
inline constexpr int kMaxNesting = 2000;
[[noreturn]] void throw_nested_too_deeply();

bool equal(const Object& a, const Object& b, int depth = 0);
/// As containers compare: a NaN is itself.
bool same(const Object& a, const Object& b, int depth = 0);
std::uint64_t hash_of(const Object& value, int depth = 0);
void put_repr(std::string& out, const Object& value, int depth = 0);
/// The class's name as Python's type(o).__name__.
std::string_view kind_name(ValueKind kind) noexcept;

}  // namespace millrace::runtime
