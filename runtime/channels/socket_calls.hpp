// What all calls of a SocketEnd go through: that it is open, whose turn it is, sleeping.
#pragma once

#include <poll.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <span>
#include <system_error>

#include "runtime/base/own_pid.hpp"
#include "runtime/channels/close_bell.hpp"
#include "runtime/channels/socket_end.hpp"
#include "shm/caller.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {
namespace socket_calls {

inline constexpr std::uint64_t kClosing = 1;
inline constexpr std::uint64_t kOneUse = 2;
inline constexpr std::uint64_t kUses = 0xffff'fffeU;
// How often a thread that waits for its turn looks whether the end was closed.
inline constexpr auto kTurnSlice = std::chrono::milliseconds(50);

// A message's length is 4 bytes; these two instead of one say that 8 bytes of length follow.
inline constexpr std::size_t kHeader = 4;
inline constexpr std::uint32_t kLongMessage = 0xffff'ffffU;
inline constexpr std::uint32_t kMessageInPieces = 0xffff'fffeU;  // between peers with memory only

// A message in pieces is that length, and for each piece 4 bytes: how long it is, at most kPiece.
// With kInSocket as many bytes follow, else they are the next ones of the lane. A piece does not
// go beyond the end of the lane's area.
inline constexpr std::uint32_t kInSocket = 0x8000'0000U;
inline constexpr std::size_t kPiece = std::size_t{128} << 10U;
// From here on a message is sent in pieces.
inline constexpr std::size_t kInPieces = std::size_t{64} << 10U;

/// `uses` as this process counts them.
inline std::uint64_t own_uses(std::uint64_t uses) noexcept {
  const auto pid = static_cast<std::uint64_t>(own_pid());
  return uses >> 32U == pid ? uses : pid << 32U | (uses & kClosing);
}

[[noreturn]] inline void fail(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}

/// Signals do not end it. 0 at the deadline.
inline int poll_through(std::span<pollfd> fds) {
  for (;;) {
    const int ready = ::poll(fds.data(), fds.size(), -1);
    if (ready >= 0) return ready;
    if (errno != EINTR) fail("poll");
  }
}

}  // namespace socket_calls

/// A call that is under way. Throws std::system_error (EBADF) when the end is closed.
class SocketEnd::Use {
 public:
  explicit Use(SocketEnd& end) : end_(end) {
    // relaxed: a guess, which the exchange corrects
    std::uint64_t known = end_.uses_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t own = socket_calls::own_uses(known);
      if ((own & socket_calls::kClosing) != 0) throw_handle_closed();
      // CLOSE socket: acquire and release, so that the last one sees it unused by all others;
      // pairs with leave() in socket_end.cpp
      if (end_.uses_.compare_exchange_weak(known, own + socket_calls::kOneUse,
                                           std::memory_order_acq_rel, std::memory_order_relaxed)) {
        return;
      }
    }
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  ~Use() { end_.leave(); }

 private:
  SocketEnd& end_;
};

/// The right to move one message in one direction.
class SocketEnd::Turn {
 public:
  /// Waits for it. Throws std::system_error: EBADF when the end is closed meanwhile, EIO when the
  /// direction ended inside a message; KeyboardInterrupt.
  Turn(SocketTurn& turn, const SocketEnd& end) : turn_(turn) {
    const shm::Caller& me = shm::this_caller();
    while (turn_.lock.acquire(me, socket_calls::kTurnSlice).got == shm::Got::no) end.check_open();
    // relaxed throughout: by the lock's holder only
    if (turn_.inside.load(std::memory_order_relaxed) == 0) return;
    turn_.lock.free();
    throw std::system_error(EIO, std::generic_category(),
                            "the connection broke off inside a message: a process or call that was "
                            "moving it has ended");
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { turn_.lock.free(); }

  /// A message begins to move, or has moved.
  void enter() noexcept { turn_.inside.store(1, std::memory_order_relaxed); }
  void leave() noexcept { turn_.inside.store(0, std::memory_order_relaxed); }

  /// How many bytes have gone through the lane of shared memory; see PeerLane.
  [[nodiscard]] std::uint64_t position() const noexcept {
    return turn_.position.load(std::memory_order_relaxed);
  }
  void move_to(std::uint64_t position) noexcept {
    turn_.position.store(position, std::memory_order_relaxed);
  }

 private:
  SocketTurn& turn_;
};

/// Sleeping on the socket, and hearing that it is closed meanwhile.
class SocketEnd::Pause {
 public:
  /// `bell`: where it is kept between waits.
  Pause(const SocketEnd& end, std::shared_ptr<const CloseBell>& bell) noexcept
      : end_(end), bell_(bell) {}

  /// Until it is ready for `events`; false at the deadline. Between messages: SIGINT ends it.
  bool between_messages(short events, Timeout::Clock::time_point deadline) {
    const shm::BlockingCall call;
    return sleep(events, [&](std::span<pollfd> fds) { return call.poll(fds, deadline); });
  }
  void inside_message(short events) { sleep(events, socket_calls::poll_through); }

 private:
  template <class Poll>
  bool sleep(short events, Poll poll) {
    for (;;) {
      if (!bell_ || !bell_->is_current()) bell_ = CloseBell::take();
      end_.check_open();
      std::array<pollfd, 2> fds{pollfd{end_.socket_.get(), events, 0},
                                pollfd{bell_->fd(), POLLIN, 0}};
      if (poll(std::span<pollfd>(fds)) == 0) return false;
      if (fds[1].revents != 0) bell_.reset();
      if (fds[0].revents != 0) return true;
    }
  }

  const SocketEnd& end_;
  std::shared_ptr<const CloseBell>& bell_;
};

}  // namespace millrace::runtime
