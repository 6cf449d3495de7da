// Two programs that talk: over a millrace Connection with a key, over one without, which stays on
// the socket, or over a bare socket with read and write. The other one answers what it is asked.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/millrace.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/shm/harness.hpp"

namespace bench {

/// A Connection.
class OwnEnd {
 public:
  explicit OwnEnd(millrace::Connection connection) : connection_(std::move(connection)) {}
  void send(const std::vector<char>& bytes) { connection_.send_bytes(bytes); }
  void receive(std::vector<char>& bytes) { connection_.recv_bytes_into(bytes); }

 private:
  millrace::Connection connection_;
};

/// A connected socket; who receives knows the size.
class BareEnd {
 public:
  explicit BareEnd(int socket) : socket_(socket) {}
  void send(const std::vector<char>& bytes) const {
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t some = ::send(socket_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (some <= 0) std::abort();
      done += static_cast<std::size_t>(some);
    }
  }
  void receive(std::vector<char>& bytes) const {
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t some = ::recv(socket_, bytes.data() + done, bytes.size() - done, 0);
      if (some <= 0) std::_Exit(0);
      done += static_cast<std::size_t>(some);
    }
  }

 private:
  int socket_;
};

/// What is asked for: so many messages, each echoed or the last one answered.
struct Ask {
  int count = 0;
  int size = 0;
  bool echo = false;
};

template <class End>
[[noreturn]] void answer(End end) {
  std::vector<char> word(sizeof(Ask));
  const std::vector<char> done(1);
  try {
    for (;;) {
      end.receive(word);
      Ask ask;
      std::memcpy(&ask, word.data(), sizeof ask);
      std::vector<char> bytes(static_cast<std::size_t>(ask.size));
      for (int i = 0; i < ask.count; ++i) {
        end.receive(bytes);
        if (ask.echo) end.send(bytes);
      }
      if (!ask.echo) end.send(done);
    }
  } catch (const millrace::EOFError&) {
    std::_Exit(0);
  }
}

/// Seconds that it takes.
template <class End>
double ask_for(End& end, const Ask& ask) {
  std::vector<char> word(sizeof ask);
  std::memcpy(word.data(), &ask, sizeof ask);
  std::vector<char> bytes(static_cast<std::size_t>(ask.size), 'x');
  std::vector<char> done(1);
  const std::uint64_t start = now_ns();
  end.send(word);
  for (int i = 0; i < ask.count; ++i) {
    end.send(bytes);
    if (ask.echo) end.receive(bytes);
  }
  if (!ask.echo) end.receive(done);
  return static_cast<double>(now_ns() - start) * 1e-9;
}

/// The calling side; the other is a forked process.
inline OwnEnd own_pair(const char* family, const std::optional<millrace::Bytes>& key) {
  const millrace::connection::Listener listener({.family = family, .authkey = key});
  if (::fork() == 0) answer(OwnEnd(listener.accept()));
  return OwnEnd(millrace::connection::Client(listener.address(), {.authkey = key}));
}

inline BareEnd bare_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) std::abort();
  if (::fork() == 0) {
    ::close(ends[0]);
    answer(BareEnd(ends[1]));
  }
  ::close(ends[1]);
  return BareEnd(ends[0]);
}

}  // namespace bench
