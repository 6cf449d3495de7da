// Calling a listener, by those who have less time than a handshake.
#pragma once

#include <millrace/address.hpp>
#include <millrace/connection.hpp>
#include <millrace/listener.hpp>
#include <millrace/timeout.hpp>

namespace millrace::runtime {

/// connection::Client(), which takes at most `limit` in all: being connected, and being known. Only
/// the look-up of a host's name is not counted. Throws as that does, and TimeoutError.
Connection client_within(const Timeout& limit, const connection::Address& address,
                         const connection::ClientOptions& options);

}  // namespace millrace::runtime
