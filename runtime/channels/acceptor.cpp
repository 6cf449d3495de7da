#include "runtime/channels/acceptor.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <millrace/errors.hpp>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/channels/address.hpp"
#include "runtime/channels/patience.hpp"
#include "runtime/channels/stream_socket.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {
namespace {

using Clock = Timeout::Clock;

constexpr std::size_t kPeers = 512;
constexpr std::size_t kRefusals = 64;
constexpr auto kGrace = std::chrono::milliseconds(25);
constexpr std::size_t kEvents = 64;

[[noreturn]] void fail(const char* call) {
  throw std::system_error(errno, std::generic_category(), std::string("Listener: ") + call);
}

void watch(const Descriptor& epoll, int operation, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll.get(), operation, fd, &event) != 0) fail("epoll_ctl");
}

// Not only closed: a forked child may hold the same connection.
void hang_up(const Descriptor& socket) noexcept { ::shutdown(socket.get(), SHUT_RDWR); }

std::size_t allowed_peers() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kPeers;
  return std::clamp<std::size_t>(limit.rlim_cur / 2, 1, kPeers);
}

bool can_read(int fd) noexcept {
  pollfd event{fd, POLLIN, 0};
  return ::poll(&event, 1, 0) != 0;
}

bool no_descriptor(int error) noexcept {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

Acceptor::Local::Local(pid_t owner, int listening)
    : pid(owner),
      epoll(::epoll_create1(EPOLL_CLOEXEC)),
      wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      closed(listening < 0) {
  if (epoll.get() < 0) fail("epoll_create1");
  if (wake.get() < 0) fail("eventfd");
  watch(epoll, EPOLL_CTL_ADD, wake.get(), EPOLLIN);
  if (!closed) watch(epoll, EPOLL_CTL_ADD, listening, EPOLLIN);
}

void Acceptor::Local::rouse() const noexcept { ::eventfd_write(wake.get(), 1); }

Acceptor::Caller::Caller(Local& here) : here_(here) {
  const std::lock_guard guard(here_.mutex);
  ++here_.callers;
}

Acceptor::Caller::~Caller() {
  const std::lock_guard guard(here_.mutex);
  if (--here_.callers > 0 && !here_.peers.empty()) here_.rouse();
}

Acceptor::Acceptor(const BoundSocket::Request& request, Rules rules)
    : socket_(request), rules_(std::move(rules)), most_peers_(allowed_peers()) {
  // relaxed: nobody else knows this object yet.
  local_.store(new Local(own_pid(), socket_.fd()), std::memory_order_relaxed);
}

Acceptor::~Acceptor() {
  close();
  // relaxed: nobody else knows this object any more.
  delete local_.load(std::memory_order_relaxed);
}

Acceptor::Local& Acceptor::local() {
  Local* known = local_.load(std::memory_order_acquire);  // OBSERVE child: its Local is complete
  if (known->pid == own_pid()) return *known;
  auto made = std::make_unique<Local>(own_pid(), socket_.fd());
  // PUBLISH child: the Local, to this process's other threads; acquire: another thread's, if it won
  if (!local_.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
    return *known;
  }
  close_parents(*known);
  return *made.release();
}

// The parent's copy stays, for another thread may be looking at its pid. What it held is closed
// here, unless the parent was changing it when it forked.
void Acceptor::close_parents(Local& parents) noexcept {
  if (!parents.mutex.try_lock()) return;
  parents.peers.clear();
  parents.known.clear();
  parents.epoll.reset();
  parents.wake.reset();
  parents.mutex.unlock();
}

void Acceptor::abandon() noexcept {
  socket_.abandon();
  // relaxed: the only thread there is
  close_parents(*local_.load(std::memory_order_relaxed));
}

Accepted Acceptor::accept(Timeout timeout) {
  static thread_local Patience patience(Patience::Awaits::handshake);
  const shm::BlockingCall call;
  const auto deadline = timeout.deadline();
  Local& here = local();
  const Caller caller(here);
  for (;;) {
    auto until = deadline;
    {
      const std::lock_guard guard(here.mutex);
      if (auto accepted = look(here)) return std::move(*accepted);
      until = std::min(deadline, next_deadline(here));
      if (Clock::now() >= deadline) {
        throw TimeoutError(std::string("Listener: nobody ") +
                           (has_key() ? "proved the key at " : "came to ") + address().repr() +
                           " in time");
      }
    }
    call.check();
    epoll_event one{};
    if (patience.wait([&] { return ::epoll_wait(here.epoll.get(), &one, 1, 0) != 0; })) continue;
    pollfd event{here.epoll.get(), POLLIN, 0};
    call.poll({&event, 1}, until);
  }
}

std::optional<Accepted> Acceptor::try_accept() {
  Local& here = local();
  const std::lock_guard guard(here.mutex);
  return look(here);
}

Acceptor::Alarm Acceptor::alarm() {
  Local& here = local();
  const std::lock_guard guard(here.mutex);
  return {here.epoll.get(), next_deadline(here)};
}

std::optional<Accepted> Acceptor::look(Local& here) {
  if (here.closed) throw std::system_error(EBADF, std::generic_category(), "listener is closed");
  std::array<epoll_event, kEvents> events{};
  for (int count = static_cast<int>(kEvents); here.known.empty() && count == int{kEvents};) {
    count = ::epoll_wait(here.epoll.get(), events.data(), int{kEvents}, 0);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == here.wake.get()) {
        eventfd_t ignored = 0;
        ::eventfd_read(fd, &ignored);
      } else if (fd == socket_.fd()) {
        take_arrivals(here);
      } else if (const auto peer = here.by_fd.find(fd); peer != here.by_fd.end()) {
        if (!peer->second->writing) peer->second->handshake.look();
        step(here, peer->second);
      }
    }
  }
  expire(here);
  if (!here.known.empty()) {
    Accepted accepted = std::move(here.known.front());
    here.known.pop_front();
    here.last = accepted.from;
    return accepted;
  }
  if (here.refused.empty()) return std::nullopt;
  const AuthenticationError error(here.refused.front());
  here.refused.pop_front();
  throw error;
}

void Acceptor::take_arrivals(Local& here) {
  while (make_room(here)) {
    SystemAddress from;
    from.size = sizeof from.storage;
    Descriptor socket(::accept4(socket_.fd(), from.get(), &from.size, SOCK_CLOEXEC));
    if (socket.get() < 0) {
      if (errno == EAGAIN) return;
      if (!no_descriptor(errno)) continue;  // that peer is gone again
      if (here.peers.empty()) fail("accept: too many descriptors are open; close some");
      drop(here, here.peers.begin());
      continue;
    }
    connection::Address who;
    if (socket_.family() != AF_UNIX) {
      send_at_once(socket.get());
      who = address_of(from);
    }
    if (!rules_.key) {
      here.known.push_back({std::move(socket), std::move(who), {}});
      return;
    }
    admit(here, std::move(socket), std::move(who));
    // An accept4() that finds nobody costs as much as one that does.
    if (!can_read(socket_.fd())) return;
  }
}

bool Acceptor::make_room(Local& here) {
  if (here.peers.size() >= most_peers_) {
    if (Clock::now() < here.peers.front().since + kGrace) {
      if (!here.full) watch(here.epoll, EPOLL_CTL_MOD, socket_.fd(), 0);
      here.full = true;
      return false;
    }
    drop(here, here.peers.begin());
  }
  return true;
}

void Acceptor::admit(Local& here, Descriptor socket, connection::Address from) {
  const auto now = Clock::now();
  const bool never = rules_.handshake > Clock::time_point::max() - now;
  const auto deadline = never ? Clock::time_point::max() : now + rules_.handshake;
  const int fd = socket.get();
  here.peers.push_back(
      {Handshake(std::move(socket), AuthExchange::Side::accepting, *rules_.key, deadline),
       std::move(from), now, false});
  const auto peer = std::prev(here.peers.end());
  try {
    here.by_fd.emplace(fd, peer);
    watch(here.epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
  } catch (...) {
    here.by_fd.erase(fd);
    here.peers.erase(peer);
    throw;
  }
  peer->handshake.look();  // it may have spoken, and this thread not be about to wait
  step(here, peer);
}

void Acceptor::step(Local& here, Peers::iterator peer) {
  const int fd = peer->handshake.fd();
  const Handshake::State state = peer->handshake.advance();
  switch (state) {
    case Handshake::State::reading:
    case Handshake::State::writing:
      if (peer->writing == (state == Handshake::State::writing)) return;
      peer->writing = !peer->writing;
      watch(here.epoll, EPOLL_CTL_MOD, fd, peer->writing ? EPOLLOUT : EPOLLIN);
      return;
    case Handshake::State::done:
      watch(here.epoll, EPOLL_CTL_DEL, fd, 0);
      here.known.push_back(
          {peer->handshake.release(), std::move(peer->from), peer->handshake.release_memory()});
      here.by_fd.erase(fd);
      here.peers.erase(peer);
      return;
    case Handshake::State::refused:
      if (here.refused.size() < kRefusals) {
        here.refused.push_back(peer->handshake.reason() + " (" + peer_name(fd) + ")");
      }
      break;
    case Handshake::State::lost:
      break;
  }
  drop(here, peer);
}

void Acceptor::expire(Local& here) {
  const auto now = Clock::now();
  while (!here.peers.empty() && here.peers.front().handshake.deadline() <= now) {
    drop(here, here.peers.begin());
  }
  const bool room = here.peers.size() < most_peers_ || here.peers.front().since + kGrace <= now;
  if (!here.full || !room) return;
  here.full = false;
  watch(here.epoll, EPOLL_CTL_MOD, socket_.fd(), EPOLLIN);
}

void Acceptor::drop(Local& here, Peers::iterator peer) noexcept {
  const int fd = peer->handshake.fd();
  ::epoll_ctl(here.epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
  const Descriptor socket = peer->handshake.release();
  hang_up(socket);
  here.by_fd.erase(fd);
  here.peers.erase(peer);
}

Clock::time_point Acceptor::next_deadline(const Local& here) {
  if (here.peers.empty()) return Clock::time_point::max();
  const Peer& oldest = here.peers.front();
  return here.full ? std::min(oldest.since + kGrace, oldest.handshake.deadline())
                   : oldest.handshake.deadline();
}

connection::Address Acceptor::last_accepted() {
  Local& here = local();
  const std::lock_guard guard(here.mutex);
  return here.last;
}

void Acceptor::close() noexcept {
  // OBSERVE child: its Local is complete
  Local* const known = local_.load(std::memory_order_acquire);
  if (known == nullptr || known->pid != own_pid()) {
    socket_.close();
    return;
  }
  const std::lock_guard guard(known->mutex);
  if (known->closed) return;
  known->closed = true;
  while (!known->peers.empty()) drop(*known, known->peers.begin());
  for (const Accepted& each : known->known) hang_up(each.socket);
  known->known.clear();
  ::epoll_ctl(known->epoll.get(), EPOLL_CTL_DEL, socket_.fd(), nullptr);
  socket_.close();
  known->rouse();  // for good: nobody reads it any more
}

}  // namespace millrace::runtime
