// Values to pickles.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "runtime/base/utf8.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/pickle.hpp"
#include "runtime/values/pickle_handles.hpp"
#include "runtime/values/pickle_opcodes.hpp"

namespace millrace::runtime {
namespace {

using Kind = ValueKind;

constexpr std::size_t kBatch = 1000;  // elements between marks, as CPython's

constexpr std::size_t kChunk = 4096;  // asked of the message at a time, at least
constexpr std::size_t kSlack = 16;    // writable behind every opcode and its number

static_assert(std::endian::native == std::endian::little, "as numbers in pickles are");

class Pickler {
 public:
  explicit Pickler(wire::Writer& out) : out_(out) {}
  void save(const Object& value);
  void op(unsigned char code) {
    need(1);
    *at_++ = static_cast<std::byte>(code);
  }
  /// Gives the message the bytes that have been written, and no more.
  void finish() { out_.revert(out_.size() - static_cast<std::size_t>(end_ - at_)); }

 private:
  // Room for `bytes` more and the slack behind them.
  void need(std::size_t bytes) {
    if (bytes + kSlack > static_cast<std::size_t>(end_ - at_)) grow(bytes);
  }
  [[gnu::noinline]] void grow(std::size_t bytes);
  template <class T>
  std::byte* op(unsigned char code, T number, std::size_t more = 0) {
    need(1 + sizeof number + more);
    *at_ = static_cast<std::byte>(code);
    __builtin_memcpy(at_ + 1, &number, sizeof number);
    std::byte* const behind = at_ + 1 + sizeof number;
    at_ = behind + more;
    return behind;
  }
  void save_integer(std::int64_t value);
  void save_real(double value);
  void save_text(std::string_view text);
  [[gnu::noinline]] void refuse_text(std::string_view text);
  void save_bytes(std::string_view bytes);
  void save_bytearray(std::string_view bytes);
  void save_list(std::span<const Object> items);
  void save_tuple(std::span<const Object> items);
  void save_dict(const TableNode& table);
  void save_set(TableNode& table);
  [[gnu::noinline]] void save_node(const Object& value);
  void save_kind(const Object& value);
  void save_range(const Range& range);
  void save_instance(std::span<const Object> parts);
  void save_exception(std::span<const Object> parts);
  void put_global(std::string_view module, std::string_view name);
  void put_line(std::string_view line);
  void reduce(std::string_view type, std::initializer_list<Object> arguments);

  wire::Writer& out_;
  // Of the message, from the next byte to the end of what has been asked for.
  std::byte* at_ = nullptr;
  std::byte* end_ = nullptr;
  int depth_ = 0;
};

void Pickler::grow(std::size_t bytes) {
  if (at_ != nullptr) finish();
  const std::size_t wanted = std::max({bytes + kSlack, kChunk, out_.size() / 2});
  at_ = out_.extend(wanted);
  end_ = at_ + wanted;
}

// How an int is written, by how many bits it has without its sign: BININT1 and BININT2 hold no
// sign. In a number of two bytes: the opcode and, of LONG1, the count of bytes that follows it.
struct IntForm {
  std::uint16_t start;
  std::uint8_t head;   // bytes in front of the number
  std::uint8_t total;  // with them
};
constexpr std::array<IntForm, 128> kIntForms = [] {
  std::array<IntForm, 128> forms{};
  for (unsigned bits = 0; bits < 64; ++bits) {
    const unsigned bytes = bits / 8 + 1;
    const auto of = [](unsigned code, unsigned head, unsigned size) {
      return IntForm{static_cast<std::uint16_t>(code | size << 8), static_cast<std::uint8_t>(head),
                     static_cast<std::uint8_t>(head + size)};
    };
    const IntForm wide = bits < 32 ? of(opcode::binint, 1, 4) : of(opcode::long1, 2, bytes);
    forms[64 + bits] = wide;
    forms[bits] = bits <= 8    ? of(opcode::binint1, 1, 1)
                  : bits <= 16 ? of(opcode::binint2, 1, 2)
                               : wide;
  }
  return forms;
}();

// Without branches: ints of one list differ in size.
void Pickler::save_integer(std::int64_t value) {
  need(2 + sizeof value);
  const std::int64_t sign = value >> 63;
  const auto size = static_cast<std::uint64_t>(value ^ sign);
  const IntForm form = kIntForms[static_cast<std::size_t>(std::bit_width(size) + (sign & 64))];
  std::byte* const at = at_;
  __builtin_memcpy(at, &form.start, sizeof form.start);
  __builtin_memcpy(at + form.head, &value, sizeof value);  // over the count, but for LONG1
  at_ = at + form.total;
}

void Pickler::save_real(double value) {
  op(opcode::binfloat, __builtin_bswap64(std::bit_cast<std::uint64_t>(value)));
}

void Pickler::refuse_text(std::string_view text) {
  std::string shown;
  put_text_repr(shown, text.substr(0, 60));
  throw ValueError("text that is not UTF-8 cannot be pickled, send mp::Bytes: " + shown);
}

void Pickler::save_text(std::string_view text) {
  if (!is_utf8(text)) refuse_text(text);
  const std::size_t size = text.size();
  std::byte* at = nullptr;
  if (size <= 0xff) {
    at = op(opcode::short_binunicode, static_cast<std::uint8_t>(size), size);
  } else if (size <= 0xffffffff) {
    at = op(opcode::binunicode, static_cast<std::uint32_t>(size), size);
  } else {
    at = op(opcode::binunicode8, std::uint64_t{size}, size);
  }
  if (size <= 16) {
    copy_few(reinterpret_cast<char*>(at), text.data(), size);
  } else {
    __builtin_memcpy(at, text.data(), size);
  }
}

void Pickler::save_bytes(std::string_view bytes) {
  const std::size_t size = bytes.size();
  std::byte* at = nullptr;
  if (size <= 0xff) {
    at = op(opcode::short_binbytes, static_cast<std::uint8_t>(size), size);
  } else if (size <= 0xffffffff) {
    at = op(opcode::binbytes, static_cast<std::uint32_t>(size), size);
  } else {
    at = op(opcode::binbytes8, std::uint64_t{size}, size);
  }
  if (size != 0) __builtin_memcpy(at, bytes.data(), size);
}

void Pickler::save_bytearray(std::string_view bytes) {
  put_global("builtins", "bytearray");
  if (bytes.empty()) {
    op(opcode::empty_tuple);
  } else {
    save_bytes(bytes);
    op(opcode::tuple1);
  }
  op(opcode::reduce);
}

void Pickler::save_list(std::span<const Object> items) {
  op(opcode::empty_list);
  while (!items.empty()) {
    const auto batch = items.first(std::min(kBatch, items.size()));
    items = items.subspan(batch.size());
    if (batch.size() == 1) {
      save(batch[0]);
      op(opcode::append);
    } else {
      op(opcode::mark);
      for (const Object& each : batch) save(each);
      op(opcode::appends);
    }
  }
}

void Pickler::save_tuple(std::span<const Object> items) {
  static constexpr unsigned char kShort[] = {opcode::empty_tuple, opcode::tuple1, opcode::tuple2,
                                             opcode::tuple3};
  const bool is_short = items.size() < std::size(kShort);
  if (!is_short) op(opcode::mark);
  for (const Object& each : items) save(each);
  op(is_short ? kShort[items.size()] : static_cast<unsigned char>(opcode::tuple));
}

void Pickler::save_dict(const TableNode& table) {
  op(opcode::empty_dict);
  std::size_t in_batch = 0;
  for (std::uint32_t i = 0; i < table.used; ++i) {
    const TableEntry& each = table.entries[i];
    if (each.hash == TableEntry::kHole) continue;
    if (in_batch == 0) op(opcode::mark);
    save(each.key);
    save(each.value);
    if (++in_batch < kBatch) continue;
    op(opcode::setitems);
    in_batch = 0;
  }
  if (in_batch != 0) op(opcode::setitems);
}

void Pickler::save_set(TableNode& table) {
  const bool frozen = table.kind == Kind::frozenset;
  if (!frozen) op(opcode::empty_set);
  op(opcode::mark);
  for (const TableEntry& each : table.span()) {
    if (each.hash != TableEntry::kHole) save(each.key);
  }
  op(frozen ? opcode::frozenset : opcode::additems);
}

void Pickler::put_global(std::string_view module, std::string_view name) {
  op(opcode::global);
  put_line(module);
  put_line(name);
}

void Pickler::put_line(std::string_view line) {
  need(line.size() + 1);
  __builtin_memcpy(at_, line.data(), line.size());
  at_ += line.size();
  *at_++ = std::byte{'\n'};
}

void Pickler::reduce(std::string_view type, std::initializer_list<Object> arguments) {
  put_global("builtins", type);
  save_tuple({arguments.begin(), arguments.size()});
  op(opcode::reduce);
}

void Pickler::save_range(const Range& range) {
  reduce("range", {range.start(), range.stop(), range.step()});
}

void Pickler::save_instance(std::span<const Object> parts) {
  save(parts[0]);
  save(parts[1]);
  op(parts[3].is<bool>() ? opcode::newobj : opcode::reduce);
  if (parts[2].is_none()) return;
  save(parts[2]);
  op(opcode::build);
}

void Pickler::save_exception(std::span<const Object> parts) {
  put_global(Access::text(parts[0]), Access::text(parts[1]));
  save(parts[2]);
  op(opcode::reduce);
  if (parts[3].is_none()) return;
  save(parts[3]);
  op(opcode::build);
}

void Pickler::save_node(const Object& value) {
  if (++depth_ > kMaxNesting) throw_nested_too_deeply();
  save_kind(value);
  --depth_;
}

void Pickler::save_kind(const Object& value) {
  switch (Access::kind(value)) {
    case Kind::text:
      return save_text(Access::text(value));
    case Kind::bytes:
      return save_bytes(Access::text(value));
    case Kind::bytearray:
      return save_bytearray(Access::text(value));
    case Kind::list:
      return save_list(Access::node<ItemsNode>(value)->span());
    case Kind::tuple:
      return save_tuple(Access::node<ItemsNode>(value)->span());
    case Kind::dict:
      return save_dict(*Access::node<TableNode>(value));
    case Kind::set:
    case Kind::frozenset:
      return save_set(*Access::node<TableNode>(value));
    case Kind::slice: {
      const auto parts = Access::node<ItemsNode>(value)->span();
      return reduce("slice", {parts[0], parts[1], parts[2]});
    }
    case Kind::range:
      return save_range(Access::node<RangeNode>(value)->range);
    case Kind::complex: {
      const auto [real, imaginary] = to_complex(value);
      return reduce("complex", {real, imaginary});
    }
    case Kind::exception:
      return save_exception(Access::node<ItemsNode>(value)->span());
    case Kind::global: {
      const auto parts = Access::node<ItemsNode>(value)->span();
      return put_global(Access::text(parts[0]), Access::text(parts[1]));
    }
    case Kind::instance:
      return save_instance(Access::node<ItemsNode>(value)->span());
    case Kind::handle:
      return save(python_of_handle(value));
    default:
      throw TypeError("cannot pickle '" + value.type_name() +
                      "' object: it means nothing to another program");
  }
}

void Pickler::save(const Object& value) {
  switch (Access::kind(value)) {
    case Kind::none:
      return op(opcode::none);
    case Kind::boolean:
      return op(Access::integer(value) != 0 ? opcode::newtrue : opcode::newfalse);
    case Kind::integer:
      return save_integer(Access::integer(value));
    case Kind::real:
      return save_real(Access::real(value));
    case Kind::short_text:
      return save_text(Access::text(value));
    default:
      break;
  }
  save_node(value);
}

}  // namespace

void pickle(wire::Writer& out, const Object& value) {
  const std::size_t start = out.size();
  try {
    Pickler pickler(out);
    pickler.op(opcode::proto);
    pickler.op(4);
    pickler.save(value);
    pickler.op(opcode::stop);
    pickler.finish();
  } catch (...) {
    out.revert(start);
    throw;
  }
}

}  // namespace millrace::runtime
