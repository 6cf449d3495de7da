#include "runtime/channels/handshake.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "runtime/channels/stream_socket.hpp"

namespace millrace::runtime {

Handshake::Handshake(Descriptor socket, AuthExchange::Side side, const AuthKey& key,
                     Timeout::Clock::time_point deadline)
    : socket_(std::move(socket)), exchange_(side, key), side_(side), deadline_(deadline) {
  const std::string first = exchange_.first();
  if (!first.empty()) queue(first);
}

Handshake::State Handshake::advance() {
  // What leads to one answer after the other is answered at once.
  while (!finished_ && !refused_ && !lost_ && receive()) take();
  const bool flushed = lost_ || flush();
  if (refused_) return State::refused;  // whether or not the peer heard why
  if (lost_) return State::lost;
  if (!flushed) return State::writing;
  // The peer is at work on what was sent.
  if (!finished_ && side_ == AuthExchange::Side::connecting && exchange_.marked()) prepare();
  return finished_ ? State::done : State::reading;
}

void Handshake::queue(std::string_view frame) { out_ += framed(frame); }

bool Handshake::flush() {
  while (!out_.empty()) {
    const ssize_t sent =
        ::send(socket_.get(), out_.data(), out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      out_.erase(0, static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      return false;
    } else if (errno != EINTR) {
      lose_by(errno);
      return false;
    }
  }
  return true;
}

// Of the frame whose header has come.
std::size_t Handshake::frame_size() const noexcept {
  return big_endian(std::as_bytes(std::span(in_).first(kHeader)));
}

// How many bytes from the beginning of the frame on certainly are the handshake's.
std::size_t Handshake::sure() const noexcept {
  const auto whole = [this](std::size_t least) {
    return kHeader + (got_ >= kHeader ? frame_size() : least);
  };
  if (offer_is_due_) return whole(1);
  const std::span<const std::size_t> least = exchange_.least();
  std::size_t bytes = whole(least.front());
  for (const std::size_t each : least.subspan(1)) bytes += kHeader + each;
  if (side_ == AuthExchange::Side::accepting && exchange_.marked()) {
    bytes += kHeader + 1;  // an offer
  }
  return bytes;
}

bool Handshake::receive() {
  for (;;) {
    if (got_ >= kHeader) {
      const std::size_t size = frame_size();
      if (size == 0 || size > kAuthFrame) {
        lose(EPROTO, "the peer does not speak this protocol: it began with a frame of " +
                         std::to_string(static_cast<std::int32_t>(size)) + " bytes");
        return false;
      }
      if (got_ >= kHeader + size) return true;
    }
    if (!more_ || !look() || lost_) return false;
  }
}

bool Handshake::look() {
  if (finished_ || refused_ || lost_) return true;  // what comes now is not the handshake's
  const std::size_t wanted = sure() - got_;
  ssize_t got = 0;
  do {
    got = ::recv(socket_.get(), in_.data() + got_, wanted, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  // Behind less than was asked for there is nothing: asking again would but cost a system call.
  more_ = got == static_cast<ssize_t>(wanted);
  if (got > 0) {
    got_ += static_cast<std::size_t>(got);
  } else if (got == 0) {
    lose_by(EPIPE);
  } else if (errno == EAGAIN) {
    return false;
  } else {
    lose_by(errno);
  }
  return true;
}

void Handshake::take() {
  const std::size_t size = kHeader + frame_size();
  const std::string text(reinterpret_cast<const char*>(in_.data()) + kHeader, size - kHeader);
  std::copy(in_.begin() + static_cast<std::ptrdiff_t>(size),
            in_.begin() + static_cast<std::ptrdiff_t>(got_), in_.begin());
  got_ -= size;
  const std::string_view frame = text;
  if (offer_is_due_) {
    memory_ = accept_memory(frame);
    finished_ = true;
    return;
  }
  AuthExchange::Step step = exchange_.take(frame);
  for (const std::string& each : step.frames) {
    if (!each.empty()) queue(each);
  }
  finished_ = step.done;
  refused_ = !step.failure.empty();
  reason_ = std::move(step.failure);
  if (finished_ && exchange_.marked()) share();
}

// The peer has the key, and is of this library.
void Handshake::share() {
  if (side_ == AuthExchange::Side::accepting) {
    offer_is_due_ = true;
    finished_ = false;
    return;
  }
  prepare();
  memory_ = std::move(offered_.memory);
  queue(offered_.frame);
}

void Handshake::prepare() {
  if (offered_.frame.empty()) offered_ = offer_memory();
}

// A peer that has closed the connection may not have read all that it was sent: a reset.
void Handshake::lose_by(int error) {
  if (error == EPIPE || error == ECONNRESET) {
    lose(0, "the peer has closed the connection");
  } else {
    lose(error, "the peer has broken the connection off");
  }
}

void Handshake::lose(int error, std::string why) {
  lost_ = true;
  error_ = error;
  reason_ = std::move(why);
}

}  // namespace millrace::runtime
