#include "runtime/channels/address.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <millrace/errors.hpp>
#include <ostream>
#include <string_view>
#include <system_error>

namespace millrace::runtime {

using connection::Address;

struct AddressAccess {
  using Kind = Address::Kind;

  static Kind kind(const Address& address) noexcept { return address.kind_; }
  static std::uint32_t flow(const Address& address) noexcept { return address.flow_; }
  static std::uint32_t scope(const Address& address) noexcept { return address.scope_; }
  static Address host6(const std::string& host, int port, std::uint32_t flow, std::uint32_t scope) {
    Address address(host, port);
    address.flow_ = flow;
    address.scope_ = scope;
    address.kind_ = Kind::host6;
    return address;
  }
};

namespace {

constexpr std::size_t kPathBytes = sizeof(sockaddr_un{}.sun_path);
constexpr int kMaxPort = 65535;

bool is_host(const Address& address) {
  const auto kind = AddressAccess::kind(address);
  return kind == AddressAccess::Kind::host || kind == AddressAccess::Kind::host6;
}

// What an address is by itself.
int natural_family(const Address& address) {
  if (!is_host(address)) return AF_UNIX;
  const bool numeric6 = address.host().find(':') != std::string::npos;
  const bool known6 = AddressAccess::kind(address) == AddressAccess::Kind::host6;
  return known6 || numeric6 ? AF_INET6 : AF_INET;
}

SystemAddress unix_address(const Address& address) {
  const std::string& path = address.path();
  const bool abstract = !path.empty() && path.front() == '\0';
  if (path.empty()) throw ValueError("AF_UNIX: the path of a socket is empty");
  if (!abstract && path.find('\0') != std::string::npos) {
    throw ValueError("AF_UNIX: the path " + address.repr() + " has a NUL inside");
  }
  // A path is followed by a NUL, an abstract name is not.
  const std::size_t most = abstract ? kPathBytes : kPathBytes - 1;
  if (path.size() > most) {
    throw std::system_error(ENAMETOOLONG, std::generic_category(),
                            "AF_UNIX: the path " + address.repr() + " has " +
                                std::to_string(path.size()) + " bytes, sockets take at most " +
                                std::to_string(most) + "; choose a shorter one");
  }
  sockaddr_un raw{};
  raw.sun_family = AF_UNIX;
  std::memcpy(raw.sun_path, path.data(), path.size());
  SystemAddress system;
  std::memcpy(&system.storage, &raw, sizeof raw);
  system.size =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
  return system;
}

[[noreturn]] void fail_lookup(const Address& address, int family, int error) {
  const int code = error == EAI_SYSTEM   ? errno
                   : error == EAI_AGAIN  ? EAGAIN
                   : error == EAI_MEMORY ? ENOMEM
                                         : EADDRNOTAVAIL;
  throw std::system_error(code, std::generic_category(),
                          std::string("looking up the host of ") + address.repr() + " for " +
                              family_name(family) + ": " + ::gai_strerror(error));
}

std::vector<SystemAddress> look_up(const Address& address, int family) {
  addrinfo wanted{};
  wanted.ai_family = family;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_NUMERICSERV | (address.host().empty() ? AI_PASSIVE : 0);
  const std::string port = std::to_string(address.port());
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.host().empty() ? nullptr : address.host().c_str(),
                                  port.c_str(), &wanted, &found);
  if (error != 0) fail_lookup(address, family, error);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, &::freeaddrinfo);
  std::vector<SystemAddress> all;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    SystemAddress& system = all.emplace_back();
    system.size = std::min<socklen_t>(each->ai_addrlen, sizeof system.storage);
    std::memcpy(&system.storage, each->ai_addr, system.size);
    if (family != AF_INET6) continue;
    auto* const raw = reinterpret_cast<sockaddr_in6*>(&system.storage);
    raw->sin6_flowinfo = htonl(AddressAccess::flow(address));
    if (AddressAccess::scope(address) != 0) raw->sin6_scope_id = AddressAccess::scope(address);
  }
  return all;
}

Address inet_address(const SystemAddress& system) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (system.family() == AF_INET) {
    sockaddr_in raw{};
    std::memcpy(&raw, &system.storage, sizeof raw);
    ::inet_ntop(AF_INET, &raw.sin_addr, text.data(), text.size());
    return {std::string(text.data()), ntohs(raw.sin_port)};
  }
  sockaddr_in6 raw{};
  std::memcpy(&raw, &system.storage, sizeof raw);
  ::inet_ntop(AF_INET6, &raw.sin6_addr, text.data(), text.size());
  return AddressAccess::host6(text.data(), ntohs(raw.sin6_port), ntohl(raw.sin6_flowinfo),
                              raw.sin6_scope_id);
}

bool abstract(const Address& address) {
  return !address.path().empty() && address.path().front() == '\0';
}

}  // namespace

const char* family_name(int family) noexcept {
  return family == AF_INET ? "AF_INET" : family == AF_INET6 ? "AF_INET6" : "AF_UNIX";
}

int family_of(const Address& address, const std::optional<std::string>& family) {
  if (is_host(address) == false && address.path().starts_with("\\\\")) {
    throw ValueError("the address " + address.repr() +
                     " is a pipe of Windows, AF_PIPE: there are "
                     "AF_INET, AF_INET6 and AF_UNIX");
  }
  if (!family) return natural_family(address);
  for (const int known : {AF_INET, AF_INET6, AF_UNIX}) {
    if (*family != family_name(known)) continue;
    if (!address.empty() && is_host(address) != (known != AF_UNIX)) {
      throw ValueError("the address " + address.repr() + " is none of " + *family +
                       (known == AF_UNIX ? ": a path is wanted" : ": host and port are wanted"));
    }
    return known;
  }
  throw ValueError("family '" + *family +
                   "' is not known: there are AF_INET, AF_INET6 and AF_UNIX");
}

std::vector<SystemAddress> resolve(const Address& address, int family) {
  if (family == AF_UNIX) return {unix_address(address)};
  if (address.port() < 0 || address.port() > kMaxPort) {
    throw OverflowError("the port of an address is 0 to 65535, that of " + address.repr() +
                        " is not");
  }
  if (address.host().find('\0') != std::string::npos) {
    throw ValueError("the host of " + address.repr() + " has a NUL inside");
  }
  return look_up(address, family);
}

Address address_of(const SystemAddress& system) {
  if (system.family() != AF_UNIX) return inet_address(system);
  sockaddr_un raw{};
  std::memcpy(&raw, &system.storage, std::min<std::size_t>(system.size, sizeof raw));
  constexpr std::size_t kHead = offsetof(sockaddr_un, sun_path);
  if (system.size <= kHead) return {};
  const std::size_t bytes = std::min<std::size_t>(system.size - kHead, kPathBytes);
  const std::string_view path(raw.sun_path, bytes);
  if (path.front() == '\0') return {std::string(path)};
  return {std::string(path.substr(0, path.find('\0')))};
}

Address bound_address(int socket) {
  SystemAddress system;
  system.size = sizeof system.storage;
  if (::getsockname(socket, system.get(), &system.size) != 0) {
    throw std::system_error(errno, std::generic_category(), "getsockname");
  }
  return address_of(system);
}

Object address_value(const Address& address) {
  if (address.empty()) return None;
  if (!is_host(address)) return abstract(address) ? Object(Bytes(address.path())) : address.path();
  if (AddressAccess::kind(address) == AddressAccess::Kind::host) {
    return Tuple{address.host(), address.port()};
  }
  return Tuple{address.host(), address.port(), AddressAccess::flow(address),
               AddressAccess::scope(address)};
}

Address address_from(const Object& value) {
  if (value.is_none()) return {};
  if (value.is<std::string>()) return {value.as<std::string>()};
  if (value.is<Bytes>()) return {std::string(value.as<Bytes>().view())};
  const bool tuple = value.is<Tuple>() && (value.size() == 2 || value.size() == 4);
  if (tuple && value[0].is<std::string>() && value[1].is<int>()) {
    if (value.size() == 2) return {value[0].as<std::string>(), value[1].as<int>()};
    if (value[2].is<std::uint32_t>() && value[3].is<std::uint32_t>()) {
      return AddressAccess::host6(value[0].as<std::string>(), value[1].as<int>(),
                                  value[2].as<std::uint32_t>(), value[3].as<std::uint32_t>());
    }
  }
  throw TypeError("no address of a socket: " + value.repr());
}

}  // namespace millrace::runtime

namespace millrace::connection {

std::string Address::repr() const { return runtime::address_value(*this).repr(); }

std::ostream& operator<<(std::ostream& out, const Address& address) {
  return out << runtime::address_value(address);
}

}  // namespace millrace::connection
