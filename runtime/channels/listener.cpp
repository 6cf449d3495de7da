// Listener: an Acceptor whose sockets become Connections.
#include <millrace/errors.hpp>
#include <millrace/listener.hpp>

#include "runtime/channels/acceptor.hpp"
#include "runtime/channels/socket_end.hpp"

namespace millrace::connection {
namespace {

[[maybe_unused]] const bool g_pickled = runtime::pickle_connections();

runtime::Acceptor::Rules rules_of(const ListenerOptions& options) {
  const Timeout& timeout = options.handshake_timeout;
  return {runtime::auth_key(options.authkey, options.legacy_md5),
          timeout.infinite() ? std::chrono::nanoseconds::max() : timeout.duration()};
}

runtime::Acceptor& present(const std::unique_ptr<runtime::Acceptor>& acceptor) {
  if (!acceptor) throw ValueError("Listener: it was moved from");
  return *acceptor;
}

}  // namespace

Listener::Listener(const ListenerOptions& options)
    : acceptor_(std::make_unique<runtime::Acceptor>(
          runtime::BoundSocket::Request{options.address, options.family, options.backlog},
          rules_of(options))) {}

Listener::Listener(Listener&& other) noexcept = default;
Listener& Listener::operator=(Listener&& other) noexcept = default;
Listener::~Listener() = default;

Connection Listener::accept(Timeout timeout) const {
  runtime::Accepted peer = present(acceptor_).accept(timeout);
  return runtime::socket_connection({.socket = std::move(peer.socket),
                                     .memory = std::move(peer.memory),
                                     .side = runtime::AuthExchange::Side::accepting,
                                     .known = acceptor_->has_key()});
}

void Listener::close() const noexcept {
  if (acceptor_) acceptor_->close();
}

const Address& Listener::address() const noexcept {
  static const Address none;
  return acceptor_ ? acceptor_->address() : none;
}

std::optional<Address> Listener::last_accepted() const {
  Address last = present(acceptor_).last_accepted();
  return last.empty() ? std::nullopt : std::optional(std::move(last));
}

}  // namespace millrace::connection
