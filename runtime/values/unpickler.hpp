// The machine that a pickle is a program for: a stack of values, marks on it, and a memo.
//
// Invariants
// 1. A container is changed only while nothing but its place on the stack, and the memo, holds it.
//    So nothing ever contains itself, and what has been shared stays as it is.
// 2. Each byte of input makes at most about 100 bytes of memory: nothing is allocated for a length
//    before the bytes are there; elements that a call copies, and keys that are hashed, are counted
//    against the length of the input.
// 3. A node's depth and weight are final before anything contains it.
// Nothing recurses, however deep the values; used by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"
#include "runtime/values/pickle.hpp"
#include "runtime/values/pickle_handles.hpp"
#include "runtime/values/pickle_names.hpp"

namespace millrace::runtime {

[[noreturn, gnu::cold]] void refuse(const std::string& why);
[[noreturn, gnu::cold]] void refuse_short();

/// The bytes of a pickle, taken from the front.
class PickleInput {
 public:
  explicit PickleInput(std::string_view bytes) noexcept
      : at_(bytes.data()), end_(at_ + bytes.size()) {}
  [[nodiscard]] std::size_t left() const noexcept { return static_cast<std::size_t>(end_ - at_); }
  std::string_view take(std::uint64_t count) {
    if (count > left()) refuse_short();
    const char* const from = at_;
    at_ += count;
    return {from, static_cast<std::size_t>(count)};
  }
  /// A little-endian number.
  template <class T>
  T number() {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
    if (left() < sizeof(T)) refuse_short();
    T value;
    __builtin_memcpy(&value, at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  /// Up to the next newline, which is skipped.
  std::string_view line();

 private:
  const char* at_;
  const char* end_;
};

class Unpickler {
 public:
  Unpickler(std::string_view bytes, const PickleLimits& limits);
  /// Runs the program. Once.
  Object run();

 private:
  // unpickler.cpp: the machine
  [[gnu::always_inline]] bool step(unsigned char code);  // false: stop
  bool step_stack(unsigned char code);
  bool step_container(unsigned char code);
  bool step_object(unsigned char code);
  [[nodiscard]] Object& top(std::size_t below = 0);
  // What make() returns is made on the stack, not moved there.
  template <class Make>
  void push_made(Make&& make) {
    if (stack_->size == stack_->capacity) grow_list(*stack_, stack_->size + 1);
    ::new (stack_->items + stack_->size) Object(make());
    ++stack_->size;
  }
  void push(Object&& value) {
    push_made([&value] { return std::move(value); });
  }
  void push_integer(std::int64_t value) {
    push_made([value] { return Access::plain(ValueKind::integer, value); });
  }
  void push_real(std::uint64_t bits) {
    push_made([bits] { return Access::plain(ValueKind::real, bits); });
  }
  Object pop();
  std::size_t take_mark();  // the stack's size at the last mark, which is removed
  [[nodiscard]] std::span<Object> from(std::size_t place);
  void drop_from(std::size_t place) noexcept;  // that has been moved from
  void mark() { marks_.push_back(stack_->size); }
  void memoize(std::uint64_t index);
  void recall(std::uint64_t index);
  Object kept(const Object& value);
  void release_memo() noexcept;

  // unpickler_values.cpp: what the opcodes make
  Node& changeable(Object& value, ValueKind kind, ValueKind otherwise);
  void account(Node& container, std::span<const Object> values);
  void charge(std::uint64_t work);
  void charge_key(const Object& key);
  void append(std::size_t place);
  void set_items(std::size_t place);
  void add_items(std::size_t place);
  void put_pairs(TableNode& table, std::span<Object> pairs);
  void put_keys(TableNode& table, std::span<Object> keys);
  void make_tuple(std::size_t place);
  void make_list(std::size_t place);
  void make_dict(std::size_t place);
  void make_frozenset(std::size_t place);
  void push_text(std::string_view text);
  void push_input_text(std::string_view text);  // that lies in the pickle
  void push_bytes(ValueKind kind, std::string_view bytes);
  void push_long(std::string_view bytes);

  // unpickler_calls.cpp: names and what is made of them
  void push_global(std::string_view module, std::string_view name);
  void call(bool by_newobj);
  void build();
  Object made_of(const Object& callable, Object& arguments);
  Object made_list(const Object& from);
  Object made_set(const Object& from, ValueKind kind);
  Object made_bytes(std::span<Object> arguments, ValueKind kind);
  Object made_array(std::span<Object> arguments);

  // unpickler_lines.cpp: the readable opcodes of protocol 0
  bool step_line(unsigned char code);

  PickleInput in_;
  const PickleLimits& limits_;
  std::uint64_t work_;    // that may still be done
  std::uint64_t values_;  // limit of a value's weight
  Object stack_owner_;
  Object memo_owner_;
  // The last text made of bytes that lie in the pickle, and these.
  const Node* fresh_node_ = nullptr;
  std::string_view fresh_text_;
  ItemsNode* stack_;
  ItemsNode* memo_;
  std::vector<std::size_t> marks_;
  HandleArrival arrival_;
};

}  // namespace millrace::runtime
