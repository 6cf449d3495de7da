// Python's values in C++: mp::Object and the containers it is used with.
#pragma once

#include <millrace/object_containers.hpp>
#include <millrace/object_convert.hpp>
#include <millrace/object_core.hpp>
#include <millrace/object_make.hpp>
#include <millrace/wire/buffer.hpp>
#include <millrace/wire/kinds.hpp>

namespace millrace {

namespace runtime {

/// Values as arguments, results and items of queues inside one program.
void encode_object(wire::Writer& out, const Object& value);
Object decode_object(wire::Reader& in);
/// Throws Corrupt unless the message holds a value of this kind.
Object decode_own(wire::Reader& in, ValueKind kind);

/// How the library's containers travel: as what is in them.
template <class T>
struct OwnCodec {
  static void encode(wire::Writer& out, const T& value) { encode_object(out, make_object(value)); }
  static T decode(wire::Reader& in) { return convert<T>(decode_own(in, kOwnKind<T>)); }
};

}  // namespace runtime

namespace wire {

template <>
struct Custom<Object> {
  static void encode(Writer& out, const Object& value) { runtime::encode_object(out, value); }
  static Object decode(Reader& in) { return runtime::decode_object(in); }
};
template <>
struct Custom<List> : runtime::OwnCodec<List> {};
template <>
struct Custom<Tuple> : runtime::OwnCodec<Tuple> {};
template <>
struct Custom<Dict> : runtime::OwnCodec<Dict> {};
template <>
struct Custom<Set> : runtime::OwnCodec<Set> {};
template <>
struct Custom<FrozenSet> : runtime::OwnCodec<FrozenSet> {};
template <>
struct Custom<ByteArray> : runtime::OwnCodec<ByteArray> {};
template <>
struct Custom<Slice> : runtime::OwnCodec<Slice> {};
template <>
struct Custom<Range> : runtime::OwnCodec<Range> {};

}  // namespace wire
}  // namespace millrace
