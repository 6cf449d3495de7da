// Connections in pickles, and so over sockets: CPython's rebuild_connection(DupFd, readable,
// writable). The descriptor waits with its sender (fd_sharer.hpp) and is fetched as the pickle is
// read, by peers that are known (ConnectionEnd::peer_is_known).
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <millrace/connection.hpp>
#include <millrace/errors.hpp>
#include <string>
#include <utility>

#include "runtime/channels/address.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/fd_message.hpp"
#include "runtime/channels/fd_sharer.hpp"
#include "runtime/channels/kernel_pipe.hpp"
#include "runtime/channels/socket_end.hpp"
#include "runtime/values/object_python.hpp"
#include "runtime/values/pickle_handles.hpp"

namespace millrace::runtime {
namespace {

// For all Connections of a message together.
constexpr std::chrono::seconds kPatience{5};

constexpr std::string_view kModule = "multiprocessing.connection";
constexpr std::string_view kRebuild = "rebuild_connection";
constexpr PythonGlobal kDupFd{"multiprocessing.resource_sharer", "DupFd"};

Object python_of_connection(const Object& handle) {
  const auto connection = handle.as<Connection>();
  ConnectionEnd& end = end_of(connection);
  const SharedFd shared = share_fd(Descriptor(end.duplicate()));
  Dict state;
  state.set("_id", Object(Tuple{address_value(shared.address), shared.key}));
  return made_by_python(kModule, kRebuild,
                        Object(Tuple{built_by_python(kDupFd, Object(std::move(state))),
                                     end.readable(), end.writable()}));
}

int option_of(int socket, int option) noexcept {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(socket, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

SocketParts parts_of(Descriptor fd, bool readable, bool writable) {
  struct stat status {};
  if (::fstat(fd.get(), &status) == 0) {
    if (S_ISSOCK(status.st_mode) && option_of(fd.get(), SO_TYPE) == SOCK_STREAM &&
        option_of(fd.get(), SO_ACCEPTCONN) == 0) {
      return {.socket = std::move(fd), .readable = readable, .writable = writable};
    }
    if (S_ISFIFO(status.st_mode) && readable != writable) {
      return {.socket = Descriptor(open_pipe(fd.get(), readable, false)),
              .pipe = true,
              .readable = readable,
              .writable = writable,
              .known = status.st_uid == ::geteuid()};
    }
  }
  throw UnpicklingError(
      "a Connection that came in a message is neither a connected socket nor one end of a pipe");
}

// rebuild_connection(DupFd, readable, writable)
Object connection_of_python(Object made, HandleArrival& arrival) {
  const auto call = python_call(made);
  if (!call || call->module != kModule || call->arguments->size() != 3) return made;
  const auto parts = to_items(*call->arguments);
  const auto ticket = python_call(parts[0]);
  if (!ticket || ticket->name != kDupFd.name || !ticket->state->is<Dict>() ||
      !parts[1].is<bool>() || !parts[2].is<bool>()) {
    return made;
  }
  const Object id = ticket->state->as<Dict>().get("_id");
  if (!id.is<Tuple>() || id.size() != 2) return made;
  const bool readable = parts[1].as<bool>();
  const bool writable = parts[2].as<bool>();
  if (!readable && !writable) {
    throw UnpicklingError("a Connection that came in a message neither receives nor sends");
  }
  if (!arrival.until) arrival.until = Timeout::Clock::now() + kPatience;
  Descriptor fd = fetch_shared_fd(address_from(id[0]), id[1].as<std::uint64_t>(), *arrival.until);
  return Object(socket_connection(parts_of(std::move(fd), readable, writable)));
}

}  // namespace

bool pickle_connections() {
  static const bool once = [] {
    static HandlePickler pickler{wire::type_key<Connection>(), &python_of_connection};
    static HandleRebuilder rebuilder{kRebuild, &connection_of_python};
    add_handle_pickler(pickler);
    add_handle_rebuilder(rebuilder);
    return true;
  }();
  return once;
}

}  // namespace millrace::runtime
