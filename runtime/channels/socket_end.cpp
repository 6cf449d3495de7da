#include "runtime/channels/socket_end.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <limits>
#include <memory>
#include <millrace/errors.hpp>
#include <new>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/fd_bag.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/channels/close_bell.hpp"
#include "shm/caller.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {
namespace {

using Clock = Timeout::Clock;

constexpr std::size_t kHeader = 4;
constexpr std::size_t kLongHeader = kHeader + 8;
constexpr std::uint64_t kClosing = 1;
constexpr std::uint64_t kOneUse = 2;
constexpr std::uint64_t kUses = 0xffff'fffeU;
// How often a thread that waits for its turn looks whether the end was closed.
constexpr auto kTurnSlice = std::chrono::milliseconds(50);

// `uses` as this process counts them.
std::uint64_t own_uses(std::uint64_t uses) noexcept {
  const auto pid = static_cast<std::uint64_t>(own_pid());
  return uses >> 32U == pid ? uses : pid << 32U | (uses & kClosing);
}

std::size_t put_header(std::array<std::byte, kLongHeader>& header, std::uint64_t size) noexcept {
  const bool is_long = size > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max());
  const std::size_t bytes = is_long ? kLongHeader : kHeader;
  header.fill(std::byte{0xff});
  for (std::size_t i = is_long ? kHeader : 0; i < bytes; ++i) {
    header[i] = static_cast<std::byte>(size >> 8 * (bytes - 1 - i));
  }
  return bytes;
}

std::uint64_t big_endian(std::span<const std::byte> bytes) noexcept {
  std::uint64_t value = 0;
  for (const std::byte each : bytes) value = value << 8U | std::to_integer<std::uint64_t>(each);
  return value;
}

[[noreturn]] void fail(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}

bool is_gone(int error) noexcept { return error == EPIPE || error == ECONNRESET; }

// Steps over what has been sent.
void advance(std::span<iovec>& left, std::size_t sent) noexcept {
  while (!left.empty() && sent >= left.front().iov_len) {
    sent -= left.front().iov_len;
    left = left.subspan(1);
  }
  if (left.empty()) return;
  left.front().iov_base = static_cast<char*>(left.front().iov_base) + sent;
  left.front().iov_len -= sent;
}

// Signals do not end it. 0 at the deadline.
int poll_through(std::span<pollfd> fds) {
  for (;;) {
    const int ready = ::poll(fds.data(), fds.size(), -1);
    if (ready >= 0) return ready;
    if (errno != EINTR) fail("poll");
  }
}

}  // namespace

/// A call that is under way. Throws std::system_error (EBADF) when the end is closed.
class SocketEnd::Use {
 public:
  explicit Use(SocketEnd& end) : end_(end) {
    // relaxed: a guess, which the exchange corrects
    std::uint64_t known = end_.uses_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t own = own_uses(known);
      if ((own & kClosing) != 0) throw_handle_closed();
      // CLOSE socket: acquire and release, so that the last one sees it unused by all others
      if (end_.uses_.compare_exchange_weak(known, own + kOneUse, std::memory_order_acq_rel,
                                           std::memory_order_relaxed)) {
        return;
      }
    }
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  ~Use() {
    // CLOSE socket: as above
    const std::uint64_t before = end_.uses_.fetch_sub(kOneUse, std::memory_order_acq_rel);
    if ((before & (kUses | kClosing)) == (kOneUse | kClosing)) end_.let_go();
  }

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
    while (turn_.lock.acquire(me, kTurnSlice).got == shm::Got::no) end.check_open();
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
  bool between_messages(short events, Clock::time_point deadline) {
    const shm::BlockingCall call;
    return sleep(events, [&](std::span<pollfd> fds) { return call.poll(fds, deadline); });
  }
  void inside_message(short events) { sleep(events, poll_through); }

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

SocketEnd::SocketEnd(Descriptor socket, shm::ObjectRef object) noexcept
    : ConnectionEnd(true, true), socket_(std::move(socket)), object_(std::move(object)) {}

SocketObject& SocketEnd::shared() const noexcept {
  return *static_cast<SocketObject*>(object_.payload());
}

// Nobody uses the end any more.
void SocketEnd::let_go() noexcept {
  socket_.reset();
  send_bell_.reset();
  receive_bell_.reset();
}

void SocketEnd::send(FrameKind, std::span<const FramePart> parts) {
  const Use use(*this);
  std::array<std::byte, kLongHeader> header;
  std::vector<iovec> all(1);
  std::uint64_t size = 0;
  for (const FramePart& part : parts) {
    size += part.size();
    if (!part.empty()) all.push_back({const_cast<std::byte*>(part.data()), part.size()});
  }
  all.front() = {header.data(), put_header(header, size)};

  Turn turn(shared().sending, *this);
  Pause pause(*this, send_bell_);
  turn.enter();
  std::span<iovec> left(all);
  for (bool begun = false; !left.empty();) {
    msghdr message{};
    message.msg_iov = left.data();
    message.msg_iovlen = std::min<std::size_t>(left.size(), IOV_MAX);
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      begun = true;
      advance(left, static_cast<std::size_t>(sent));
    } else if (is_gone(errno)) {
      turn.leave();  // whoever sends next is told the same
      throw_broken_pipe();
    } else if (errno == EAGAIN && begun) {
      pause.inside_message(POLLOUT);
    } else if (errno == EAGAIN) {
      turn.leave();
      pause.between_messages(POLLOUT, Clock::time_point::max());
      turn.enter();
    } else if (errno != EINTR) {
      fail("send over a connection");
    }
  }
  turn.leave();
}

FrameKind SocketEnd::receive(FrameBuffer& frame, std::size_t maxlength) {
  receive_frame(frame, {}, maxlength);
  return FrameKind::bytes;
}

std::size_t SocketEnd::receive_into(std::span<std::byte> room, FrameBuffer& rest) {
  return receive_frame(rest, room, std::numeric_limits<std::size_t>::max());
}

std::size_t SocketEnd::receive_frame(FrameBuffer& frame, std::span<std::byte> room,
                                     std::size_t maxlength) {
  const Use use(*this);
  Turn turn(shared().receiving, *this);
  Pause pause(*this, receive_bell_);
  const std::size_t size = receive_length(turn, pause, maxlength);
  if (room.data() != nullptr && size <= room.size()) {
    receive_all(turn, pause, room.first(size));
  } else {
    std::byte* to = nullptr;
    try {
      to = frame.resize(size);
    } catch (const std::bad_alloc&) {
      refuse_rest();
      throw std::system_error(ENOMEM, std::generic_category(),
                              "a message of " + std::to_string(size) + " bytes");
    }
    receive_all(turn, pause, {to, size});
  }
  turn.leave();
  return size;
}

// The length of the next message, which is under way then.
std::size_t SocketEnd::receive_length(Turn& turn, Pause& pause, std::size_t maxlength) {
  std::array<std::byte, kLongHeader> header;
  ssize_t got = -1;
  while (got < 0) {
    turn.enter();
    got = ::recv(socket_.get(), header.data(), kHeader, MSG_DONTWAIT);
    if (got > 0) break;
    turn.leave();
    if (got == 0 || errno == ECONNRESET) throw_end_of_file();
    if (errno == EAGAIN) {
      pause.between_messages(POLLIN, Clock::time_point::max());
    } else if (errno != EINTR) {
      fail("receive over a connection");
    }
  }
  const auto begun = static_cast<std::size_t>(got);
  receive_all(turn, pause, std::span(header).subspan(begun, kHeader - begun));
  std::uint64_t size = big_endian(std::span(header).first(kHeader));
  if (size == std::numeric_limits<std::uint32_t>::max()) {
    receive_all(turn, pause, std::span(header).subspan(kHeader));
    size = big_endian(std::span(header).subspan(kHeader));
  } else if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
    size = std::numeric_limits<std::uint64_t>::max();  // a negative length: none
  }
  if (size > maxlength || size > static_cast<std::uint64_t>(PTRDIFF_MAX)) {
    refuse_rest();
    throw_bad_message_length();
  }
  return size;
}

// Inside a message.
void SocketEnd::receive_all(Turn& turn, Pause& pause, std::span<std::byte> room) {
  while (!room.empty()) {
    const ssize_t got = ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (got > 0) {
      room = room.subspan(static_cast<std::size_t>(got));
      if (!room.empty()) pause.inside_message(POLLIN);
    } else if (got == 0 || errno == ECONNRESET) {
      turn.leave();  // behind it there is nothing: end of file
      throw_end_inside_message();
    } else if (errno == EAGAIN) {
      pause.inside_message(POLLIN);
    } else if (errno != EINTR) {
      fail("receive over a connection");
    }
  }
}

bool SocketEnd::poll(Timeout timeout) {
  const Use use(*this);
  const auto deadline = timeout.deadline();
  pollfd event{socket_.get(), POLLIN, 0};
  if (::poll(&event, 1, 0) > 0) return true;
  if (Clock::now() >= deadline) return false;
  std::shared_ptr<const CloseBell> bell;
  return Pause(*this, bell).between_messages(POLLIN, deadline);
}

int SocketEnd::fileno() {
  const Use use(*this);
  return socket_.get();
}

void SocketEnd::shut() noexcept {
  // relaxed: a guess, which the exchange corrects
  std::uint64_t known = uses_.load(std::memory_order_relaxed);
  // CLOSE socket: acquire and release, as in Use
  while (!uses_.compare_exchange_weak(known, own_uses(known) | kClosing, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
  }
  if ((own_uses(known) & kUses) == 0) {
    let_go();
  } else {
    CloseBell::ring();
  }
}

std::uint64_t SocketEnd::depart() {
  const Use use(*this);
  return deposit_fd(socket_.get());
}

}  // namespace millrace::runtime
