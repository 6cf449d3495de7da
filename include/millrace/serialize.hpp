// Values on their way from one process of a program to another: which types may travel, and the
// bytes they become. Both ends are the same program on the same machine; nothing here is for files
// or sockets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/type_key.hpp>
#include <millrace/wire/archive.hpp>
#include <millrace/wire/buffer.hpp>
#include <millrace/wire/codecs.hpp>
#include <millrace/wire/kinds.hpp>
#include <millrace/wire/opaque.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace millrace {

/// Types whose values travel: trivially copyable types except pointers, function pointers, strings,
/// the standard containers, pair, tuple, optional, variant, unique_ptr, chrono and filesystem::path
/// of such, aggregates of up to 16 such fields, types with cereal's serialize() or save() and
/// load(), and handles. Pointers and spans inside a struct travel as bytes: they are meant for the
/// arena. Python: what pickle accepts.
template <class T>
concept Serializable = wire::travels<std::remove_cv_t<T>>();

namespace wire {

/// Appends a value. Strong guarantee: when it throws, `out` is as it was before. Throws what a
/// serialize() throws, TypeError for a callable that holds a private address, ValueError for a
/// value nested too deeply, std::bad_alloc.
template <class T>
void encode(Writer& out, const T& value) {
  static_assert(Serializable<T>,
                "millrace: a value of this type cannot travel to another process; give it "
                "serialize(), make it an aggregate of Serializable members, or pass a handle");
  if constexpr (Serializable<T>) {
    const std::size_t start = out.size();
    try {
      put_value<T>(out, value);
      out.end_session();
    } catch (...) {
      out.revert(start);
      throw;
    }
  }
}

struct EndSession {
  Reader& in;
  ~EndSession() { in.end_session(); }
};

/// Takes a value that encode() of the same type wrote. Throws Corrupt when the message ends early,
/// and what a serialize() throws.
template <class T>
T decode(Reader& in) {
  static_assert(Serializable<T>,
                "millrace: a value of this type cannot arrive from another process; give it "
                "serialize(), make it an aggregate of Serializable members, or pass a handle");
  if constexpr (Serializable<T>) {
    const EndSession end{in};
    return take_value<std::remove_cv_t<T>>(in);
  }
}

/// The same into a value that exists, for types that cannot be moved.
template <class T>
void decode_into(Reader& in, T& value) {
  static_assert(Serializable<T>,
                "millrace: a value of this type cannot arrive from another process; give it "
                "serialize(), make it an aggregate of Serializable members, or pass a handle");
  if constexpr (Serializable<T>) {
    const EndSession end{in};
    take_into(in, value);
  }
}

template <class T>
struct Travel {
  using type = T;
};
template <>
struct Travel<const char*> {
  using type = std::string;
};
template <>
struct Travel<char*> {
  using type = std::string;
};
template <>
struct Travel<std::string_view> {
  using type = std::string;
};
template <class A, class B>
struct Travel<std::pair<A, B>> {
  using type =
      std::pair<typename Travel<std::decay_t<A>>::type, typename Travel<std::decay_t<B>>::type>;
};
template <class... T>
struct Travel<std::tuple<T...>> {
  using type = std::tuple<typename Travel<std::decay_t<T>>::type...>;
};

/// What an argument of type T arrives as: decayed, text as std::string.
template <class T>
using travel_t = typename Travel<std::decay_t<T>>::type;

/// Appends a value as its travel_t.
template <class T>
void encode_argument(Writer& out, const T& value) {
  using Traveller = travel_t<T>;
  if constexpr (std::is_same_v<Traveller, T>) {
    encode(out, value);
  } else {
    encode(out, Traveller(value));
  }
}

/// Compiles if T may be an argument or result, otherwise says what to do.
template <class T>
consteval bool check_serializable() {
  using Traveller = travel_t<T>;
  static_assert(!std::is_pointer_v<Traveller> || Serializable<Traveller>,
                "millrace: a pointer cannot travel to another process, what it points to would "
                "stay behind; pass the value, or an mp::shared_array");
  static_assert(std::is_pointer_v<Traveller> || Serializable<Traveller>,
                "millrace: an argument or result of this type cannot travel to another process; "
                "give it serialize(), make it an aggregate of Serializable members, or pass a "
                "handle");
  return Serializable<Traveller>;
}

}  // namespace wire
}  // namespace millrace
