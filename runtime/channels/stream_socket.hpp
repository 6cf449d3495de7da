// Sockets of connections: calling a listener, options, whom they lead to.
#pragma once

#include <millrace/address.hpp>
#include <millrace/timeout.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/descriptor.hpp"

namespace millrace::runtime {

/// Until when connect_to() waits.
struct ConnectDeadlines {
  /// For room in the full queue of an AF_UNIX listener, for which the kernel itself has no limit.
  Timeout::Clock::time_point room = Timeout::Clock::time_point::max();
  /// For a host that does not answer; the kernel gives up after minutes.
  Timeout::Clock::time_point host = Timeout::Clock::time_point::max();
};

/// A socket that is connected to the listener at `address`; a host's addresses are tried in turn.
/// Blocks until then, a deadline, or as long as the kernel tries. Throws ValueError, OverflowError
/// as family_of() and resolve(), std::system_error naming the address (ECONNREFUSED, ENOENT,
/// ETIMEDOUT, EACCES), TimeoutError naming it at a deadline, KeyboardInterrupt.
Descriptor connect_to(const connection::Address& address, const std::optional<std::string>& family,
                      const ConnectDeadlines& until);

/// Of AF_INET and AF_INET6, for AF_UNIX does so anyway: small messages go at once instead of
/// waiting for others to go with. No error: it is a matter of speed.
void send_at_once(int socket) noexcept;

/// The process at the other end is one of this user's, by what the kernel knows: false for all but
/// AF_UNIX.
bool is_own_users(int socket) noexcept;

/// A length in a frame's header.
std::uint64_t big_endian(std::span<const std::byte> bytes) noexcept;
/// A frame that is short: its length and its bytes.
std::string framed(std::string_view bytes);

/// "peer ('127.0.0.1', 4711)" or "peer process 4711".
std::string peer_name(int socket);

}  // namespace millrace::runtime
