#include "runtime/channels/socket_end.hpp"

#include <poll.h>

#include <memory>
#include <utility>

#include "runtime/base/fd_bag.hpp"
#include "runtime/channels/socket_calls.hpp"

namespace millrace::runtime {
namespace {

using Clock = Timeout::Clock;

}  // namespace

SocketEnd::SocketEnd(Descriptor socket, Descriptor memory, shm::ObjectRef object) noexcept
    : ConnectionEnd(static_cast<SocketObject*>(object.payload())->connection.readable,
                    static_cast<SocketObject*>(object.payload())->connection.writable, true),
      socket_(std::move(socket)),
      memory_(std::move(memory)),
      object_(std::move(object)) {}

SocketObject& SocketEnd::shared() const noexcept {
  return *static_cast<SocketObject*>(object_.payload());
}

// Nobody uses the end any more.
void SocketEnd::let_go() noexcept {
  socket_.reset();
  memory_.reset();
  send_lane_.unmap();
  receive_lane_.unmap();
  send_bell_.reset();
  receive_bell_.reset();
}

bool SocketEnd::poll(Timeout timeout) {
  const Use use(*this);
  const auto deadline = timeout.deadline();
  if (ahead_ != nullptr && !ahead_->empty()) return true;
  pollfd event{socket_.get(), POLLIN, 0};
  if (::poll(&event, 1, 0) > 0) return true;
  if (Clock::now() >= deadline) return false;
  std::shared_ptr<const CloseBell> bell;
  return Pause(*this, bell).between_messages(POLLIN, deadline);
}

int SocketEnd::fileno() {
  const Use use(*this);
  return socket_.get();
}

void SocketEnd::shut() noexcept {
  using namespace socket_calls;
  // relaxed: a guess, which the exchange corrects
  std::uint64_t known = uses_.load(std::memory_order_relaxed);
  // CLOSE socket: acquire and release, as in Use (socket_calls.hpp). Its own use keeps the socket.
  while (!uses_.compare_exchange_weak(known, (own_uses(known) | kClosing) + kOneUse,
                                      std::memory_order_acq_rel, std::memory_order_relaxed)) {
  }
  if ((own_uses(known) & kUses) != 0) {
    CloseBell::ring();
    // Who sleeps in the receiving itself hears no bell. The socket is this process's alone.
    if (ahead_ != nullptr) ::shutdown(socket_.get(), SHUT_RDWR);
  }
  leave();
}

// A call that was under way ends.
void SocketEnd::leave() noexcept {
  using namespace socket_calls;
  // CLOSE socket: as above
  const std::uint64_t before = uses_.fetch_sub(kOneUse, std::memory_order_acq_rel);
  if ((before & (kUses | kClosing)) == (kOneUse | kClosing)) let_go();
}

std::uint64_t SocketEnd::depart() {
  const Use use(*this);
  if (ahead_ != nullptr) return ConnectionEnd::depart();  // refuses
  return deposit_fds({socket_.get(), memory_.get()});
}

}  // namespace millrace::runtime
