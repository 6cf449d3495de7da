// Waiting awake for a peer that may answer before this thread were asleep.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstddef>

#include "shm/parking.hpp"

namespace millrace::runtime {

/// Whether it pays to wait awake for the peer: while that is answered, and now and then to see.
/// Used by one thread at a time.
class Patience {
 public:
  /// True when `ready()` is, at once or within kTime.
  template <class Ready>
  bool wait(Ready&& ready) {
    if (ready()) return true;
    if (!may_spin()) return false;
    const bool came = shm::spin_until(ready, kTime);
    misses_ = came ? 0 : misses_ + 1;
    return came;
  }

 private:
  static constexpr unsigned kMisses = 2;  // in a row, until it is tried seldom
  static constexpr unsigned kSeldom = 16;
  // About what it costs to be woken, and to copy a piece.
  static constexpr auto kTime = std::chrono::microseconds(50);

  // Where both share a cpu they always miss.
  bool may_spin() noexcept { return misses_ < kMisses || ++skipped_ % kSeldom == 0; }

  unsigned misses_ = 0;
  unsigned skipped_ = 0;
};

/// Something can be received from a socket, be it the end or an error.
inline bool something_came(int socket) noexcept {
  std::byte first{};
  return ::recv(socket, &first, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

}  // namespace millrace::runtime
