#include "runtime/managers/manager_watch.hpp"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace millrace::runtime {

namespace {

using Clock = std::chrono::steady_clock;
using Place = ManagerTalk::Place;

constexpr int kEvents = 64;
// How often a crowd is looked at.
constexpr std::chrono::milliseconds kLook{2};
constexpr std::uint32_t kEnd = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

int checked(int result, const char* call) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), call);
  return result;
}

}  // namespace

ManagerWatch::ManagerWatch(ManagerServer& server, ManagerCrew& crew)
    : server_(server),
      crew_(crew),
      epoll_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      stop_(checked(::eventfd(0, EFD_CLOEXEC), "eventfd")),
      timer_(checked(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
                     "timerfd_create")) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kStop;
  checked(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event), "epoll_ctl");
  event.data.u64 = kTimer;
  checked(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event), "epoll_ctl");
}

void ManagerWatch::run() {
  std::array<epoll_event, kEvents> events{};
  auto looked = Clock::now();
  for (;;) {
    const bool crowded = crew_.crowded();
    if (crowded && Clock::now() - looked >= kLook) {
      crew_.look();
      looked = Clock::now();
    }
    const int wait = crowded ? static_cast<int>(kLook.count()) : -1;
    const int count = ::epoll_wait(epoll_.get(), events.data(), kEvents, wait);
    if (count < 0 && errno != EINTR) return;
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == kStop) return;
      see(event);
    }
  }
}

void ManagerWatch::see(const epoll_event& event) {
  if (event.data.u64 == kSentinel) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, sentinel_, nullptr);
    server_.stop();
    return;
  }
  const std::uint64_t number = event.data.u64;  // a copy: on x86-64 the struct is packed
  if (number == kTimer) {
    end_refused();
    return;
  }
  if (let_go(number)) return;
  std::shared_ptr<ManagerTalk> talk;
  bool parked = false;
  {
    const std::scoped_lock guard(mutex_);
    const auto entry = entries_.find(number);
    if (entry == entries_.end() || entry->second->place == Place::served) return;
    parked = entry->second->place == Place::parked;
    if (!parked && (event.events & kEnd) == 0) return;
    talk = entry->second;
    if (parked) talk->place = Place::served;
  }
  if (parked) {
    crew_.give(std::move(talk));
  } else {
    talk->session.caller().leave();
  }
}

void ManagerWatch::hold(Descriptor until,
                        std::vector<std::shared_ptr<SharedObject>>& objects) noexcept {
  const std::scoped_lock guard(mutex_);
  epoll_event event{};  // EPOLLHUP comes unasked
  event.data.u64 = ++last_key_;
  try {
    Held& held = held_[last_key_];
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, until.get(), &event) != 0) {
      held_.erase(last_key_);
      return;
    }
    held = {std::move(until), std::move(objects)};
  } catch (const std::bad_alloc&) {
    static_cast<void>(0);  // the child holds them from its first call on
  }
}

// False: it is no key of what is held.
bool ManagerWatch::let_go(std::uint64_t key) {
  Held last;  // let go of without the lock
  const std::scoped_lock guard(mutex_);
  const auto held = held_.find(key);
  if (held == held_.end()) return false;
  // Another child, forked at the same instant, may have the descriptor too, by which it would stay.
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, held->second.until.get(), nullptr);
  last = std::move(held->second);
  held_.erase(held);
  return true;
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

// With the lock. One-shot: a peer that hung up would be reported again and again.
bool ManagerWatch::arm(ManagerTalk& talk, std::uint32_t events) noexcept {
  epoll_event event{};
  event.events = events | EPOLLRDHUP | EPOLLONESHOT;
  event.data.u64 = talk.key;
  const int operation = talk.registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (::epoll_ctl(epoll_.get(), operation, talk.socket, &event) != 0) return false;
  talk.registered = true;
  return true;
}

bool ManagerWatch::add(const std::shared_ptr<ManagerTalk>& talk,
                       std::optional<std::chrono::milliseconds> refused_for) {
  const std::scoped_lock guard(mutex_);
  talk->key = ++last_key_;
  const auto entry = entries_.emplace(talk->key, talk).first;
  talk->place = Place::parked;
  if (!arm(*talk, EPOLLIN)) {
    entries_.erase(entry);
    return false;
  }
  if (refused_for) {
    talk->refused = true;
    talk->until = Clock::now() + *refused_for;
    ++refused_;
    // Who came before has his time before: the timer goes on from one to the next.
    if (!timer_set_) set_timer(talk->until);
  }
  return true;
}

// With the lock.
void ManagerWatch::set_timer(Clock::time_point until) noexcept {
  using std::chrono::nanoseconds;
  // Nothing at all would be never.
  const auto left = std::max<nanoseconds>(until - Clock::now(), nanoseconds(1)).count();
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(left / std::nano::den);
  spec.it_value.tv_nsec = static_cast<long>(left % std::nano::den);
  timer_set_ = ::timerfd_settime(timer_.get(), 0, &spec, nullptr) == 0;
}

// Their time is over: each reads the end, after what it has asked still, and goes as all do.
void ManagerWatch::end_refused() noexcept {
  const std::scoped_lock guard(mutex_);
  std::uint64_t times = 0;
  // Not readable any more; a timer that was set anew meanwhile finds nothing here to read.
  static_cast<void>(::read(timer_.get(), &times, sizeof times) == sizeof times);
  timer_set_ = false;
  const auto now = Clock::now();
  auto next = Clock::time_point::max();
  for (const auto& [key, talk] : entries_) {
    if (talk->until <= now) {
      ::shutdown(talk->socket, SHUT_RD);
      talk->until = Clock::time_point::max();
    }
    next = std::min(next, talk->until);
  }
  if (next != Clock::time_point::max()) set_timer(next);
}

void ManagerWatch::remove(ManagerTalk& talk) noexcept {
  const std::scoped_lock guard(mutex_);
  // A forked child may hold the same socket, by which it would stay.
  if (talk.registered) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, talk.socket, nullptr);
  if (entries_.erase(talk.key) != 0 && talk.refused) --refused_;
  removed_.notify_all();
}

bool ManagerWatch::park(ManagerTalk& talk) noexcept {
  const std::scoped_lock guard(mutex_);
  talk.place = Place::parked;
  if (arm(talk, EPOLLIN)) return true;
  talk.place = Place::served;
  return false;
}

// What cannot be watched is served all the same; its end is noticed when its call has ended.
void ManagerWatch::listen(ManagerTalk& talk, bool on) noexcept {
  const std::scoped_lock guard(mutex_);
  if (on) {
    talk.place = Place::waiting;
    static_cast<void>(arm(talk, 0));
    return;
  }
  talk.place = Place::served;
  if (!talk.registered) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, talk.socket, nullptr);
  talk.registered = false;
}

std::size_t ManagerWatch::size() {
  const std::scoped_lock guard(mutex_);
  return entries_.size();
}

std::size_t ManagerWatch::admitted() {
  const std::scoped_lock guard(mutex_);
  return entries_.size() - refused_;
}

std::size_t ManagerWatch::refused() {
  const std::scoped_lock guard(mutex_);
  return refused_;
}

bool ManagerWatch::wait_for_fewer(std::size_t fewer,
                                  std::optional<std::chrono::milliseconds> time) {
  std::unique_lock guard(mutex_);
  const auto left = [&] { return entries_.size() < fewer; };
  if (time) return removed_.wait_for(guard, *time, left);
  removed_.wait(guard, left);
  return true;
}

void ManagerWatch::hang_up(int how) noexcept {
  const std::scoped_lock guard(mutex_);
  for (const auto& [key, talk] : entries_) ::shutdown(talk->socket, how);
}

void ManagerWatch::leave_all() noexcept {
  std::vector<std::shared_ptr<ManagerTalk>> all;
  {
    const std::scoped_lock guard(mutex_);
    for (const auto& [key, talk] : entries_) all.push_back(talk);
  }
  for (const auto& each : all) each->session.caller().leave();
}

}  // namespace millrace::runtime
