// A Connection's end that is a socket: CPython's framing, CPython's pickles.
//
// A message is a 4-byte big-endian length, or -1 and 8 bytes of length for more than 2 GiB, and so
// many bytes. Nothing is read ahead: what is not taken stays in the socket, so that its descriptor
// is readable exactly while there is something to receive.
//
// Between two authenticated peers of one host the bytes of a long message go through memory that
// both have mapped (peer_memory.hpp), and only where they are through the socket. The head of such
// a message is in the socket like any other's, so order, readiness, waiting, closing and the peer's
// end are the socket's throughout (socket_calls.hpp has the format).
//
// Invariants
// 1. Of all threads and processes that share the end, one sends and one receives at a time: each
//    direction has a lock in shared memory, held for a whole message.
// 2. `inside` of a direction is set before the first byte of a message moves and cleared after the
//    last one. Who finds it set holds a direction that ends in the middle of a message: it is
//    broken, and every call on it says so.
// 3. The socket stays open until the last call that was under way has left.
// 4. A call is interrupted, by SIGINT, only between messages.
//
// When a process dies between any two steps: the lock names it, and who takes it over looks at
// `inside` (2). Sent by the dead, half a message reaches the peer as end of file inside a message.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/handle.hpp>
#include <span>

#include "runtime/base/descriptor.hpp"
#include "runtime/channels/auth.hpp"
#include "runtime/channels/close_bell.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/patience.hpp"
#include "runtime/channels/peer_memory.hpp"
#include "shm/shared_lock.hpp"

namespace millrace::runtime {

/// One direction of a socket, for all processes that share it. Zero-filled memory is a new one.
struct SocketTurn {
  shm::SharedLock lock;
  std::atomic<std::uint32_t> inside{0};    // by the lock's holder
  std::atomic<std::uint64_t> position{0};  // in the lane; by the lock's holder
};

/// A socket's Connection in shared memory.
struct SocketObject {
  ConnectionObject connection;
  SocketTurn sending;
  SocketTurn receiving;
  AuthExchange::Side side;  // which lane is whose
};

class SocketEnd final : public ConnectionEnd {
 public:
  /// Owns a connected stream socket, and the memory shared with its peer or none. `object`: a
  /// SocketObject.
  SocketEnd(Descriptor socket, Descriptor memory, shm::ObjectRef object) noexcept;
  ~SocketEnd() override { close(); }

  void send(FrameKind kind, std::span<const FramePart> parts) override;
  FrameKind receive(FrameBuffer& frame, std::size_t maxlength) override;
  std::size_t receive_into(std::span<std::byte> room, FrameBuffer& rest) override;
  bool poll(Timeout timeout) override;
  int fileno() override;
  /// A number of the descriptors on their way: the end is open wherever that is taken.
  std::uint64_t depart() override;

  static const EndOps& ops() noexcept;

 protected:
  void shut() noexcept override;

 private:
  class Use;
  class Turn;
  class Pause;
  class Content;
  using Side = AuthExchange::Side;

  /// What the head of a message says.
  struct Incoming {
    std::size_t size;
    bool in_pieces;
  };

  [[nodiscard]] SocketObject& shared() const noexcept;
  void let_go() noexcept;
  [[nodiscard]] bool has_lane() noexcept;
  bool map_receive_lane() noexcept;
  void send_pieces(Turn& turn, Pause& pause, Content& content);
  void send_all(Turn& turn, Pause& pause, std::span<iovec> left, bool begun);
  Incoming receive_length(Turn& turn, Pause& pause, std::size_t maxlength);
  void receive_content(Turn& turn, Pause& pause, const Incoming& message, FrameBuffer& frame);
  void receive_pieces(Turn& turn, Pause& pause, std::size_t left, FrameBuffer& frame);
  bool await_peer() noexcept;
  void receive_all(Turn& turn, Pause& pause, std::span<std::byte> room);
  void receive_all(Turn& turn, Pause& pause, std::size_t left, FrameBuffer& frame);
  std::size_t receive_frame(FrameBuffer& frame, std::span<std::byte> room, std::size_t maxlength);

  Descriptor socket_;
  Descriptor memory_;
  const shm::ObjectRef object_;
  // {pid:32, calls under way:31, closing:1}. Whoever is the last to leave closes the socket. A
  // forked child counts anew.
  std::atomic<std::uint64_t> uses_{0};
  // Kept from one wait to the next, each by who has the turn; both go with the socket.
  std::shared_ptr<const CloseBell> send_bell_;
  std::shared_ptr<const CloseBell> receive_bell_;
  // Each by who has the turn.
  PeerLane send_lane_;
  PeerLane receive_lane_;
  Patience send_patience_;
  Patience receive_patience_;
};

/// What a Connection over a socket is made of.
struct SocketParts {
  Descriptor socket;    ///< connected
  Descriptor memory{};  ///< shared with the peer, or none
  AuthExchange::Side side{};
};
Connection socket_connection(SocketParts parts);

}  // namespace millrace::runtime
