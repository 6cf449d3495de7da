// A Connection's end that is a socket: CPython's framing, CPython's pickles.
//
// A message is a 4-byte big-endian length, or -1 and 8 bytes of length for more than 2 GiB, and so
// many bytes. Nothing is read ahead: what is not taken stays in the socket, so that its descriptor
// is readable exactly while there is something to receive.
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

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/handle.hpp>
#include <span>

#include "runtime/base/descriptor.hpp"
#include "runtime/channels/close_bell.hpp"
#include "runtime/channels/connection_end.hpp"
#include "shm/shared_lock.hpp"

namespace millrace::runtime {

/// One direction of a socket, for all processes that share it. Zero-filled memory is a new one.
struct SocketTurn {
  shm::SharedLock lock;
  std::atomic<std::uint32_t> inside{0};  // by the lock's holder
};

/// A socket's Connection in shared memory.
struct SocketObject {
  ConnectionObject connection;
  SocketTurn sending;
  SocketTurn receiving;
};

class SocketEnd final : public ConnectionEnd {
 public:
  /// Owns a connected stream socket. `object`: a SocketObject.
  SocketEnd(Descriptor socket, shm::ObjectRef object) noexcept;
  ~SocketEnd() override { close(); }

  [[nodiscard]] bool python_wire() const noexcept override { return true; }
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

  [[nodiscard]] SocketObject& shared() const noexcept;
  void let_go() noexcept;
  std::size_t receive_length(Turn& turn, Pause& pause, std::size_t maxlength);
  void receive_all(Turn& turn, Pause& pause, std::span<std::byte> room);
  std::size_t receive_frame(FrameBuffer& frame, std::span<std::byte> room, std::size_t maxlength);

  Descriptor socket_;
  const shm::ObjectRef object_;
  // {pid:32, calls under way:31, closing:1}. Whoever is the last to leave closes the socket. A
  // forked child counts anew.
  std::atomic<std::uint64_t> uses_{0};
  // Kept from one wait to the next, each by who has the turn; both go with the socket.
  std::shared_ptr<const CloseBell> send_bell_;
  std::shared_ptr<const CloseBell> receive_bell_;
};

/// The Connection over a connected socket.
Connection socket_connection(Descriptor socket);

}  // namespace millrace::runtime
