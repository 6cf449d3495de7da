// What identifies a type in all files and processes of a program.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <typeinfo>

namespace millrace::wire {

/// The type's mangled name. The ABI fixes it, unlike the compiler's spelling: g++ writes a default
/// template argument out or not, as the file did first.
template <class T>
std::string_view type_key() noexcept {
  return typeid(T).name();
}

/// A number for a type, from its name and size: two types that a linker folded together still
/// differ.
template <class T>
std::uint64_t type_hash() noexcept {
  static const std::uint64_t hash = [] {
    std::uint64_t h = 0xcbf29ce484222325U;  // FNV-1a
    for (const char c : type_key<T>()) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    if constexpr (std::is_object_v<T>) h = (h ^ sizeof(T)) * 0x100000001b3U;
    return h;
  }();
  return hash;
}

}  // namespace millrace::wire
