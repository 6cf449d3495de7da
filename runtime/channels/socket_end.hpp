// A Connection's end that is a socket, or one of CPython's that is a pipe: CPython's framing,
// CPython's pickles.
//
// A message is a 4-byte big-endian length, or -1 and 8 bytes of length for more than 2 GiB, and so
// many bytes. Nothing is read ahead: what is not taken stays in the socket, so that its descriptor
// is readable exactly while there is something to receive. But where the descriptor is nobody's to
// look at (read_ahead()) a short message is read at once, with its length.
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
// 5. Of a pipe every holder in this program shares a file description of its own, which does not
//    block; CPython's blocks, and both know nothing of each other's flags.
// 6. Another program that is given the end knows nothing of the memory: from then on nothing comes
//    through it (`pieces`).
//
// When a process dies between any two steps: the lock names it, and who takes it over looks at
// `inside` (2). Sent by the dead, half a message reaches the peer as end of file inside a message.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/handle.hpp>
#include <span>
#include <utility>

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
  bool pipe;                // of the kernel's, no socket
  bool known;               // see ConnectionEnd::peer_is_known()
  // Whether messages come in pieces: 0 not yet, then, once and for good, kPieces or kNoPieces.
  std::atomic<std::uint32_t> pieces{0};
  static constexpr std::uint32_t kPieces = 1;
  static constexpr std::uint32_t kNoPieces = 2;
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
  void read_ahead(Timeout limit) override;
  bool something_there(Waits waits) override;
  /// A number of the descriptors on their way: the end is open wherever that is taken.
  std::uint64_t depart() override;
  [[nodiscard]] bool peer_is_known() const noexcept override { return shared().known; }
  int duplicate() override;

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

  /// What was read, but not received yet.
  class Ahead {
   public:
    [[nodiscard]] bool empty() const noexcept { return begin_ == end_; }
    /// Into an empty one. True when something came, be it the end or an error.
    bool read(int socket, int flags) noexcept {
      const ssize_t got = ::recv(socket, bytes_.data(), bytes_.size(), flags);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
      error_ = got < 0 ? errno : 0;
      begin_ = 0;
      end_ = got < 0 ? 0 : static_cast<std::size_t>(got);
      return true;
    }
    /// As recv() that does not wait.
    ssize_t receive(int socket, std::span<std::byte> room) noexcept {
      if (!empty()) return static_cast<ssize_t>(take(room));
      if (error_ == 0) return ::recv(socket, room.data(), room.size(), MSG_DONTWAIT);
      errno = std::exchange(error_, 0);
      return -1;
    }
    /// Moves as much as there is, and is room for; how much.
    std::size_t take(std::span<std::byte> room) noexcept {
      const std::size_t bytes = std::min(room.size(), end_ - begin_);
      if (bytes != 0) std::memcpy(room.data(), bytes_.data() + begin_, bytes);
      begin_ += bytes;
      return bytes;
    }

   private:
    // Most requests and replies. Of a longer message so much is copied twice.
    static constexpr std::size_t kAhead = 2048;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    int error_ = 0;  // comes once: it is behind the bytes, and not told yet
    std::array<std::byte, kAhead> bytes_;
  };

  [[nodiscard]] SocketObject& shared() const noexcept;
  void leave() noexcept;
  void let_go() noexcept;
  [[nodiscard]] bool has_lane() noexcept;
  bool map_receive_lane() noexcept;
  void send_short(Turn& turn, Pause& pause, Content& content);
  void send_pieces(Turn& turn, Pause& pause, Content& content);
  void send_all(Turn& turn, Pause& pause, std::span<iovec> left, bool begun);
  Incoming receive_length(Turn& turn, Pause& pause, std::size_t maxlength);
  void receive_content(Turn& turn, Pause& pause, const Incoming& message, FrameBuffer& frame);
  void receive_pieces(Turn& turn, Pause& pause, std::size_t left, FrameBuffer& frame);
  std::size_t receive_first(Turn& turn, Pause& pause, std::span<std::byte> room);
  void await_message(Pause& pause);
  bool fill(Waits waits) noexcept;
  bool await_peer() noexcept;
  ssize_t receive_some(std::span<std::byte> room) const noexcept;
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
  std::unique_ptr<Ahead> ahead_;  // with read_ahead()
};

/// What a Connection over a socket is made of.
struct SocketParts {
  Descriptor socket;    ///< connected
  Descriptor memory{};  ///< shared with the peer, or none
  AuthExchange::Side side{};
  bool pipe = false;  ///< `socket` is an end of the kernel's pipe that does not block
  bool readable = true;
  bool writable = true;
  bool known = false;  ///< the peer has proved its key; one of this user's is known anyway
};
Connection socket_connection(SocketParts parts);

/// From now on Connections are part of pickles (connection_pickle.cpp). Called where sockets come
/// from, so that programs of Pipes alone are not linked with all that it needs.
bool pickle_connections();

}  // namespace millrace::runtime
