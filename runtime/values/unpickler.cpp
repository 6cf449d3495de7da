#include "runtime/values/unpickler.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "runtime/values/pickle_opcodes.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kMostDeferred = 0xffffffff;
constexpr std::uint64_t kMostValues = std::uint64_t{1} << 62;  // weights of two do not overflow

}  // namespace

void refuse(const std::string& why) { throw UnpicklingError(why); }
void refuse_short() { refuse("the pickle ends early"); }

std::string_view PickleInput::line() {
  const std::string_view rest(at_, left());
  const std::size_t length = rest.find('\n');
  if (length == std::string_view::npos) refuse("the pickle ends within a line");
  at_ += length + 1;
  return rest.substr(0, length);
}

Unpickler::Unpickler(std::string_view bytes, const PickleLimits& limits)
    : in_(bytes),
      limits_(limits),
      work_(16 * std::uint64_t{bytes.size()} + 65536),
      values_(std::clamp<std::uint64_t>(limits.values, bytes.size(), kMostValues)),
      stack_owner_(Access::adopt(new_list(64))),
      memo_owner_(Access::adopt(new_list(0))),
      stack_(Access::node<ItemsNode>(stack_owner_)),
      memo_(Access::node<ItemsNode>(memo_owner_)) {
  if (bytes.size() > limits.bytes) {
    refuse("a pickle of " + std::to_string(bytes.size()) + " bytes is over the limit of " +
           std::to_string(limits.bytes));
  }
}

Object& Unpickler::top(std::size_t below) {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_->size <= floor + below) refuse("the pickle takes more from its stack than is there");
  return stack_->items[stack_->size - 1 - below];
}

Object Unpickler::pop() {
  Object value = std::move(top());
  --stack_->size;
  return value;
}

std::size_t Unpickler::take_mark() {
  if (marks_.empty()) refuse("the pickle lacks a mark");
  const std::size_t place = marks_.back();
  marks_.pop_back();
  return place;
}

std::span<Object> Unpickler::from(std::size_t place) { return stack_->span().subspan(place); }

void Unpickler::drop_from(std::size_t place) noexcept {
  for (Object& each : from(place)) each = Object();
  stack_->size = place;
}

void Unpickler::memoize(std::uint64_t index) {
  if (index >= limits_.memo) refuse("the memo is over its limit");
  // Python 2 counts from 1.
  if (index > memo_->size + 1) refuse("the memo skips a place");
  const Object& value = top();
  if (index == memo_->size) {
    append_to(*memo_, kept(value));
    return;
  }
  while (memo_->size <= index) append_to(*memo_, Object());
  Object& place = memo_->items[index];
  if (Access::has_node(place)) --Access::node(place)->in_memo;
  place = kept(value);
}

// What the memo keeps of a value. CPython writes almost every text into the memo and rarely asks
// for it again: one that was just made is not counted, but made anew when it is wanted.
Object Unpickler::kept(const Object& value) {
  if (Access::kind(value) == ValueKind::text && Access::node(value) == fresh_node_ &&
      fresh_text_.size() <= kMostDeferred) {
    return Access::deferred(fresh_text_);
  }
  Object holder = Access::share_private(value);
  if (Access::has_node(holder)) ++Access::node(holder)->in_memo;
  return holder;
}

void Unpickler::recall(std::uint64_t index) {
  if (index >= memo_->size) refuse("the memo has no such place");
  Object& place = memo_->items[index];
  if (Access::kind(place) == ValueKind::deferred) {
    push_text(Access::deferred_text(place));
    place = Access::share_private(top());
    Access::node(place)->in_memo = 1;
    return;
  }
  push_made([&place] { return Access::share_private(place); });
}

// Without the locked instructions of an ordinary release: nobody else has seen these nodes.
void Unpickler::release_memo() noexcept {
  for (Object& each : memo_->span()) {
    if (!Access::has_node(each)) continue;
    auto& count = Access::node(each)->references;
    const std::uint64_t holders = count.load(std::memory_order_relaxed);
    if (holders == 1) continue;  // by the memo's own destructor
    count.store(holders - 1, std::memory_order_relaxed);
    Access::detach(each);
  }
}

// The opcodes that values are mostly made of; the others are grouped below.
inline bool Unpickler::step(unsigned char code) {
  switch (code) {
    case opcode::none:
      push_made([] { return Object(); });
      return true;
    case opcode::newtrue:
    case opcode::newfalse:
      push_made([code] { return object_of_bool(code == opcode::newtrue); });
      return true;
    case opcode::binint1:
      push_integer(in_.number<std::uint8_t>());
      return true;
    case opcode::binint2:
      push_integer(in_.number<std::uint16_t>());
      return true;
    case opcode::binint:
      push_integer(in_.number<std::int32_t>());
      return true;
    case opcode::binfloat:
      push_real(__builtin_bswap64(in_.number<std::uint64_t>()));
      return true;
    case opcode::long1:
      push_long(in_.take(in_.number<std::uint8_t>()));
      return true;
    case opcode::short_binunicode:
      push_input_text(in_.take(in_.number<std::uint8_t>()));
      return true;
    case opcode::memoize:
      memoize(memo_->size);
      return true;
    case opcode::binget:
      recall(in_.number<std::uint8_t>());
      return true;
    case opcode::mark:
      mark();
      return true;
    case opcode::stop:
      return false;
    default:
      return step_stack(code);
  }
}

Object Unpickler::run() {
  while (step(in_.number<unsigned char>())) {
  }
  Object value = pop();
  release_memo();
  return value;
}

// The stack, the memo and the rest of the scalars.
bool Unpickler::step_stack(unsigned char code) {
  switch (code) {
    case opcode::proto:
      if (in_.number<std::uint8_t>() > 5) refuse("a pickle protocol later than 5");
      break;
    case opcode::frame:
      if (in_.number<std::uint64_t>() > in_.left()) refuse("a frame exceeds the pickle");
      break;
    case opcode::long4:
      push_long(in_.take(in_.number<std::uint32_t>()));
      break;
    case opcode::binunicode:
      push_input_text(in_.take(in_.number<std::uint32_t>()));
      break;
    case opcode::binunicode8:
      push_input_text(in_.take(in_.number<std::uint64_t>()));
      break;
    case opcode::long_binget:
      recall(in_.number<std::uint32_t>());
      break;
    case opcode::binput:
      memoize(in_.number<std::uint8_t>());
      break;
    case opcode::long_binput:
      memoize(in_.number<std::uint32_t>());
      break;
    case opcode::pop:
      if (!marks_.empty() && marks_.back() == stack_->size) {
        marks_.pop_back();
      } else {
        pop();
      }
      break;
    case opcode::pop_mark:
      drop_from(take_mark());
      break;
    case opcode::dup:
      push(Access::share_private(top()));
      break;
    default:
      return step_container(code);
  }
  return true;
}

bool Unpickler::step_container(unsigned char code) {
  switch (code) {
    case opcode::empty_list:
      push(Access::adopt(new_list(0)));
      break;
    case opcode::empty_dict:
      push(Access::adopt(new_table(ValueKind::dict, 0)));
      break;
    case opcode::empty_set:
      push(Access::adopt(new_table(ValueKind::set, 0)));
      break;
    case opcode::empty_tuple:
      push(items_of(ValueKind::tuple, {}));
      break;
    case opcode::tuple1:
    case opcode::tuple2:
    case opcode::tuple3: {
      const auto count = static_cast<std::size_t>(code - opcode::tuple1) + 1;
      static_cast<void>(top(count - 1));
      make_tuple(stack_->size - count);
      break;
    }
    case opcode::tuple:
      make_tuple(take_mark());
      break;
    case opcode::list:
      make_list(take_mark());
      break;
    case opcode::dict:
      make_dict(take_mark());
      break;
    case opcode::frozenset:
      make_frozenset(take_mark());
      break;
    case opcode::append:
      static_cast<void>(top(1));
      append(stack_->size - 1);
      break;
    case opcode::setitem:
      static_cast<void>(top(2));
      set_items(stack_->size - 2);
      break;
    case opcode::appends:
      append(take_mark());
      break;
    case opcode::setitems:
      set_items(take_mark());
      break;
    case opcode::additems:
      add_items(take_mark());
      break;
    default:
      return step_object(code);
  }
  return true;
}

bool Unpickler::step_object(unsigned char code) {
  switch (code) {
    case opcode::short_binbytes:
      push_bytes(ValueKind::bytes, in_.take(in_.number<std::uint8_t>()));
      break;
    case opcode::binbytes:
      push_bytes(ValueKind::bytes, in_.take(in_.number<std::uint32_t>()));
      break;
    case opcode::binbytes8:
      push_bytes(ValueKind::bytes, in_.take(in_.number<std::uint64_t>()));
      break;
    case opcode::bytearray8:
      push_bytes(ValueKind::bytearray, in_.take(in_.number<std::uint64_t>()));
      break;
    case opcode::global: {
      const std::string_view module = in_.line();
      push_global(module, in_.line());
      break;
    }
    case opcode::stack_global: {
      const Object name = pop();
      const Object module = pop();
      if (!is_text(name) || !is_text(module)) refuse("a global's name is not text");
      push_global(Access::text(module), Access::text(name));
      break;
    }
    case opcode::reduce:
    case opcode::newobj:
      call(code == opcode::newobj);
      break;
    case opcode::build:
      build();
      break;
    default:
      return step_line(code);
  }
  return true;
}

Object unpickle(std::string_view bytes, const PickleLimits& limits) {
  try {
    return Unpickler(bytes, limits).run();
  } catch (const TypeError& error) {  // an unhashable key, an argument of another type
    refuse(error.what());
  } catch (const ValueError& error) {
    refuse(error.what());
  } catch (const std::length_error& error) {
    refuse(error.what());
  }
}

}  // namespace millrace::runtime
