// Objects inside one program: a byte for the kind, then what it holds. Counts are checked against
// the bytes that are left before memory is asked for.
#include <array>
#include <millrace/object.hpp>

#include "runtime/base/exceptions.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"

namespace millrace::runtime {
namespace {

using Kind = ValueKind;

void put_bytes(wire::Writer& out, std::string_view bytes) {
  out.put(static_cast<std::uint64_t>(bytes.size()));
  out.write(bytes.data(), bytes.size());
}

std::string_view take_bytes(wire::Reader& in) {
  const auto size = in.take<std::uint64_t>();
  return {reinterpret_cast<const char*>(in.skip(size)), size};
}

std::uint64_t take_count(wire::Reader& in, std::size_t least_bytes) {
  const auto count = in.take<std::uint64_t>();
  if (count > in.remaining() / least_bytes) {
    wire::throw_short_message(count * least_bytes, in.remaining());
  }
  return count;
}

void put_table(wire::Writer& out, TableNode& table) {
  out.put(static_cast<std::uint64_t>(table.live));
  for (const TableEntry& each : table.span()) {
    if (each.hash == TableEntry::kHole) continue;
    encode_object(out, each.key);
    if (table.kind == Kind::dict) encode_object(out, each.value);
  }
}

Object take_table(wire::Reader& in, Kind kind) {
  const std::uint64_t count = take_count(in, kind == Kind::dict ? 2 : 1);
  Object made = Access::adopt(new_table(kind, count));
  for (std::uint64_t i = 0; i < count; ++i) {
    Object key = decode_object(in);
    Object value = kind == Kind::dict ? decode_object(in) : Object();
    put_entry(*Access::node<TableNode>(made), std::move(key), std::move(value));
  }
  return made;
}

void put_items(wire::Writer& out, std::span<const Object> items) {
  out.put(static_cast<std::uint64_t>(items.size()));
  for (const Object& each : items) encode_object(out, each);
}

// The parts of a global or instance are what its repr takes them for.
bool well_formed(Kind kind, std::span<const Object> parts) {
  switch (kind) {
    case Kind::slice:
      return parts.size() == 3;
    case Kind::global:
      return parts.size() == 2 && is_text(parts[0]) && is_text(parts[1]);
    case Kind::instance:
      return parts.size() == 4 && is_kind(parts[1], Kind::tuple) &&
             (is_kind(parts[0], Kind::global) || is_kind(parts[0], Kind::instance));
    case Kind::exception:
      return parts.size() == 4 && is_text(parts[0]) && is_text(parts[1]) &&
             is_kind(parts[2], Kind::tuple);
    default:
      return true;
  }
}

Object take_list(wire::Reader& in) {
  const std::uint64_t count = take_count(in, 1);
  Object made = Access::adopt(new_list(count));
  for (std::uint64_t i = 0; i < count; ++i) {
    append_to(*Access::node<ItemsNode>(made), decode_object(in));
  }
  return made;
}

Object take_items(wire::Reader& in, Kind kind) {
  const std::uint64_t count = take_count(in, 1);
  Object made = Access::adopt(new_items(kind == Kind::exception ? Kind::tuple : kind, count));
  const auto items = Access::node<ItemsNode>(made)->span();
  for (Object& each : items) each = decode_object(in);
  if (!well_formed(kind, items)) wire::throw_corrupt("the parts of an mp::Object");
  return made;
}

void put_exception(wire::Writer& out, const ExceptionNode& node) {
  put_items(out, node.parts);
  out.put(static_cast<unsigned char>(node.native != nullptr));
  if (node.native != nullptr) encode_exception(out, node.native);
}

Object take_exception(wire::Reader& in) {
  const Object parts = take_items(in, Kind::exception);
  const auto items = Access::node<ItemsNode>(parts)->span();
  const bool native = in.take<unsigned char>() != 0;
  return exception_with(exception_of_name(items[0], items[1], items[2], items[3]),
                        native ? decode_exception(in) : nullptr);
}

void put_handle(wire::Writer& out, HandleNode& node) {
  out.put(node.ops->decoder());
  node.ops->encode(out, node.handle());
}

Object take_handle(wire::Reader& in) {
  using Decode = Object (*)(wire::Reader&);
  const auto decode = reinterpret_cast<Decode>(resolve_function(in.take<FunctionId>()));
  return decode(in);
}

void put_node(wire::Writer& out, const Object& value) {
  const wire::Nesting level(out);
  switch (Access::kind(value)) {
    case Kind::dict:
    case Kind::set:
    case Kind::frozenset:
      return put_table(out, *Access::node<TableNode>(value));
    case Kind::range:
      return out.put(Access::node<RangeNode>(value)->range);
    case Kind::complex:
      out.put(Access::node<ComplexNode>(value)->real);
      return out.put(Access::node<ComplexNode>(value)->imaginary);
    case Kind::exception:
      return put_exception(out, *Access::node<ExceptionNode>(value));
    case Kind::handle:
      return put_handle(out, *Access::node<HandleNode>(value));
    default:
      return put_items(out, Access::node<ItemsNode>(value)->span());
  }
}

Object take_node(wire::Reader& in, Kind kind) {
  const wire::Nesting level(in);
  switch (kind) {
    case Kind::dict:
    case Kind::set:
    case Kind::frozenset:
      return take_table(in, kind);
    case Kind::range: {
      const auto numbers = in.take<std::array<std::int64_t, 3>>();
      if (numbers[2] == 0) wire::throw_corrupt("a range in an mp::Object");
      return Range(numbers[0], numbers[1], numbers[2]);
    }
    case Kind::complex: {
      const auto real = in.take<double>();
      return object_of_complex(real, in.take<double>());
    }
    case Kind::exception:
      return take_exception(in);
    case Kind::handle:
      return take_handle(in);
    case Kind::list:
      return take_list(in);
    case Kind::tuple:
    case Kind::slice:
    case Kind::global:
    case Kind::instance:
      return take_items(in, kind);
    default:
      wire::throw_corrupt("the kind of an mp::Object");
  }
}

}  // namespace

void encode_object(wire::Writer& out, const Object& value) {
  const Kind kind = Access::kind(value);
  out.put(kind == Kind::short_text ? Kind::text : kind);
  switch (kind) {
    case Kind::none:
      break;
    case Kind::boolean:
    case Kind::integer:
    case Kind::real:
      out.put(Access::integer(value));
      break;
    case Kind::short_text:
    case Kind::text:
    case Kind::bytes:
    case Kind::bytearray:
      put_bytes(out, Access::text(value));
      break;
    default:
      put_node(out, value);
  }
}

Object decode_object(wire::Reader& in) {
  const auto kind = in.take<Kind>();
  switch (kind) {
    case Kind::none:
      return {};
    case Kind::boolean:
    case Kind::integer:
    case Kind::real:
      return Access::plain(kind, in.take<std::int64_t>());
    case Kind::text:
      return text_of(take_bytes(in));
    case Kind::bytes:
    case Kind::bytearray:
      return text_node_of(kind, take_bytes(in));
    default:
      return take_node(in, kind);
  }
}

Object decode_own(wire::Reader& in, ValueKind kind) {
  Object value = decode_object(in);
  if (!is_kind(value, kind)) wire::throw_corrupt("the kind of a container of mp::Objects");
  return value;
}

}  // namespace millrace::runtime
