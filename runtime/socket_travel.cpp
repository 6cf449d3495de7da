// Connections over sockets: how they are made. Lock and state of both directions are in the
// Connection's object, which all processes share.
#include <memory>
#include <millrace/connection.hpp>
#include <new>
#include <utility>

#include "runtime/connection_end.hpp"
#include "runtime/descriptor.hpp"
#include "runtime/socket_end.hpp"

namespace millrace::runtime {
Connection socket_connection(Descriptor socket) {
  shm::ObjectRef object(
      shm::ObjectRequest{sizeof(SocketObject), shm::object_type<Connection>(), 0, {}, 0});
  auto& made = *::new (object.payload()) SocketObject{};
  made.connection = {0, EndKind::local, 0, true, true};
  auto end = std::make_unique<SocketEnd>(std::move(socket), object);
  return make_connection(std::move(end), std::move(object));
}

}  // namespace millrace::runtime
