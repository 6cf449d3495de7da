// Calling a listener, by those who have less time than a handshake.
#pragma once

#include <millrace/address.hpp>
#include <millrace/connection.hpp>
#include <millrace/listener.hpp>
#include <millrace/timeout.hpp>

#include "runtime/channels/socket_end.hpp"

namespace millrace::runtime {

/// connection::Client(), which takes at most `limit` in all: being connected, and being known. Only
/// the look-up of a host's name is not counted. Throws as that does, and TimeoutError.
Connection client_within(const Timeout& limit, const connection::Address& address,
                         const connection::ClientOptions& options);
/// The same, up to the Connection. `look`, if there is one, sees the socket before anything is said
/// over it, and may throw.
SocketParts dial(const Timeout& limit, const connection::Address& address,
                 const connection::ClientOptions& options, void (*look)(int socket) = nullptr);

}  // namespace millrace::runtime
