// Connections over sockets: how they are made, and how they come to other processes. Lock and state
// of both directions are in the Connection's object, which all processes share.
#include <fcntl.h>

#include <memory>
#include <millrace/connection.hpp>
#include <millrace/errors.hpp>
#include <new>
#include <utility>

#include "runtime/base/descriptor.hpp"
#include "runtime/base/fd_bag.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/kernel_pipe.hpp"
#include "runtime/channels/socket_calls.hpp"
#include "runtime/channels/socket_end.hpp"
#include "runtime/channels/stream_socket.hpp"

namespace millrace::runtime {

const EndOps& SocketEnd::ops() noexcept {
  static constexpr EndOps kOps{
      [](const ConnectionObject& object, std::uint64_t kept) -> std::unique_ptr<ConnectionEnd> {
        const FdPair fds = fetch_fds(kept);
        return std::make_unique<SocketEnd>(Descriptor(fds.first), Descriptor(fds.second),
                                           shm::ObjectRef(reinterpret_cast<std::uint64_t>(&object),
                                                          shm::object_type<Connection>(), false));
      },
      [](const ConnectionObject&, std::uint64_t kept) {
        const FdPair fds = fetch_fds(kept);
        const Descriptor socket(fds.first);
        const Descriptor memory(fds.second);
        return deposit_fds(fds);
      },
      [](const ConnectionObject&, std::uint64_t kept) noexcept { discard_fd(kept); }};
  return kOps;
}

Connection socket_connection(SocketParts parts) {
  shm::ObjectRef object(
      shm::ObjectRequest{sizeof(SocketObject), shm::object_type<Connection>(), 0, {}, 0});
  auto& made = *::new (object.payload()) SocketObject{};
  made.connection = {0, EndKind::socket, 0, parts.readable, parts.writable};
  made.side = parts.side;
  made.pipe = parts.pipe;
  made.known = parts.known || (!parts.pipe && is_own_users(parts.socket.get()));
  auto end = std::make_unique<SocketEnd>(std::move(parts.socket), std::move(parts.memory), object);
  return make_connection(std::move(end), std::move(object));
}

int SocketEnd::duplicate() {
  const Use use(*this);
  if (ahead_ != nullptr) ConnectionEnd::depart();  // refuses
  std::uint32_t before = 0;
  // relaxed: a decision taken once; what the peer is told of it goes by the lane's own word
  const bool decided =
      memory_.get() < 0 || shared().pieces.compare_exchange_strong(before, SocketObject::kNoPieces,
                                                                   std::memory_order_relaxed);
  if (!decided && before == SocketObject::kPieces) {
    throw TypeError(
        "this connection cannot be sent over a socket any more: messages of 64 KiB and more have "
        "come over it, and since then lie in memory shared with its peer, which another program "
        "does not have. Send it before, or make another with a Listener and a Client");
  }
  if (shared().pipe) return open_pipe(socket_.get(), readable(), true);
  const int copy = ::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0);
  if (copy < 0) socket_calls::fail("duplicate a connection for another program");
  return copy;
}

}  // namespace millrace::runtime
