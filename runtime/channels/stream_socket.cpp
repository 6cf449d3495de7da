#include "runtime/channels/stream_socket.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <millrace/errors.hpp>
#include <system_error>

#include "runtime/channels/address.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {
namespace {

using connection::Address;
using Clock = Timeout::Clock;

constexpr int kLate = -1;  // in place of an errno: at a deadline
// How soon a path whose listener has no room is tried again.
constexpr auto kSoon = std::chrono::milliseconds(1);
constexpr auto kLater = std::chrono::milliseconds(20);

// Waits for a connection that is on its way; its errno, or kLate.
int wait_for(int socket, const shm::BlockingCall& call, Clock::time_point deadline) {
  pollfd event{socket, POLLOUT, 0};
  if (call.poll({&event, 1}, deadline) == 0) return kLate;
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

// Nobody listens at a port that the kernel then chose for this very socket: it answers itself.
bool is_own_peer(int socket) noexcept {
  SystemAddress here;
  SystemAddress there;
  here.size = there.size = sizeof here.storage;
  return ::getsockname(socket, here.get(), &here.size) == 0 &&
         ::getpeername(socket, there.get(), &there.size) == 0 &&
         address_of(here) == address_of(there);
}

// 0, an errno or kLate. The socket does not block: only so can SIGINT end the wait.
int connect_once(int socket, const SystemAddress& to, const ConnectDeadlines& until) {
  const shm::BlockingCall call;
  for (auto pause = kSoon;; pause = std::min(2 * pause, kLater)) {
    if (::connect(socket, to.get(), to.size) == 0) return 0;
    if (errno == EINPROGRESS || (errno == EINTR && to.family() != AF_UNIX)) {
      return wait_for(socket, call, until.host);
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN || to.family() != AF_UNIX) return errno;
    // The listener's queue is full, and the kernel announces no room in it.
    const Clock::time_point now = Clock::now();
    if (now >= until.room) return kLate;
    call.poll({}, std::min(now + pause, until.room));
  }
}

const char* remedy(int error) {
  switch (error) {
    case ECONNREFUSED:
      return "; nobody listens there (any more)";
    case ENOENT:
      return "; there is no such path: has the listener been started, or has it closed?";
    case EACCES:
      return "; the socket is another user's";
    default:
      return "";
  }
}

[[noreturn]] void give_up(const Address& address, int kind) {
  const char* const why =
      kind == AF_UNIX ? " has had no room in its queue of arrivals for the time of "
                        ".handshake_timeout: is anybody in accept(), and is its .backlog enough?"
                      : " does not answer";
  throw TimeoutError("Client: the listener at " + address.repr() + why);
}

void set_blocking(int socket) {
  if (::fcntl(socket, F_SETFL, 0) != 0) {  // a new socket has no other flag
    throw std::system_error(errno, std::generic_category(), "Client: fcntl");
  }
}

}  // namespace

Descriptor connect_to(const Address& address, const std::optional<std::string>& family,
                      const ConnectDeadlines& until) {
  const int kind = family_of(address, family);
  int error = 0;
  for (const SystemAddress& each : resolve(address, kind)) {
    Descriptor socket(::socket(kind, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    error = socket.get() < 0 ? errno : connect_once(socket.get(), each, until);
    if (error == 0 && kind != AF_UNIX && is_own_peer(socket.get())) error = ECONNREFUSED;
    if (error == kLate) give_up(address, kind);
    if (error != 0) continue;
    set_blocking(socket.get());
    if (kind != AF_UNIX) send_at_once(socket.get());
    return socket;
  }
  throw std::system_error(error, std::generic_category(),
                          "Client: connecting to " + address.repr() + remedy(error));
}

void send_at_once(int socket) noexcept {
  const int on = 1;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

bool is_own_users(int socket) noexcept {
  ucred process{};
  socklen_t size = sizeof process;
  // Of another family's peer it says that it is of user -1.
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &process, &size) == 0 &&
         process.uid == ::geteuid();
}

std::uint64_t big_endian(std::span<const std::byte> bytes) noexcept {
  std::uint64_t value = 0;
  for (const std::byte each : bytes) value = value << 8U | std::to_integer<std::uint64_t>(each);
  return value;
}

std::string framed(std::string_view bytes) {
  std::string frame;
  const auto size = static_cast<std::uint32_t>(bytes.size());
  for (const int shift : {24, 16, 8, 0}) frame += static_cast<char>(size >> shift & 0xffU);
  return frame.append(bytes);
}

std::string peer_name(int socket) {
  SystemAddress from;
  from.size = sizeof from.storage;
  if (::getpeername(socket, from.get(), &from.size) != 0) return "peer unknown";
  if (from.family() != AF_UNIX) return "peer " + address_of(from).repr();
  ucred process{};
  socklen_t size = sizeof process;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &process, &size) != 0) return "peer unknown";
  return "peer process " + std::to_string(process.pid);
}

}  // namespace millrace::runtime
