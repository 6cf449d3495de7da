// What the tests of Listener and Client share.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <millrace/connection.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "tests/api/process_support.hpp"

namespace millrace::test {

using connection::Address;
using connection::Client;
using connection::Listener;

using std::chrono::milliseconds;
using std::chrono::seconds;

/// For a handshake on a machine that is as slow as it likes.
inline constexpr auto kPatient = std::chrono::hours(1);

inline bool exists_path(const std::string& path) {
  struct stat file {};
  return ::lstat(path.c_str(), &file) == 0;
}

/// Whether this machine can bind an address of AF_INET6.
inline bool has_inet6() {
  const int fd = ::socket(AF_INET6, SOCK_STREAM, 0);
  if (fd < 0) return false;
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_addr = in6addr_loopback;
  const bool bound = ::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0;
  ::close(fd);
  return bound;
}

/// A folder that goes with everything in it that a test removes itself.
class Folder {
 public:
  Folder() {
    path_ = "/tmp/millrace-test-XXXXXX";
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { EXPECT_EQ(::rmdir(path_.c_str()), 0) << path_ << ": " << std::strerror(errno); }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// A port of 127.0.0.1 that nobody listens at.
class BoundPort {
 public:
  BoundPort() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address_;
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address_), size), 0);
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address_), &size), 0);
  }
  BoundPort(const BoundPort&) = delete;
  BoundPort& operator=(const BoundPort&) = delete;
  ~BoundPort() { ::close(fd_); }
  [[nodiscard]] int number() const noexcept { return ntohs(address_.sin_port); }
  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  int fd_;
  sockaddr_in address_{};
};

/// A peer that speaks bytes, to be rude with. Closed at its end.
class RawPeer {
 public:
  explicit RawPeer(int fd) : fd_(fd) {}
  /// Calls a Listener of AF_UNIX or on 127.0.0.1.
  explicit RawPeer(const Address& address) {
    if (address.path().empty()) {
      fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(static_cast<std::uint16_t>(address.port()));
      to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
      return;
    }
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    address.path().copy(to.sun_path, sizeof to.sun_path - 1);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  RawPeer(RawPeer&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  RawPeer& operator=(RawPeer&&) = delete;
  ~RawPeer() { close(); }

  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) return;  // the other end may hang up at any time
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  void send_frame(std::string_view frame) const {
    send(header(frame.size()));
    send(frame);
  }
  static std::string header(std::uint64_t size) {
    std::string bytes;
    for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(size >> shift & 0xffU);
    return bytes;
  }
  /// So many bytes, fewer at the end.
  [[nodiscard]] std::string read(std::size_t size) const {
    std::string bytes(size, '\0');
    std::size_t got = 0;
    while (got < size) {
      const ssize_t more = ::recv(fd_, bytes.data() + got, size - got, 0);
      if (more <= 0) break;
      got += static_cast<std::size_t>(more);
    }
    bytes.resize(got);
    return bytes;
  }
  /// One frame; "" at the end.
  [[nodiscard]] std::string read_frame() const {
    const std::string head = read(4);
    std::size_t size = 0;
    for (const char each : head) size = size << 8U | static_cast<unsigned char>(each);
    return head.size() < 4 ? "" : read(size);
  }
  /// Blocks until the other end has hung up; what came before is dropped.
  void wait_for_end() const {
    std::array<char, 256> bytes{};
    while (::recv(fd_, bytes.data(), bytes.size(), 0) > 0) {
    }
  }

 private:
  int fd_ = -1;
};

/// A Client in a thread of its own.
inline std::future<Connection> call(const Address& address,
                                    const connection::ClientOptions& options = {}) {
  return std::async(std::launch::async, [=] { return Client(address, options); });
}

/// The error of a call; 0 when it throws none.
template <class Call>
int errno_of(Call&& call) {
  try {
    call();
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  return 0;
}

class ListenerTest : public ProcessTest {};

}  // namespace millrace::test
