// The bytes of an object that belong to none of its members hold whatever was there before, old
// addresses too. Who looks for addresses in an object clears them first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace millrace::wire {

template <class F>
struct ZeroBytes {
  std::byte bytes[sizeof(F)];
};

/// True for a type in which there is no pointer, reference, member pointer or union: only then may
/// bytes be made into one at compile time.
template <class F>
concept HoldsNoAddress = std::is_trivially_copyable_v<F> && requires {
  typename std::bool_constant<(static_cast<void>(__builtin_bit_cast(F, ZeroBytes<F>{})), true)>;
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
#define MILLRACE_CLEARS_PADDING 1
#elif __has_builtin(__builtin_dump_struct)
#define MILLRACE_SHOWS_MEMBERS 1
#endif
#endif

#if defined(MILLRACE_CLEARS_PADDING)

/// Zeroes the padding of a trivially copyable object.
template <class F>
void clear_padding(F& object) {
  __builtin_clear_padding(std::addressof(object));
}

#elif defined(MILLRACE_SHOWS_MEMBERS)

// clang has no such builtin, but one that shows each member of an object, lambdas included, to a
// function: as an lvalue or, where it could not print it, as the member's address.
class MemberMap {
 public:
  template <class F>
  explicit MemberMap(const F& object)
      : begin_(reinterpret_cast<const char*>(std::addressof(object))), size_(sizeof(F)) {}

  template <class T>
  void mark(const T& member) {
    const auto* const at = reinterpret_cast<const volatile char*>(std::addressof(member));
    if (mark_bytes(const_cast<const char*>(at), sizeof(T))) return;
    if constexpr (std::is_pointer_v<T> && std::is_object_v<std::remove_pointer_t<T> >) {
      mark_member_at(member);
    }
  }
  /// Zeroes the unmarked bytes of each word that has marked ones. A word without is a reference.
  void clear(char* object) const {
    for (std::size_t word = 0; word < size_ && word < kMost; word += kWord) {
      bool any = false;
      for (std::size_t i = word; i < word + kWord && i < size_; ++i) any = any || marked_[i];
      for (std::size_t i = word; any && i < word + kWord && i < size_; ++i) {
        if (!marked_[i]) object[i] = 0;
      }
    }
  }

 private:
  static constexpr std::size_t kWord = sizeof(void*);
  static constexpr std::size_t kMost = 1024;  // a larger callable's end is left as it is

  // An address that was shown instead of the member that is there.
  template <class T>
  void mark_member_at(const T* member);

  [[nodiscard]] std::size_t offset_of(const char* at) const {
    return reinterpret_cast<std::uintptr_t>(at) - reinterpret_cast<std::uintptr_t>(begin_);
  }
  [[nodiscard]] bool contains(const char* at) const { return offset_of(at) < size_; }
  bool mark_bytes(const char* at, std::size_t bytes) {
    if (!contains(at)) return false;
    const std::size_t offset = offset_of(at);
    for (std::size_t i = offset; i < offset + bytes && i < kMost; ++i) marked_[i] = true;
    return true;
  }

  const char* begin_;
  std::size_t size_;
  bool marked_[kMost] = {};
};

struct MarkMembers {
  template <class... A>
  void operator()(MemberMap& map, const char*, const A&... shown) const {
    (map.mark(shown), ...);
  }
};

template <class T>
void MemberMap::mark_member_at(const T* member) {
  if constexpr (requires { sizeof(T); }) {
    const auto* const at = reinterpret_cast<const volatile char*>(member);
    if (!contains(const_cast<const char*>(at))) return;
    if constexpr (std::is_class_v<T> && std::is_trivially_copyable_v<T>) {
      __builtin_dump_struct(member, MarkMembers{}, *this);
    } else {
      mark_bytes(const_cast<const char*>(at), sizeof(T));
    }
  }
}

/// Zeroes the padding of a trivially copyable object.
template <class F>
void clear_padding(F& object) {
  MemberMap map(object);
  __builtin_dump_struct(std::addressof(object), MarkMembers{}, map);
  map.clear(reinterpret_cast<char*>(std::addressof(object)));
}

#else

template <class F>
void clear_padding(F&) {}  // a compiler that cannot tell: an old address may be taken for a capture

#endif

#undef MILLRACE_CLEARS_PADDING
#undef MILLRACE_SHOWS_MEMBERS

}  // namespace millrace::wire
