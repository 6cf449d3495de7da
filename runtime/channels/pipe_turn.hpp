// Holding one of the two locks of a Direction.
#pragma once

#include <chrono>

#include "runtime/channels/pipe_end.hpp"
#include "shm/caller.hpp"

namespace millrace::runtime {

/// How long a thread waits for a turn before it looks whether the end was closed meanwhile.
inline constexpr auto kTurnSlice = std::chrono::milliseconds(50);

/// How long who waits for the peer sleeps before it looks whether that lives. A look is eight
/// system calls; after 0.5 ms it met the answers of peers that rest as long.
inline constexpr auto kFirstLook = std::chrono::milliseconds(4);

/// The right to send: from the constructor, which waits for it, to release().
class PipeEnd::SendTurn {
 public:
  explicit SendTurn(PipeEnd& end) : end_(end) {
    Direction& out = end.out();
    shm::SharedLock::Result got = out.send_lock.try_acquire(shm::this_caller());
    while (got.got == shm::Got::no) {
      got = out.send_lock.acquire(shm::this_caller(), kTurnSlice);
      if (got.got == shm::Got::no) end.check_open();
    }
    held_ = true;
    if (got.got == shm::Got::abandoned) take_over();
  }
  SendTurn(const SendTurn&) = delete;
  SendTurn& operator=(const SendTurn&) = delete;
  ~SendTurn() { release(); }

  void release() noexcept {
    if (held_) end_.out().send_lock.free();
    held_ = false;
  }

 private:
  void take_over() {
    try {
      end_.out().restart_producer();
      if (!end_.bell_out_.armed()) return;
      const std::lock_guard guard(bell_mutex());
      end_.bell_out_.add_unit();
    } catch (...) {
      release();
      throw;
    }
  }

  PipeEnd& end_;
  bool held_ = false;
};

/// The right to receive, while it is held.
class PipeEnd::RecvTurn {
 public:
  explicit RecvTurn(PipeEnd& end) noexcept : end_(end) {}
  RecvTurn(const RecvTurn&) = delete;
  RecvTurn& operator=(const RecvTurn&) = delete;
  ~RecvTurn() { release(); }

  /// True when it is held now.
  bool try_take() { return held_ || took(end_.in().recv_lock.try_acquire(shm::this_caller())); }
  /// The same, waiting for a slice at most.
  bool try_take_for_a_slice() {
    return held_ || took(end_.in().recv_lock.acquire(shm::this_caller(), kTurnSlice));
  }
  /// Waits for it.
  void take() {
    if (try_take()) return;
    while (!try_take_for_a_slice()) end_.check_open();
  }
  void release() noexcept {
    if (held_ && attended_) end_.settle();
    if (held_) end_.in().recv_lock.free();
    held_ = false;
    attended_ = false;
  }
  /// For one who looks at the ring until it releases this, which must be soon: writers need not
  /// ring (pipe_bell.hpp).
  void attend() noexcept {
    attended_ = attended_ || (end_.bell_in_.armed() && end_.bell_in_.attend());
  }
  [[nodiscard]] bool attended() const noexcept { return attended_; }

 private:
  bool took(const shm::SharedLock::Result& result) {
    if (result.got == shm::Got::no) return false;
    held_ = true;
    if (result.got == shm::Got::abandoned) {
      end_.in().in_frame.store(0, std::memory_order_relaxed);  // advice
      end_.in().consumer().resume();
      end_.bell_in_.settle();
      end_.ring_for_the_living();
    }
    return true;
  }

  PipeEnd& end_;
  bool held_ = false;
  bool attended_ = false;
};

}  // namespace millrace::runtime
