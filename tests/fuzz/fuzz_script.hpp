// What the fuzzers of sockets share: inputs read as a script, a socket's two ends, frames.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "runtime/base/descriptor.hpp"

namespace millrace::fuzz {

/// Something does not hold: libFuzzer keeps the input and says where.
inline void require(bool holds) {
  if (!holds) std::abort();
}

/// An input, read from its beginning; zeroes when it is used up.
class Script {
 public:
  Script(const std::uint8_t* data, std::size_t size)
      : left_(reinterpret_cast<const char*>(data), size) {}

  [[nodiscard]] bool empty() const noexcept { return left_.empty(); }
  std::uint8_t byte() { return left_.empty() ? std::uint8_t{0} : take_one(); }
  /// At most so many bytes.
  std::string_view bytes(std::size_t most) {
    const std::string_view taken = left_.substr(0, most);
    left_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view rest() { return bytes(left_.size()); }

 private:
  std::uint8_t take_one() {
    const auto first = static_cast<std::uint8_t>(left_.front());
    left_.remove_prefix(1);
    return first;
  }
  std::string_view left_;
};

/// Two ends of a connection of sockets.
struct SocketPair {
  runtime::Descriptor ours;
  runtime::Descriptor theirs;
};
inline SocketPair socket_pair() {
  std::array<int, 2> ends{};
  require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
  return {runtime::Descriptor(ends[0]), runtime::Descriptor(ends[1])};
}

/// Puts bytes into a socket that has room for them; false when the other end is closed.
inline bool feed(const runtime::Descriptor& socket, std::string_view bytes) {
  if (bytes.empty()) return true;
  const ssize_t sent =
      ::send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  require(sent < 0 || sent == static_cast<ssize_t>(bytes.size()));
  return sent >= 0;
}

/// The number that big-endian bytes stand for.
inline std::uint64_t number_of(std::string_view bytes) {
  std::uint64_t number = 0;
  for (const char each : bytes) number = number << 8U | static_cast<std::uint8_t>(each);
  return number;
}

/// A frame as it goes over the wire.
inline std::string framed(std::string_view frame) {
  std::string bytes;
  for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(frame.size() >> shift & 0xffU);
  return bytes.append(frame);
}

}  // namespace millrace::fuzz
