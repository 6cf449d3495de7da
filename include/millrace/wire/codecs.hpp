// One Codec per Kind: how values of that kind are written and read back.
// Every value takes at least one byte, so that a damaged count is noticed before memory is asked
// for; user-written serialize() functions are the exception.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/function.hpp>
#include <millrace/wire/kinds.hpp>
#include <utility>

namespace millrace::wire {

template <class T, Kind K = kKind<T>>
struct Codec {
  static_assert(K != Kind::none,
                "millrace: a value of this type cannot travel to another process; give it "
                "serialize(), make it an aggregate of Serializable members, or pass a handle");
};

template <class T>
void put_value(Writer& out, const T& value) {
  Codec<T>::encode(out, value);
}
template <class T>
T take_value(Reader& in) {
  return Codec<T>::decode(in);
}
/// Decodes into a value that exists: arrays and serialize() work in place.
template <class T>
void take_into(Reader& in, T& value) {
  if constexpr (requires { Codec<T>::decode_into(in, value); }) {
    Codec<T>::decode_into(in, value);
  } else {
    value = Codec<T>::decode(in);
  }
}

template <class T>
struct Codec<T, Kind::custom> : Custom<T> {};

template <class T>
struct Codec<T, Kind::bytes> {
  static void encode(Writer& out, const T& value) { out.put(value); }
  static T decode(Reader& in) { return in.take<T>(); }
};

template <class T>
struct Codec<T, Kind::function> {
  static void encode(Writer& out, const T& value) {
    out.put(runtime::function_id(reinterpret_cast<runtime::AnyFunction>(value)));
  }
  static T decode(Reader& in) {
    return reinterpret_cast<T>(runtime::resolve_function(in.take<runtime::FunctionId>()));
  }
};

// The Itanium C++ ABI's {function or vtable offset, this adjustment}. A virtual function's name is
// its place in the vtable, which is the same everywhere; another's is its FunctionId.
template <class T>
struct Codec<T, Kind::member_function> {
  static void encode(Writer& out, const T& value) {
    auto parts = __builtin_bit_cast(Parts, value);
    const bool address = parts.function != 0 && !is_virtual(parts);
    if (address) {
      parts.function = runtime::function_id(reinterpret_cast<runtime::AnyFunction>(parts.function));
    }
    out.put(static_cast<unsigned char>(address));
    out.put(parts);
  }
  static T decode(Reader& in) {
    const bool address = in.take<unsigned char>() != 0;
    auto parts = in.take<Parts>();
    if (address) {
      const auto id = static_cast<runtime::FunctionId>(parts.function);
      parts.function = reinterpret_cast<std::uintptr_t>(runtime::resolve_function(id));
    }
    return __builtin_bit_cast(T, parts);
  }

 private:
  struct Parts {
    std::uintptr_t function;
    std::ptrdiff_t adjustment;
  };
  static_assert(sizeof(T) == sizeof(Parts));

  static bool is_virtual(const Parts& parts) noexcept {
#if defined(__aarch64__) || defined(__arm__)
    return (parts.adjustment & 1) != 0;
#else
    return (parts.function & 1) != 0;
#endif
  }
};

template <class T>
struct Codec<T, Kind::tuple> {
  static void encode(Writer& out, const T& value) {
    if constexpr (std::tuple_size_v<T> == 0) {
      out.put(std::byte{});
    } else {
      std::apply([&out](const auto&... each) { (put_value(out, each), ...); }, value);
    }
  }
  static T decode(Reader& in) {
    if constexpr (std::tuple_size_v<T> == 0) in.skip(1);
    return decode_all(in, std::make_index_sequence<std::tuple_size_v<T>>{});
  }

 private:
  template <std::size_t... I>
  static T decode_all([[maybe_unused]] Reader& in, std::index_sequence<I...>) {
    return T{take_value<std::remove_const_t<std::tuple_element_t<I, T>>>(in)...};  // left to right
  }
};

template <class T>
struct Codec<T, Kind::optional> {
  static void encode(Writer& out, const T& value) {
    out.put(static_cast<unsigned char>(value.has_value()));
    if (value) put_value(out, *value);
  }
  static T decode(Reader& in) {
    using Value = std::remove_const_t<typename T::value_type>;
    if (in.take<unsigned char>() == 0) return T{};
    return T{take_value<Value>(in)};
  }
};

// Written against the interface of std::variant, so that only those who use it include its header.
template <template <class...> class List, class... A>
struct Codec<List<A...>, Kind::variant> {
  using T = List<A...>;

  static void encode(Writer& out, const T& value) {
    out.put(static_cast<std::uint32_t>(value.index()));  // a valueless one has an index of its own
    if (!value.valueless_by_exception()) {
      visit([&out](const auto& each) { put_value(out, each); }, value);
    }
  }
  static T decode(Reader& in) {
    return decode_at(in, in.take<std::uint32_t>(), std::index_sequence_for<A...>{});
  }

 private:
  template <std::size_t... I>
  static T decode_at(Reader& in, std::uint32_t index, std::index_sequence<I...>) {
    using Decode = T (*)(Reader&);
    static constexpr Decode kDecode[] = {
        [](Reader& from) { return T(std::in_place_index<I>, take_value<A>(from)); }...};
    if (index >= sizeof...(A)) throw_corrupt("a variant's alternative");
    return kDecode[index](in);
  }
};

// Element by element, in place.
template <class T>
struct ArrayInPlace {
  using Element = element_t<T>;

  static void encode(Writer& out, const T& value) {
    if constexpr (kBitwise<Element>) {
      out.write(&value, sizeof value);
    } else {
      for (const Element& each : value) put_value(out, each);
    }
  }
  static void decode_into(Reader& in, T& value) {
    if constexpr (kBitwise<Element>) {
      in.read(static_cast<void*>(&value), sizeof value);
    } else {
      for (Element& each : value) take_into(in, each);
    }
  }
};

template <class T, std::size_t N>
struct Codec<T[N], Kind::array> : ArrayInPlace<T[N]> {};

template <class T>
struct Codec<T, Kind::array> : ArrayInPlace<T> {
  static T decode(Reader& in) {
    if constexpr (std::default_initializable<T>) {
      T value{};
      ArrayInPlace<T>::decode_into(in, value);
      return value;
    } else {
      return decode_all(in, std::make_index_sequence<std::tuple_size_v<T>>{});
    }
  }

 private:
  template <std::size_t... I>
  static T decode_all(Reader& in, std::index_sequence<I...>) {
    return T{(static_cast<void>(I), take_value<element_t<T>>(in))...};
  }
};

template <class T>
struct Codec<T, Kind::path> {
  using Text = typename T::string_type;
  static void encode(Writer& out, const T& value) { put_value<Text>(out, value.native()); }
  static T decode(Reader& in) { return T(take_value<Text>(in)); }
};

template <class T>
struct Codec<T, Kind::unique> {
  using Element = typename T::element_type;
  static void encode(Writer& out, const T& value) {
    const Nesting level(out);
    const Element* const element = value.get();
    out.put(static_cast<unsigned char>(element != nullptr));
    if (element != nullptr) put_value<std::remove_const_t<Element>>(out, *element);
  }
  static T decode(Reader& in) {
    const Nesting level(in);
    if (in.take<unsigned char>() == 0) return T{};
    return T(new Element(take_value<std::remove_const_t<Element>>(in)));
  }
};

/// Takes an element count; elements that take a byte each cannot be more than the bytes left.
template <class Element>
std::size_t take_count(Reader& in) {
  const auto count = in.take<std::uint64_t>();
  constexpr bool user_written = kKind<Element> == Kind::archived ||
                                kKind<Element> == Kind::custom || kKind<Element> == Kind::foreign ||
                                kKind<Element> == Kind::aggregate;
  if constexpr (!user_written) {
    constexpr std::size_t least = kBitwise<Element> ? sizeof(Element) : 1;
    if (count > in.remaining() / least) throw_short_message(count, in.remaining());
  }
  return count;
}

template <class T>
struct Codec<T, Kind::sequence> {
  using Element = typename T::value_type;
  static constexpr bool kBulk = Contiguous<T> && kBitwise<Element>;

  static void encode(Writer& out, const T& value) {
    out.put(static_cast<std::uint64_t>(value.size()));
    if constexpr (kBulk) {
      out.write(value.data(), value.size() * sizeof(Element));
    } else {
      const Nesting level(out);
      for (auto&& each : value) {
        const Element& element = each;  // vector<bool> gives proxies
        put_value(out, element);
      }
    }
  }
  static T decode(Reader& in) {
    const std::size_t count = take_count<Element>(in);
    T value{};
    if constexpr (kBulk) {
      fill(value, in.skip(count * sizeof(Element)), count);
    } else {
      const Nesting level(in);
      if constexpr (requires { value.reserve(count); }) {
        value.reserve(count < in.remaining() ? count : in.remaining());
      }
      for (std::size_t i = 0; i < count; ++i) value.push_back(take_value<Element>(in));
    }
    return value;
  }

 private:
  // One copy where the elements lie aligned, else cleared and copied.
  static void fill(T& value, const std::byte* from, std::size_t count) {
    const auto* const first = reinterpret_cast<const Element*>(from);
    if constexpr (std::is_trivially_copyable_v<Element> &&
                  requires { value.assign(first, first); }) {
      if (reinterpret_cast<std::uintptr_t>(from) % alignof(Element) == 0) {
        value.assign(first, first + count);
        return;
      }
    }
    value.resize(count);
    if (count != 0) {
      std::memcpy(static_cast<void*>(value.data()), from, count * sizeof(Element));
    }
  }
};

template <class T>
struct Codec<T, Kind::associative> {
  using Key = typename T::key_type;

  static void encode(Writer& out, const T& value) {
    const Nesting level(out);
    out.put(static_cast<std::uint64_t>(value.size()));
    for (const auto& each : value) {
      if constexpr (MapLike<T>) {
        put_value(out, each.first);
        put_value(out, each.second);
      } else {
        put_value(out, each);
      }
    }
  }
  static T decode(Reader& in) {
    const Nesting level(in);
    T value{};
    const std::size_t count = take_count<Key>(in);
    for (std::size_t i = 0; i < count; ++i) {
      if constexpr (MapLike<T>) {
        Key key = take_value<Key>(in);  // before its value, whatever the call's argument order
        value.emplace_hint(value.end(), std::move(key), take_value<typename T::mapped_type>(in));
      } else {
        value.emplace_hint(value.end(), take_value<Key>(in));
      }
    }
    return value;
  }
};

template <class T>
struct Codec<T, Kind::aggregate> {
  static void encode(Writer& out, const T& value) {
    visit_fields(value, [&out](const auto&... field) { (put_value(out, field), ...); });
  }
  static T decode(Reader& in) { return construct(in, FieldTypes<T>{}); }

 private:
  template <class... F>
  static T construct(Reader& in, TypeList<F...>) {
    if constexpr ((std::is_array_v<F> || ...)) {  // arrays are no initialisers: filled in place
      T value{};
      visit_fields(value, [&in](auto&... field) { (take_into(in, field), ...); });
      return value;
    } else {
      return T{take_value<F>(in)...};  // in the order of the fields
    }
  }
};

template <class T>
struct Codec<T, Kind::foreign> {
  static void encode(Writer& out, const T& value) { Foreign<T>::encode(out, value); }
  static void decode_into(Reader& in, T& value) { Foreign<T>::decode_into(in, value); }
  static T decode(Reader& in) {
    T value{};
    Foreign<T>::decode_into(in, value);
    return value;
  }
};

}  // namespace millrace::wire
