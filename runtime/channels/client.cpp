// Client, and the two halves of a handshake over any Connection.
#include "runtime/channels/client.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <millrace/errors.hpp>
#include <millrace/listener.hpp>
#include <system_error>

#include "runtime/channels/auth.hpp"
#include "runtime/channels/handshake.hpp"
#include "runtime/channels/patience.hpp"
#include "runtime/channels/socket_end.hpp"
#include "runtime/channels/stream_socket.hpp"
#include "shm/interrupt.hpp"

namespace millrace {
namespace runtime {
namespace {

using connection::Address;

[[maybe_unused]] const bool g_pickled = pickle_connections();

std::string about(const Handshake& handshake, const Address& address) {
  return "Client: the listener at " + address.repr() + ": " + handshake.reason();
}

// Until both have proved their key.
SocketParts authenticate(Descriptor socket, const AuthKey& key, Timeout::Clock::time_point deadline,
                         const Address& address) {
  static thread_local Patience patience(Patience::Awaits::handshake);
  const shm::BlockingCall call;
  Handshake handshake(std::move(socket), AuthExchange::Side::connecting, key, deadline);
  for (;;) {
    pollfd event{handshake.fd(), POLLIN, 0};
    switch (handshake.advance()) {
      case Handshake::State::done:
        return {.socket = handshake.release(),
                .memory = handshake.release_memory(),
                .side = AuthExchange::Side::connecting,
                .known = true};
      case Handshake::State::refused:
        throw AuthenticationError(about(handshake, address));
      case Handshake::State::lost:
        if (handshake.error() == 0) throw EOFError(about(handshake, address));
        throw std::system_error(handshake.error(), std::generic_category(),
                                about(handshake, address));
      case Handshake::State::writing:
        event.events = POLLOUT;
        break;
      case Handshake::State::reading:
        if (patience.wait([&] { return handshake.look(); })) continue;
        break;
    }
    if (call.poll({&event, 1}, handshake.deadline()) == 0) {
      throw TimeoutError("Client: the listener at " + address.repr() +
                         " was silent for the time of .handshake_timeout: does it have an authkey, "
                         "and is anybody in accept()?");
    }
    if (event.events == POLLIN) handshake.look();
  }
}

}  // namespace

SocketParts dial(const Timeout& limit, const Address& address,
                 const connection::ClientOptions& options, void (*look)(int socket)) {
  const Timeout::Clock::time_point end = limit.deadline();
  const std::optional<AuthKey> key = auth_key(options.authkey, options.legacy_md5);
  const Timeout::Clock::time_point room = std::min(end, options.handshake_timeout.deadline());
  Descriptor socket = connect_to(address, options.family, {room, end});
  if (look != nullptr) look(socket.get());
  if (!key) return {.socket = std::move(socket)};
  const Timeout::Clock::time_point known = std::min(end, options.handshake_timeout.deadline());
  return authenticate(std::move(socket), *key, known, address);
}

Connection client_within(const Timeout& limit, const Address& address,
                         const connection::ClientOptions& options) {
  return socket_connection(dial(limit, address, options));
}

}  // namespace runtime

namespace connection {

Connection Client(const Address& address, const ClientOptions& options) {
  return runtime::client_within({}, address, options);
}

void deliver_challenge(const Connection& connection, const Bytes& authkey) {
  const std::optional<runtime::AuthKey> key = runtime::auth_key(authkey, true);
  const std::string challenge = runtime::make_challenge();
  connection.send_bytes(challenge);
  const Bytes response = connection.recv_bytes(runtime::kAuthFrame);
  const std::string refused = runtime::why_refused(challenge, response.view(), *key);
  connection.send_bytes(refused.empty() ? runtime::kWelcome : runtime::kFailure);
  if (!refused.empty()) throw AuthenticationError(refused);
}

void answer_challenge(const Connection& connection, const Bytes& authkey) {
  const std::optional<runtime::AuthKey> key = runtime::auth_key(authkey, true);
  const Bytes challenge = connection.recv_bytes(runtime::kAuthFrame);
  connection.send_bytes(runtime::response_to(challenge.view(), *key));
  runtime::check_verdict(connection.recv_bytes(runtime::kAuthFrame).view());
}

}  // namespace connection
}  // namespace millrace
