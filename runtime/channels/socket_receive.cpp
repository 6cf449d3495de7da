// A SocketEnd's receiving.
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <ratio>
#include <string>
#include <system_error>

#include "runtime/channels/socket_calls.hpp"
#include "runtime/channels/stream_socket.hpp"

namespace millrace::runtime {

using namespace socket_calls;

namespace {

// Cleared and received at a time: what is in the cache still is written over, and memory is touched
// as its content comes.
constexpr std::size_t kStep = std::size_t{256} << 10U;

}  // namespace

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
  const Incoming message = receive_length(turn, pause, maxlength);
  if (room.data() != nullptr && message.size <= room.size()) {
    frame.expect_in(room.data());
  } else {
    try {
      frame.expect(message.size);
    } catch (const std::bad_alloc&) {
      refuse_rest();
      throw std::system_error(ENOMEM, std::generic_category(),
                              "a message of " + std::to_string(message.size) + " bytes");
    }
  }
  receive_content(turn, pause, message, frame);
  turn.leave();
  return message.size;
}

void SocketEnd::receive_content(Turn& turn, Pause& pause, const Incoming& message,
                                FrameBuffer& frame) {
  if (message.in_pieces) return receive_pieces(turn, pause, message.size, frame);
  receive_all(turn, pause, message.size, frame);
  // The next one of that size may come through the lane.
  if (message.size < kInPieces || receive_lane_.mapped() || !map_receive_lane()) return;
  std::uint32_t before = 0;
  // relaxed: as in duplicate()
  if (shared().pieces.compare_exchange_strong(before, SocketObject::kPieces,
                                              std::memory_order_relaxed)) {
    receive_lane_.open();
  }
}

ssize_t SocketEnd::receive_some(std::span<std::byte> room) const noexcept {
  return shared().pipe ? ::read(socket_.get(), room.data(), room.size())
                       : ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
}

// The length of the next message, which is under way then.
SocketEnd::Incoming SocketEnd::receive_length(Turn& turn, Pause& pause, std::size_t maxlength) {
  std::array<std::byte, kHeader + 8> header;
  const std::size_t begun = receive_first(turn, pause, std::span(header).first(kHeader));
  receive_all(turn, pause, std::span(header).subspan(begun, kHeader - begun));
  std::uint64_t size = big_endian(std::span(header).first(kHeader));
  const bool in_pieces = size == kMessageInPieces && memory_.get() >= 0;
  if (size == kLongMessage || in_pieces) {
    receive_all(turn, pause, std::span(header).subspan(kHeader));
    size = big_endian(std::span(header).subspan(kHeader));
  } else if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
    size = std::numeric_limits<std::uint64_t>::max();  // a negative length: none
  }
  if (size > maxlength || size > static_cast<std::uint64_t>(PTRDIFF_MAX)) {
    refuse_rest();
    throw_bad_message_length();
  }
  return {static_cast<std::size_t>(size), in_pieces};
}

// The first bytes of a message, which is under way then: at most as many as there is room for.
std::size_t SocketEnd::receive_first(Turn& turn, Pause& pause, std::span<std::byte> room) {
  // What was asked for a moment ago is not there yet: who reads ahead waits first.
  if (ahead_ != nullptr && ahead_->empty()) await_message(pause);
  for (;;) {
    turn.enter();
    const ssize_t got =
        ahead_ != nullptr ? ahead_->receive(socket_.get(), room) : receive_some(room);
    if (got > 0) return static_cast<std::size_t>(got);
    turn.leave();
    if (got == 0 || errno == ECONNRESET) {
      check_open();
      throw_end_of_file();
    }
    if (errno == EAGAIN) {
      await_message(pause);
    } else if (errno != EINTR) {
      fail("receive over a connection");
    }
  }
}

// Asleep in the receiving itself, where that can be: close() ends it, SIGINT could not.
void SocketEnd::await_message(Pause& pause) {
  if (!shared().pipe && await_peer()) {
    if (shm::interrupts_enabled()) shm::BlockingCall().check();
    return;
  }
  if (ahead_ == nullptr || shm::interrupts_enabled()) {
    pause.between_messages(POLLIN, Timeout::Clock::time_point::max());
  } else {
    fill(Waits::yes);
  }
  check_open();
}

// What the peer sends may be here before this thread were asleep and awake again, of whatever
// library it is. One that is slow or far away is soon waited for asleep.
bool SocketEnd::await_peer() noexcept {
  return receive_patience_.wait([this] {
    return ahead_ != nullptr ? fill(Waits::no) : something_came(socket_.get());
  });
}

void SocketEnd::read_ahead(Timeout limit) {
  const Use use(*this);
  if (!limit.infinite()) {
    const auto us = std::max<std::int64_t>(limit.duration().count() / 1000, 1);  // 0: for ever
    const timeval time{us / std::micro::den, us % std::micro::den};
    if (::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) != 0) {
      fail("setsockopt SO_RCVTIMEO");
    }
  }
  ahead_ = std::make_unique<Ahead>();
}

bool SocketEnd::something_there(Waits waits) {
  const Use use(*this);
  return fill(waits);
}

bool SocketEnd::fill(Waits waits) noexcept {
  return !ahead_->empty() || ahead_->read(socket_.get(), waits == Waits::no ? MSG_DONTWAIT : 0);
}

// Inside a message.
void SocketEnd::receive_all(Turn& turn, Pause& pause, std::span<std::byte> room) {
  if (ahead_ != nullptr) room = room.subspan(ahead_->take(room));
  while (!room.empty()) {
    const ssize_t got = receive_some(room);
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

// The next `left` bytes of a frame.
void SocketEnd::receive_all(Turn& turn, Pause& pause, std::size_t left, FrameBuffer& frame) {
  while (left != 0) {
    const std::size_t some = std::min(left, kStep);
    receive_all(turn, pause, {frame.extend(some), some});
    left -= some;
  }
}

// The lane that the peer sends by.
bool SocketEnd::map_receive_lane() noexcept {
  return receive_lane_.map(memory_, shared().side == Side::accepting ? 0 : 1);
}

// Inside a message, the other side is at work on it.
void SocketEnd::receive_pieces(Turn& turn, Pause& pause, std::size_t left, FrameBuffer& frame) {
  if (!map_receive_lane()) {
    const int error = errno;
    refuse_rest();
    throw std::system_error(error, std::generic_category(), "memory shared with the peer");
  }
  std::array<std::byte, kHeader> head;
  while (left != 0) {
    await_peer();
    receive_all(turn, pause, head);
    const auto word = static_cast<std::uint32_t>(big_endian(head));
    const std::size_t bytes = word & ~kInSocket;
    const std::uint64_t position = turn.position();
    const bool in_socket = (word & kInSocket) != 0;
    if (bytes == 0 || bytes > left || (!in_socket && bytes > PeerLane::contiguous(position))) {
      refuse_rest();
      throw_bad_message_length();
    }
    if (in_socket) {
      receive_all(turn, pause, bytes, frame);
    } else {
      // The system calls by which the head came order this behind the peer's copying.
      frame.append({receive_lane_.at(position), bytes});
      turn.move_to(position + bytes);
      receive_lane_.take(position + bytes);
    }
    left -= bytes;
  }
}

}  // namespace millrace::runtime
