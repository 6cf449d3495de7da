// Connections that come in at a listening socket, and their handshakes: all of them go on side by
// side, driven by whoever is in accept().
//
// One epoll descriptor watches the socket, a wake-up descriptor and every peer that is being
// authenticated. A thread in accept() takes the lock, does everything that can be done without
// blocking, and leaves with a peer that is known; else it sleeps on the epoll descriptor, without
// the lock, until something happens or the next deadline passes.
//
// Invariants
// 1. Nothing blocks inside the lock. Every step of a peer is taken inside it.
// 2. Peers stand in the order of their arrival, hence of their deadlines. There are at most kPeers,
//    and as many as half the descriptors this process may have; when one more arrives, the oldest
//    goes, if it has had kGrace; until then those that arrive stay in the system's own queue.
// 3. Whoever leaves while peers are in the making and others stay wakes them, for they may have
//    gone to sleep before these arrived and know no deadline of theirs.
// 4. A process works with its own epoll descriptor, lock and peers: a forked child begins with none
//    and shares but the listening socket. Closing a peer also shuts it down, for children may hold
//    its descriptor.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <list>
#include <memory>
#include <millrace/address.hpp>
#include <millrace/timeout.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "runtime/base/descriptor.hpp"
#include "runtime/channels/auth.hpp"
#include "runtime/channels/bound_socket.hpp"
#include "runtime/channels/handshake.hpp"

namespace millrace::runtime {

/// A peer that may be talked to.
struct Accepted {
  Descriptor socket;
  connection::Address from{};  ///< empty for AF_UNIX
  Descriptor memory{};         ///< shared with it; none with most
};

/// Any thread may call anything.
class Acceptor {
 public:
  struct Rules {
    std::optional<AuthKey> key{};  ///< none: everybody is let in
    std::chrono::nanoseconds handshake{};
  };

  /// Throws as BoundSocket does.
  Acceptor(const BoundSocket::Request& request, Rules rules);
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;
  ~Acceptor();

  /// The next peer that is known. Blocks. Throws TimeoutError; AuthenticationError for a peer
  /// without the key; std::system_error (EBADF) when it is closed, also meanwhile, and EMFILE when
  /// this process has no descriptor left; KeyboardInterrupt.
  Accepted accept(Timeout timeout);
  /// The same without waiting: none yet. For a thread that sleeps until one of `event` is readable
  /// or until `until`, which is when somebody has to look again. Does not hear of SIGINT.
  struct Alarm {
    int event;
    Timeout::Clock::time_point until;
  };
  std::optional<Accepted> try_accept();
  Alarm alarm();
  /// Peers have to prove a key.
  [[nodiscard]] bool has_key() const noexcept { return rules_.key.has_value(); }
  /// Ends it, for this process. Idempotent.
  void close() noexcept;
  /// In a forked child, in place of close() and the destructor, whatever the parent's threads were
  /// doing: gives back what descriptors it can, and leaves memory.
  void abandon() noexcept;
  [[nodiscard]] const connection::Address& address() const noexcept { return socket_.address(); }
  /// Where the last peer that accept() returned came from; empty before, and for AF_UNIX.
  [[nodiscard]] connection::Address last_accepted();

 private:
  struct Peer {
    Handshake handshake;
    connection::Address from;
    Timeout::Clock::time_point since;
    bool writing = false;  // what its descriptor is watched for
  };
  using Peers = std::list<Peer>;

  /// What one process knows.
  struct Local {
    /// `listening`: -1 when it is closed.
    Local(pid_t owner, int listening);
    /// Wakes whoever sleeps.
    void rouse() const noexcept;

    const pid_t pid;
    Descriptor epoll;
    Descriptor wake;   // an eventfd
    std::mutex mutex;  // guards all that follows
    Peers peers;       // being authenticated
    std::unordered_map<int, Peers::iterator> by_fd;
    std::deque<Accepted> known;
    std::deque<std::string> refused;  // why
    connection::Address last;         // where the last one came from
    int callers = 0;                  // threads in accept()
    bool closed = false;
    bool full = false;  // the listening socket is not watched
  };

  /// A thread that is in accept().
  class Caller {
   public:
    explicit Caller(Local& here);
    Caller(const Caller&) = delete;
    Caller& operator=(const Caller&) = delete;
    ~Caller();

   private:
    Local& here_;
  };

  Local& local();
  static void close_parents(Local& parents) noexcept;
  std::optional<Accepted> look(Local& here);
  void take_arrivals(Local& here);
  bool make_room(Local& here);
  void admit(Local& here, Descriptor socket, connection::Address from);
  void step(Local& here, Peers::iterator peer);
  void expire(Local& here);
  static void drop(Local& here, Peers::iterator peer) noexcept;
  static Timeout::Clock::time_point next_deadline(const Local& here);

  BoundSocket socket_;
  Rules rules_;
  std::size_t most_peers_;
  // Replaced in a forked child, by whichever thread comes first; the parent's is leaked there, for
  // its lock may have been held.
  std::atomic<Local*> local_{nullptr};
};

}  // namespace millrace::runtime
