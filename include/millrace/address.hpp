// mp::connection::Address: where a Listener listens and a Client calls. Python: a tuple of host and
// port, or a path.
#pragma once

#include <concepts>
#include <cstdint>
#include <iosfwd>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace millrace::runtime {
struct AddressAccess;  // the implementation's way in
}  // namespace millrace::runtime

namespace millrace::connection {

/// `{"localhost", 6000}` is a host and a port (AF_INET; AF_INET6 where the family or a numeric host
/// says so), text is the path of a socket (AF_UNIX; one that begins with a NUL is an abstract
/// name). A value. Python: the `address` of Listener and Client, L11-L14.
class Address {
 public:
  /// No address: a Listener takes a private AF_UNIX one then.
  Address() = default;
  Address(std::string path)  // NOLINT(google-explicit-constructor): call form
      : path_(std::move(path)), kind_(Kind::path) {}
  Address(const char* path)  // NOLINT(google-explicit-constructor): call form
      : Address(std::string(path)) {}
  Address(std::string_view path)  // NOLINT(google-explicit-constructor): call form
      : Address(std::string(path)) {}
  /// A port outside 0 to 65535 is refused where the address is used: OverflowError.
  template <std::integral P>
  Address(std::string host, P port)
      : host_(std::move(host)),
        port_(std::in_range<int>(port) ? static_cast<int>(port) : std::numeric_limits<int>::max()),
        kind_(Kind::host) {}

  /// The host's name or number; "" for a path.
  [[nodiscard]] const std::string& host() const noexcept { return host_; }
  /// The port; 0 for a path. Of `Listener::address()` the real one.
  [[nodiscard]] int port() const noexcept { return port_; }
  /// The path; "" for a host.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// True when there is no address.
  [[nodiscard]] bool empty() const noexcept { return kind_ == Kind::none; }

  /// Python's text: "('localhost', 6000)", "('::1', 6000, 0, 0)", "'/tmp/s'", "None".
  [[nodiscard]] std::string repr() const;
  /// Python's print(): repr(), but a path as it is.
  friend std::ostream& operator<<(std::ostream& out, const Address& address);
  friend bool operator==(const Address&, const Address&) = default;

  /// Addresses travel: they may be arguments of a Process.
  template <class Archive>
  void serialize(Archive& archive) {
    archive(host_, path_, port_, flow_, scope_, kind_);
  }

 private:
  friend struct runtime::AddressAccess;
  // `host6`: an address of AF_INET6 that the system has given
  enum class Kind : std::uint8_t { none, host, host6, path };

  std::string host_;
  std::string path_;
  int port_ = 0;
  std::uint32_t flow_ = 0;
  std::uint32_t scope_ = 0;
  Kind kind_ = Kind::none;
};

}  // namespace millrace::connection
