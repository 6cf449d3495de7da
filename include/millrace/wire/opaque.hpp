// Lambdas, and function objects that do not say what they hold. Nothing is looked up inside them:
// their bytes travel, or a copy is made in the arena, and every word is checked for addresses that
// mean nothing in another process.
#pragma once

#include <cstddef>
#include <millrace/wire/codecs.hpp>
#include <millrace/wire/padding.hpp>
#include <new>
#include <type_traits>
#include <utility>

namespace millrace::wire {

/// Throws TypeError when a word of `callable` is an address of this process's private memory.
template <class F>
void check_words(const F& callable) {
  constexpr std::string_view name = type_name<F>();
  runtime::check_captures(std::addressof(callable), sizeof(F), name.data(), name.size());
}

/// Appends the bytes of a trivially copyable callable, checked if it can hold an address.
template <class F>
void put_checked_bytes(Writer& out, const F& callable) {
  if constexpr (HoldsNoAddress<F> || sizeof(F) < sizeof(void*)) {
    out.put(callable);
  } else {
    F copy(callable);
    // Between the members lies whatever the stack held before: addresses too.
    clear_padding(copy);
    check_words(copy);
    out.put(copy);
  }
}

/// A copy of a callable in the arena, checked; destroyed and freed by destroy_block().
template <class F>
F* copy_to_block(const F& callable) {
  static_assert(alignof(F) <= 64, "millrace: callables are aligned to 64 bytes at most");
  void* const block = runtime::arena_allocate(sizeof(F));
  std::memset(block, 0, sizeof(F));  // what lies between the members is checked as well
  F* copy = nullptr;
  try {
    copy = ::new (block) F(callable);
    check_words(*copy);
  } catch (...) {
    if (copy != nullptr) copy->~F();
    runtime::arena_deallocate(block);
    throw;
  }
  return copy;
}

template <class F>
void destroy_block(F* copy) noexcept {
  copy->~F();
  runtime::arena_deallocate(copy);
}

// Bytes if that is all there is to a copy; otherwise an arena block, which the message owns.
template <class T>
struct Codec<T, Kind::opaque> {
  static constexpr bool kBytes = std::is_trivially_copyable_v<T>;

  static void encode(Writer& out, const T& value) {
    if constexpr (kBytes) {
      put_checked_bytes(out, value);
    } else {
      T* const copy = copy_to_block(value);
      const std::size_t offset = out.size();
      try {
        out.keep(offset, drop, Writer::Holds::block);
        out.put(copy);
      } catch (...) {
        if (out.size() == offset) destroy_block(copy);
        throw;
      }
    }
  }
  static T decode(Reader& in) {
    if constexpr (kBytes) {
      return in.take<T>();
    } else {
      T* const copy = in.take<T*>();
      if (in.references() == References::borrow) return T(*copy);
      struct Owner {
        T* block;
        ~Owner() { destroy_block(block); }
      } const owner{copy};
      return T(std::move(*copy));
    }
  }

 private:
  static void drop(std::byte* place) noexcept {
    T* copy = nullptr;
    std::memcpy(&copy, place, sizeof copy);
    destroy_block(copy);
  }
};

}  // namespace millrace::wire
