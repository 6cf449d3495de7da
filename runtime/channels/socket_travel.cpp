// Connections over sockets: how they are made, and how they come to other processes. Lock and state
// of both directions are in the Connection's object, which all processes share.
#include <memory>
#include <millrace/connection.hpp>
#include <new>
#include <utility>

#include "runtime/base/descriptor.hpp"
#include "runtime/base/fd_bag.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/socket_end.hpp"

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
  made.connection = {0, EndKind::socket, 0, true, true};
  made.side = parts.side;
  auto end = std::make_unique<SocketEnd>(std::move(parts.socket), std::move(parts.memory), object);
  return make_connection(std::move(end), std::move(object));
}

}  // namespace millrace::runtime
