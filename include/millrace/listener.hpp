// mp::connection::Listener and Client: Connections between programs, over sockets, with CPython's
// too. Python: multiprocessing.connection.
//
// What happens when a process dies between any two steps: the kernel closes its sockets, which the
// other ends see as end of file. The file of a killed Listener's AF_UNIX socket stays.
#pragma once

#include <memory>
#include <millrace/address.hpp>
#include <millrace/bytes.hpp>
#include <millrace/connection.hpp>
#include <millrace/light_std.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>

namespace millrace {

namespace runtime {
class Acceptor;
}  // namespace runtime

namespace connection {

/// Keyword arguments of Listener.
struct ListenerOptions {
  Address address{};                    ///< none: a private one of the family
  std::optional<std::string> family{};  ///< "AF_INET", "AF_INET6", "AF_UNIX"; none: the address's
  int backlog = 1;                      ///< how many may wait for accept() in the system's queue
  std::optional<Bytes> authkey{};       ///< none: everybody is let in
  bool legacy_md5 = true;               ///< false: HMAC-MD5, of CPython before 3.12, proves nothing
  Timeout handshake_timeout = std::chrono::seconds(5);  ///< for a peer to prove its key
};

/// Keyword arguments of Client.
struct ClientOptions {
  std::optional<std::string> family{};  ///< none: the address's
  std::optional<Bytes> authkey{};       ///< none: no challenge is expected
  bool legacy_md5 = true;               ///< false: HMAC-MD5 is neither accepted nor given
  Timeout handshake_timeout = std::chrono::seconds(5);  ///< for room (AF_UNIX), then to be known
};

/// Waits for Clients. Move-only; its destructor is close(). Any thread may call anything, and
/// several may wait in accept(). A forked child may accept() too, from the same queue of arrivals;
/// the path of the socket remains its maker's. Python: multiprocessing.connection.Listener,
/// L01-L06.
class Listener {
 public:
  /// Listens from now on. Throws ValueError for an unknown family, an address of another one and
  /// an empty key; OverflowError for a port beyond 65535; std::system_error naming the address:
  /// EADDRINUSE, EACCES, ENAMETOOLONG, EADDRNOTAVAIL. May look a host name up. Python: L01.
  explicit Listener(const ListenerOptions& options = {});
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&& other) noexcept;
  ~Listener();

  /// The Connection to the next Client. Handshakes go on side by side while anybody is in here; a
  /// peer that is silent for longer than `.handshake_timeout`, or sends what is no handshake, is
  /// dropped. Blocks. Throws TimeoutError; AuthenticationError for one peer that proved another
  /// key: the Listener goes on; std::system_error: EBADF "listener is closed", also when another
  /// thread closes it meanwhile, EMFILE. Python: L02, without timeout there.
  Connection accept(Timeout timeout = {}) const;
  /// Gives the address back and unlinks the path of its socket; Connections stay. Idempotent.
  /// Python: L03.
  void close() const noexcept;
  /// Where it listens: the real port, the real path. Python: L04.
  [[nodiscard]] const Address& address() const noexcept;
  /// Where the last accepted Client called from; none before, and for AF_UNIX. Python: L05.
  [[nodiscard]] std::optional<Address> last_accepted() const;

 private:
  std::unique_ptr<runtime::Acceptor> acceptor_;
};

/// Calls the Listener at an address, which may be CPython's. Blocks until both have proved their
/// key. Throws ValueError as Listener does; std::system_error naming the address: ECONNREFUSED,
/// ENOENT, ETIMEDOUT; AuthenticationError when either end has another key; EOFError when the
/// Listener hangs up, TimeoutError when it has no room or is silent for `.handshake_timeout`. L07.
Connection Client(const Address& address, const ClientOptions& options = {});

/// Lets the peer prove that it has the key; the peer calls answer_challenge(). Blocks. Throws
/// AuthenticationError when it has not, ValueError for an empty key, and what recv_bytes() throws.
/// Python: L09.
void deliver_challenge(const Connection& connection, const Bytes& authkey);
/// Proves to the peer, which calls deliver_challenge(), that this end has the key. Python: L10.
void answer_challenge(const Connection& connection, const Bytes& authkey);

}  // namespace connection
}  // namespace millrace
