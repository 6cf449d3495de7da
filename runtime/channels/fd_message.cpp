#include "runtime/channels/fd_message.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/object.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "runtime/base/own_pid.hpp"
#include "runtime/channels/client.hpp"
#include "runtime/channels/stream_socket.hpp"
#include "runtime/process/process_record.hpp"
#include "runtime/values/pickle.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {
namespace {

using connection::Address;
using Clock = Timeout::Clock;

[[noreturn]] void fail(int error, const Address& address, const std::string& why) {
  throw std::system_error(error, std::generic_category(),
                          "a Connection that came in a message cannot be had from its sender, at " +
                              address.repr() + ": " + why);
}

void check_listener(int socket) {
  if (is_own_users(socket)) return;
  throw std::system_error(EPERM, std::generic_category(), "the listener is another user's");
}

// A socket to the sender, both of whom have proved their key.
Descriptor call_sender(const Address& address, Clock::time_point until) {
  try {
    const Timeout limit(std::max(Clock::duration::zero(), until - Clock::now()));
    return dial(limit, address, {.family = "AF_UNIX", .authkey = own_authkey()}, &check_listener)
        .socket;
  } catch (const AuthenticationError& error) {
    throw AuthenticationError(
        "a Connection that came in a message cannot be had from its sender: that has another "
        "authkey than this process; give both the same by current_process().authkey(key) (" +
        std::string(error.what()) + ")");
  } catch (const EOFError&) {
    fail(ECONNRESET, address, "it has hung up; does it have the same authkey?");
  } catch (const TimeoutError&) {
    fail(ETIMEDOUT, address, "it does not answer");
  } catch (const std::system_error& error) {
    const int code = error.code().value();
    const bool gone = code == ENOENT || code == ECONNREFUSED;
    fail(code, address,
         gone            ? "the sender has ended, or what waited there has been taken"
         : code == EPERM ? "it is not a process of this user that listens there"
                         : "calling it failed");
  }
}

void ask(const Address& address, int socket, std::uint64_t key) {
  wire::Writer content;
  pickle(content, Object(Tuple{key, own_pid()}));
  const std::string frame = framed({reinterpret_cast<const char*>(content.data()), content.size()});
  const ssize_t sent = ::send(socket, frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent != static_cast<ssize_t>(frame.size())) fail(ECONNRESET, address, "it has hung up");
}

Descriptor take(const Address& address, int socket) {
  unsigned char count = 0;
  iovec content{&count, sizeof count};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_LEN(sizeof(int));  // room for one, and no other is let in
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  Descriptor fd;
  const cmsghdr* const head = got < 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (head != nullptr && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
      head->cmsg_len == CMSG_LEN(sizeof(int))) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(head), sizeof number);
    fd.reset(number);
  }
  if (got <= 0) fail(ENOENT, address, "it has no such descriptor; each can be taken only once");
  const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
  if (fd.get() < 0 && cut) fail(EMFILE, address, "this process has no descriptor left for it");
  if (fd.get() < 0 || cut || count != 1) fail(EPROTO, address, "what came is not one descriptor");
  return fd;
}

}  // namespace

std::optional<std::uint64_t> FdRequest::receive(int socket) {
  for (;;) {
    std::size_t wanted = kHeader;
    if (got_ >= kHeader) {
      const std::size_t size = big_endian(std::as_bytes(std::span(in_).first(kHeader)));
      if (size == 0 || size > kMost) break;
      wanted += size;
      if (got_ == wanted) return key_in(size);
    }
    const ssize_t got = ::recv(socket, in_.data() + got_, wanted - got_, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
    if (got <= 0) break;
    got_ += static_cast<std::size_t>(got);
  }
  over_ = true;
  return std::nullopt;
}

std::optional<std::uint64_t> FdRequest::key_in(std::size_t bytes) {
  over_ = true;
  try {
    const std::string_view said(reinterpret_cast<const char*>(in_.data()) + kHeader, bytes);
    const Object request = unpickle(said);
    if (request.is<Tuple>() && request.size() == 2) return request[0].as<std::uint64_t>();
  } catch (const std::exception&) {
    static_cast<void>(0);  // no request
  }
  return std::nullopt;
}

bool send_fd(int socket, int fd) noexcept {
  unsigned char count = 1;
  iovec content{&count, sizeof count};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof count;
}

Descriptor fetch_shared_fd(const Address& address, std::uint64_t key, Clock::time_point until) {
  if (address.path().empty()) {
    throw UnpicklingError("a Connection that came in a message is to be had at " + address.repr() +
                          ", which is no path of a socket on this machine");
  }
  const shm::BlockingCall call;
  const Descriptor socket = call_sender(address, until);
  ask(address, socket.get(), key);
  pollfd event{socket.get(), POLLIN, 0};
  if (call.poll({&event, 1}, until) == 0) fail(ETIMEDOUT, address, "it does not answer");
  return take(address, socket.get());
}

}  // namespace millrace::runtime
