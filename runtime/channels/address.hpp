// Addresses as the system has them: families, names looked up, and back to Python's values.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <millrace/address.hpp>
#include <millrace/object.hpp>
#include <optional>
#include <string>
#include <vector>

namespace millrace::runtime {

/// What bind() and connect() take.
struct SystemAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
  [[nodiscard]] sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }
  [[nodiscard]] int family() const noexcept { return storage.ss_family; }
};

/// AF_INET, AF_INET6 or AF_UNIX: what the user names ("AF_INET"), else what the address is, else
/// AF_UNIX. Throws ValueError for any other name and for an address of another family. Python: L07,
/// L14.
int family_of(const connection::Address& address, const std::optional<std::string>& family);
/// "AF_INET".
const char* family_name(int family) noexcept;

/// What an address means to the system, at least one. Looks host names up: blocks. Throws
/// OverflowError for a port beyond 65535, ValueError for a path that cannot be one, and
/// std::system_error that names the address: ENAMETOOLONG, EADDRNOTAVAIL for an unknown host.
std::vector<SystemAddress> resolve(const connection::Address& address, int family);

/// What the system says as an address, hosts as numbers. Empty for a socket without a name.
connection::Address address_of(const SystemAddress& system);
/// The address that a socket is bound to.
connection::Address bound_address(int socket);

/// Python's value for an address: a tuple, a str, None.
Object address_value(const connection::Address& address);
/// The address that is such a value. Throws TypeError for any other.
connection::Address address_from(const Object& value);

}  // namespace millrace::runtime
