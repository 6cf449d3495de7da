#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/managers/manager_service.hpp"

namespace millrace::runtime {

namespace {

int checked(int result, const char* call) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), call);
  return result;
}

}  // namespace

ManagerWatch::ManagerWatch(ManagerServer& server)
    : server_(server),
      epoll_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      stop_(checked(::eventfd(0, EFD_CLOEXEC), "eventfd")) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kStop;
  checked(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event), "epoll_ctl");
}

void ManagerWatch::run() {
  for (;;) {
    std::array<epoll_event, 16> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    if (count < 0 && errno != EINTR) return;
    for (int i = 0; i < count; ++i) {
      const std::uint64_t key = events[static_cast<std::size_t>(i)].data.u64;
      if (key == kStop) return;
      if (key == kSentinel) {
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, sentinel_, nullptr);
        server_.stop();
        continue;
      }
      std::shared_ptr<ManagerSession> session;
      {
        const std::scoped_lock guard(mutex_);
        const auto entry = entries_.find(key);
        if (entry != entries_.end()) session = entry->second.session.lock();
      }
      if (session != nullptr) session->caller().leave();
    }
  }
}

void ManagerWatch::stop() noexcept {
  const std::uint64_t one = 1;
  // An eventfd takes 2^64 - 2 of these before it refuses.
  static_cast<void>(::write(stop_.get(), &one, sizeof one) == sizeof one);
}

void ManagerWatch::stop_with(int sentinel) {
  sentinel_ = sentinel;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kSentinel;
  checked(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, sentinel, &event), "epoll_ctl");
}

std::uint64_t ManagerWatch::add(std::shared_ptr<ManagerSession> session, int fd) {
  const std::scoped_lock guard(mutex_);
  const std::uint64_t key = ++last_key_;
  entries_[key] = {session, fd};
  return key;
}

void ManagerWatch::remove(std::uint64_t key) noexcept {
  const std::scoped_lock guard(mutex_);
  entries_.erase(key);
}

// One-shot: a peer that hung up would be reported again and again. What cannot be watched is served
// all the same; its end is noticed when its call has ended.
void ManagerWatch::listen(std::uint64_t key, bool on) noexcept {
  const std::scoped_lock guard(mutex_);
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return;
  epoll_event event{};
  event.events = EPOLLRDHUP | EPOLLONESHOT;
  event.data.u64 = key;
  ::epoll_ctl(epoll_.get(), on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, entry->second.fd, &event);
}

void ManagerWatch::leave_all() noexcept {
  std::vector<std::shared_ptr<ManagerSession>> all;
  {
    const std::scoped_lock guard(mutex_);
    for (const auto& [key, entry] : entries_) {
      if (auto session = entry.session.lock()) all.push_back(std::move(session));
    }
  }
  for (const auto& each : all) each->caller().leave();
}

}  // namespace millrace::runtime
