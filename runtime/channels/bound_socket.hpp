// A socket that listens, and the name it has in the file system.
//
// A path belongs to the process that bound it: only that process unlinks it, and only while the
// name still means this socket. A forked child's copy leaves it alone.
//
// What happens when a process dies between any two steps: the kernel closes the socket; the file
// of an AF_UNIX socket stays, and the next Listener there is told so (EADDRINUSE). A private path
// is removed later: server_folder.hpp.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <millrace/address.hpp>
#include <optional>
#include <string>

#include "runtime/base/descriptor.hpp"
#include "runtime/process/server_folder.hpp"

namespace millrace::runtime {

/// Bound and listening from the constructor on, non-blocking, until close().
class BoundSocket {
 public:
  struct Request {
    connection::Address address{};        ///< empty: a private one of the family
    std::optional<std::string> family{};  ///< "AF_INET"
    int backlog = 1;                      ///< as listen() takes it
  };

  /// Throws ValueError, OverflowError as family_of() and resolve(), and std::system_error naming
  /// the address: EADDRINUSE, EACCES, EADDRNOTAVAIL, EAFNOSUPPORT. May look a host name up.
  explicit BoundSocket(const Request& request);
  BoundSocket(const BoundSocket&) = delete;
  BoundSocket& operator=(const BoundSocket&) = delete;
  ~BoundSocket() { close(); }

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  [[nodiscard]] int family() const noexcept { return family_; }
  /// With the port and the path that it really has.
  [[nodiscard]] const connection::Address& address() const noexcept { return address_; }
  /// Gives the address back and removes the socket's file. Idempotent.
  void close() noexcept;
  /// The same for a forked child, which may not know yet that it is one: the file stays.
  void abandon() noexcept;

 private:
  void bind(const connection::Address& address);
  void remember_file();
  void remove_file() noexcept;

  int family_;
  Descriptor socket_;
  connection::Address address_;
  std::optional<ServerFolder> folder_;  // of a private path
  std::uint64_t device_ = 0;
  std::uint64_t inode_ = 0;  // of the socket's file; 0: it has none
  pid_t owner_;
};

}  // namespace millrace::runtime
