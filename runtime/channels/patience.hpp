// Waiting awake for a peer that may answer before this thread were asleep.
#pragma once

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "shm/parking.hpp"

namespace millrace::runtime {

/// Whether it pays to wait awake for the peer: while that is answered, and now and then to see.
/// Used by one thread at a time.
class Patience {
 public:
  /// What is waited for. The next message of one peer: not awake where both share a cpu. A frame of
  /// a handshake, each time of another peer: awake all the same.
  enum class Awaits : bool { message, handshake };

  explicit Patience(Awaits awaits = Awaits::message) noexcept : awaits_(awaits) {}

  /// True when `ready()` is within kTime. False at once while it does not pay: the caller is about
  /// to look, or to sleep until it is.
  template <class Ready>
  bool wait(Ready&& ready) {
    if (!may_spin()) return false;
    if (ready()) return true;  // which says nothing of waiting
    bool alone = true;
    const bool came = spin(ready, alone);
    if (came && (alone || awaits_ == Awaits::handshake)) {
      misses_ = 0;
      seldom_ = kSeldom;
    } else {
      const unsigned most = awaits_ == Awaits::handshake ? kSeldom : kMostSeldom;
      seldom_ = ++misses_ > kMisses ? std::min(2 * seldom_, most) : kSeldom;
      skipped_ = 0;
    }
    return came;
  }

 private:
  static constexpr unsigned kMisses = 2;   // in a row, until it is tried seldom
  static constexpr unsigned kSeldom = 16;  // then twice as seldom each time, up to:
  static constexpr unsigned kMostSeldom = 256;
  // About what it costs to be woken, and to copy a piece.
  static constexpr auto kTime = std::chrono::microseconds(50);

  // Between two looks; who does not look for longer had to give the cpu away, to the peer mostly,
  // who had waited for it: asleep both were faster.
  static constexpr std::uint64_t kGapUs = 3;

  template <class Ready>
  static bool spin(Ready& ready, bool& alone) {
    const std::uint64_t us = shm::ticks_per_us();
    const std::uint64_t limit = kTime.count() * us;
    const std::uint64_t start = shm::ticks();
    for (std::uint64_t last = start;;) {
      const bool came = ready();
      const std::uint64_t now = shm::ticks();
      if (now - last > kGapUs * us) alone = false;
      if (came) return true;
      if (now - start >= limit) return false;
      last = now;
      shm::cpu_relax();
    }
  }

  // Where both share a cpu they always miss.
  bool may_spin() noexcept { return misses_ < kMisses || ++skipped_ > seldom_; }

  const Awaits awaits_;
  unsigned misses_ = 0;
  unsigned seldom_ = kSeldom;
  unsigned skipped_ = 0;
};

/// Something can be received from a socket, be it the end or an error, which stays to be received.
inline bool something_came(int socket) noexcept {
  pollfd event{socket, POLLIN, 0};
  return ::poll(&event, 1, 0) > 0;
}

}  // namespace millrace::runtime
