// Static objects that are never destroyed: what runs at a program's exit may use them to the end.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace millrace::shm {

/// A T in place: making it takes no memory, so it works where there is none. For local statics.
template <class T>
class Immortal {
 public:
  template <class... A>
  explicit Immortal(A&&... arguments) {
    ::new (static_cast<void*>(place_)) T(std::forward<A>(arguments)...);
  }
  Immortal(const Immortal&) = delete;
  Immortal& operator=(const Immortal&) = delete;

  T& operator*() noexcept { return *std::launder(reinterpret_cast<T*>(place_)); }

 private:
  alignas(T) std::byte place_[sizeof(T)];
};

}  // namespace millrace::shm
