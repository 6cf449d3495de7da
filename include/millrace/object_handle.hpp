// Handles inside an Object: what is known of a handle whose type nobody knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/function.hpp>
#include <millrace/object_core.hpp>
#include <millrace/type_key.hpp>
#include <millrace/wire/buffer.hpp>
#include <millrace/wire/kinds.hpp>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace millrace::runtime {

/// The operations of one type of handle.
struct HandleOps {
  std::string_view type;  // its type_key
  std::size_t bytes;
  void (*copy)(void* to, const void* from);
  void (*destroy)(void* handle) noexcept;
  bool (*equal)(const void* a, const void* b);
  std::string (*repr)(const void* handle);  // null: it has none
  void (*encode)(wire::Writer& out, const void* handle);
  FunctionId (*decoder)();  // names an Object (*)(wire::Reader&)
};

/// Copies a handle into an Object.
Object object_of_handle(const HandleOps& ops, const void* handle);
/// The handle inside; null when it is none of the type with this type_key.
const void* find_handle(const Object& value, std::string_view type) noexcept;
[[noreturn]] void throw_no_handle(const Object& value, std::string_view type);

template <class H>
const HandleOps& handle_ops();

template <class H>
Object decode_handle(wire::Reader& in) {
  const H handle = wire::Custom<H>::decode(in);
  return object_of_handle(handle_ops<H>(), &handle);
}

template <class H>
const HandleOps& handle_ops() {
  static_assert(alignof(H) <= alignof(std::max_align_t));
  static const HandleOps kOps = {
      wire::type_key<H>(),
      sizeof(H),
      [](void* to, const void* from) { ::new (to) H(*static_cast<const H*>(from)); },
      [](void* handle) noexcept { static_cast<H*>(handle)->~H(); },
      [](const void* a, const void* b) -> bool {
        return *static_cast<const H*>(a) == *static_cast<const H*>(b);
      },
      [](const void* handle) -> std::string {
        if constexpr (requires(const H& h) { std::string(h.repr()); }) {
          return static_cast<const H*>(handle)->repr();
        } else {
          return {};
        }
      },
      [](wire::Writer& out, const void* handle) {
        wire::Custom<H>::encode(out, *static_cast<const H*>(handle));
      },
      [] { return id_of<&decode_handle<H>>(); }};
  return kOps;
}

}  // namespace millrace::runtime
