// A SocketEnd's sending.
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <limits>
#include <system_error>
#include <vector>

#include "runtime/channels/kernel_pipe.hpp"
#include "runtime/channels/socket_calls.hpp"

namespace millrace::runtime {

using namespace socket_calls;

namespace {

constexpr std::uint64_t kLongest = std::numeric_limits<std::int32_t>::max();  // of a short header
// So much is copied behind its length, which costs less than to name the kernel two places.
constexpr std::size_t kTogether = 1024;

// What is put in front of bytes.
class Head {
 public:
  void put(std::uint64_t value, std::size_t bytes) noexcept {
    for (std::size_t i = bytes; i > 0; --i) {
      bytes_[size_++] = static_cast<std::byte>(value >> 8 * (i - 1));
    }
  }
  void clear() noexcept { size_ = 0; }
  [[nodiscard]] iovec all() noexcept { return {bytes_.data(), size_}; }

 private:
  std::array<std::byte, 16> bytes_;
  std::size_t size_ = 0;
};

bool is_gone(int error) noexcept { return error == EPIPE || error == ECONNRESET; }

ssize_t send_some(int socket, std::span<iovec> parts) noexcept {
  constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
  if (parts.size() == 1) return ::send(socket, parts[0].iov_base, parts[0].iov_len, kFlags);
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
  return ::sendmsg(socket, &message, kFlags);
}

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

std::uint64_t size_of(std::span<const FramePart> parts) noexcept {
  std::uint64_t size = 0;
  for (const FramePart& part : parts) size += part.size();
  return size;
}

}  // namespace

// What of a message is still to be sent.
class SocketEnd::Content {
 public:
  explicit Content(std::span<const FramePart> parts) noexcept
      : parts_(parts), left_(size_of(parts)) {}

  [[nodiscard]] std::uint64_t left() const noexcept { return left_; }
  /// Adds the next `bytes` to `all`.
  void refer(std::size_t bytes, std::vector<iovec>& all) {
    step(bytes, [&](FramePart part) {
      all.push_back({const_cast<std::byte*>(part.data()), part.size()});
    });
  }
  /// Copies the next `bytes`.
  void copy(std::size_t bytes, std::byte* to) noexcept {
    step(bytes, [&](FramePart part) {
      std::memcpy(to, part.data(), part.size());
      to += part.size();
    });
  }

 private:
  template <class Take>
  void step(std::size_t bytes, Take&& take) {
    left_ -= bytes;
    while (bytes != 0) {
      const FramePart rest = parts_.front().subspan(skipped_);
      const std::size_t some = std::min(bytes, rest.size());
      if (some != 0) take(rest.first(some));
      bytes -= some;
      skipped_ += some;
      if (some != rest.size()) return;
      parts_ = parts_.subspan(1);
      skipped_ = 0;
    }
  }

  std::span<const FramePart> parts_;
  std::size_t skipped_ = 0;  // of the first one
  std::uint64_t left_;
};

void SocketEnd::send(FrameKind, std::span<const FramePart> parts) {
  const Use use(*this);
  Content content(parts);
  Turn turn(shared().sending, *this);
  Pause pause(*this, send_bell_);
  if (content.left() <= kTogether) {
    send_short(turn, pause, content);
  } else if (content.left() >= kInPieces && has_lane()) {
    send_pieces(turn, pause, content);
  } else {
    Head head;
    const std::uint64_t size = content.left();
    head.put(size > kLongest ? kLongMessage : size, kHeader);
    if (size > kLongest) head.put(size, 8);
    std::vector<iovec> all(1, head.all());
    content.refer(size, all);
    turn.enter();
    send_all(turn, pause, all, false);
  }
  turn.leave();
}

void SocketEnd::send_short(Turn& turn, Pause& pause, Content& content) {
  std::array<std::byte, kHeader + kTogether> message;
  const std::size_t size = content.left();
  Head head;
  head.put(size, kHeader);
  std::memcpy(message.data(), head.all().iov_base, kHeader);
  content.copy(size, message.data() + kHeader);
  iovec all{message.data(), kHeader + size};
  turn.enter();
  send_all(turn, pause, {&all, 1}, false);
}

// The peer reads in the lane. With the turn.
bool SocketEnd::has_lane() noexcept {
  return send_lane_.map(memory_, shared().side == Side::connecting ? 0 : 1) && send_lane_.is_open();
}

void SocketEnd::send_pieces(Turn& turn, Pause& pause, Content& content) {
  Head head;
  head.put(kMessageInPieces, kHeader);
  head.put(content.left(), 8);
  std::vector<iovec> all;
  for (bool begun = false; content.left() != 0; begun = true) {
    const std::uint64_t position = turn.position();
    const std::size_t bytes =
        std::min({std::size_t{content.left()}, kPiece, PeerLane::contiguous(position)});
    const auto has_room = [&] { return send_lane_.room(position) >= bytes; };
    const bool in_lane = has_room() || send_patience_.wait(has_room);
    head.put(in_lane ? bytes : bytes | kInSocket, kHeader);
    all.assign(1, head.all());
    if (in_lane) {
      content.copy(bytes, send_lane_.at(position));
    } else {  // a peer that reads slowly is waited for where its end is seen, too
      content.refer(bytes, all);
    }
    turn.enter();
    // The system call orders it behind the copying.
    send_all(turn, pause, all, begun);
    if (in_lane) turn.move_to(position + bytes);
    head.clear();
  }
}

void SocketEnd::send_all(Turn& turn, Pause& pause, std::span<iovec> left, bool begun) {
  while (!left.empty()) {
    const ssize_t sent =
        shared().pipe ? write_quietly(socket_.get(), left) : send_some(socket_.get(), left);
    if (sent >= 0) {
      begun = true;
      advance(left, static_cast<std::size_t>(sent));
      if (!left.empty() && sent != 0) pause.inside_message(POLLOUT);  // full, else it took all
    } else if (is_gone(errno)) {
      turn.leave();  // whoever sends next is told the same
      throw_broken_pipe();
    } else if (errno == EAGAIN && begun) {
      pause.inside_message(POLLOUT);
    } else if (errno == EAGAIN) {
      turn.leave();
      pause.between_messages(POLLOUT, Timeout::Clock::time_point::max());
      turn.enter();
    } else if (errno != EINTR) {
      fail("send over a connection");
    }
  }
}

}  // namespace millrace::runtime
