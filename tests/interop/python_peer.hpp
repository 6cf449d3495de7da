// CPython as the other end: peer.py in a process of its own.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <millrace/connection.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include "tests/api/listener_support.hpp"

namespace millrace::test {

class PythonPeer {
 public:
  PythonPeer(const std::string& mode, const std::string& where, const std::string& key) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe(ends.data()), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], STDOUT_FILENO);
      ::close(ends[0]);
      ::close(ends[1]);
      ::execlp("python3", "python3", MILLRACE_INTEROP_PEER, mode.c_str(), where.c_str(),
               key.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    out_ = ends[0];
  }
  PythonPeer(const PythonPeer&) = delete;
  PythonPeer& operator=(const PythonPeer&) = delete;
  ~PythonPeer() {
    EXPECT_EQ(rest(), "");
    ::close(out_);
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    EXPECT_EQ(status, 0);
  }

  /// The next line that it prints; "" at its end.
  std::string line() {
    std::string text;
    for (char each = 0; ::read(out_, &each, 1) == 1 && each != '\n';) text += each;
    return text;
  }
  /// What it prints until its end.
  std::string rest() {
    std::string text;
    for (char each = 0; ::read(out_, &each, 1) == 1;) text += each;
    return text;
  }
  /// The address that it prints.
  Address address() {
    std::string text = line();
    if (text.front() != '(') return {text.substr(1, text.size() - 2)};
    const std::string host = text.substr(2, text.find('\'', 2) - 2);
    int port = 0;
    const char* const digits = text.data() + text.find(", ") + 2;
    std::from_chars(digits, text.data() + text.size(), port);
    return {host, port};
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
};

/// CPython's version is at least 3.12: it signs with the digest that it is asked for.
inline bool python_knows_sha256() {
  static const bool knows = [] {
    const int status = std::system("python3 -c 'import sys; sys.exit(sys.version_info < (3, 12))'");
    return status == 0;
  }();
  return knows;
}

/// Who listens, at what kind of address, and whether with a key.
struct Meeting {
  bool python_listens;
  const char* family;
  const char* key;

  friend void PrintTo(const Meeting& meeting, std::ostream* out) {
    *out << (meeting.python_listens ? "CPython listens at " : "millrace listens at ")
         << meeting.family << (*meeting.key == '\0' ? "" : " with a key");
  }
};

/// A Connection whose other end is CPython.
class Meet {
 public:
  explicit Meet(const Meeting& how) {
    std::optional<Bytes> key;
    if (*how.key != '\0') key = how.key;
    if (how.python_listens) {
      peer_.emplace("serve", how.family, how.key);
      connection_.emplace(Client(
          peer_->address(), {.family = how.family, .authkey = key, .handshake_timeout = kPatient}));
    } else {
      const Listener listener(
          {.family = how.family, .authkey = key, .handshake_timeout = kPatient});
      peer_.emplace("call", listener.address().repr(), how.key);
      connection_.emplace(listener.accept(seconds(100)));
    }
  }
  Meet(const Meet&) = delete;
  Meet& operator=(const Meet&) = delete;
  ~Meet() {
    try {
      if (!connection_->closed()) connection_->send("stop");
    } catch (const std::system_error&) {
      // it has ended by itself, as it was told
    }
  }

  const Connection& operator*() const { return *connection_; }
  const Connection* operator->() const { return &*connection_; }
  PythonPeer& peer() { return *peer_; }

 private:
  std::optional<PythonPeer> peer_;
  std::optional<Connection> connection_;
};

}  // namespace millrace::test
