#include "shm/interrupt.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <millrace/errors.hpp>
#include <system_error>
#include <vector>

#include "shm/above_streams.hpp"
#include "shm/parking.hpp"

namespace millrace::shm {

namespace interrupts {
std::atomic<bool> enabled{false};
}  // namespace interrupts

namespace {

using Clock = Timeout::Clock;

// Threads that sleep at one time and are roused at once; those beyond look again after their slice.
constexpr std::size_t kPlaces = 128;
constexpr std::uintptr_t kBusy = 1;  // the handler is at the spot (spots are aligned to four bytes)
constexpr auto kSlice = std::chrono::milliseconds(100);
constexpr std::int64_t kPatience = 1'000'000'000;  // ns until a request counts as not listened to

// Words of this process that handler and waiters share. All lock-free, as a handler needs.
std::array<std::atomic<std::uintptr_t>, kPlaces> places;  // spot, or 0; | kBusy: the handler
std::atomic<bool> request{false};
std::atomic<std::int64_t> requested_at{0};  // of the first request not taken; written by handlers
std::atomic<int> main_blocked{0};           // calls of the main thread; written by it
std::atomic<int> descriptor_{-1};           // eventfd; written at start and in a forked child

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free &&
              std::atomic<std::int64_t>::is_always_lock_free);

std::int64_t now_ns() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// ppoll() on all of them: how many are ready, 0 at the deadline or for a signal.
int poll_until(std::span<pollfd> fds, Clock::time_point deadline) {
  const auto rest = std::max(deadline - Clock::now(), Clock::duration::zero());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(rest);
  const timespec left{static_cast<std::time_t>(seconds.count()),
                      static_cast<long>((rest - seconds).count())};
  const bool bounded = deadline != Clock::time_point::max();
  const int ready = ::ppoll(fds.data(), fds.size(), bounded ? &left : nullptr, nullptr);
  if (ready < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "ppoll");
  }
  return std::max(ready, 0);
}

bool is_main_thread() noexcept { return ::gettid() == ::getpid(); }

bool may_take() noexcept {
  // relaxed: advice; a request left to a main thread that has just gone on is met by its next call
  // or, a slice later, by this one.
  return main_blocked.load(std::memory_order_relaxed) == 0 || is_main_thread();
}

void drain() noexcept {
  std::uint64_t count = 0;
  const int fd = descriptor_.load(std::memory_order_relaxed);  // it does not change in use
  if (fd >= 0) (void)!::read(fd, &count, sizeof count);
}

// In the child, which has one thread.
void forget_requests() noexcept {
  if (!interrupts_enabled()) return;
  for (auto& place : places) place.store(0, std::memory_order_relaxed);
  request.store(false, std::memory_order_relaxed);
  main_blocked.store(0, std::memory_order_relaxed);
  // The parent's counts its requests. Replaced in place, so that the number stays what it was.
  const int old = descriptor_.load(std::memory_order_relaxed);
  const int own = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (own >= 0 && old >= 0) {
    ::dup3(own, old, O_CLOEXEC);
    ::close(own);
  } else if (old >= 0) {
    ::close(old);
    descriptor_.store(-1, std::memory_order_relaxed);
  }
}

}  // namespace

void enable_interrupts() {
  if (interrupts_enabled()) return;
  static const int hooked = ::pthread_atfork(nullptr, nullptr, &forget_requests);
  if (hooked != 0) throw std::system_error(hooked, std::generic_category(), "pthread_atfork");
  const int fd = above_streams(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (fd < 0) {
    throw std::system_error(errno, std::generic_category(), "eventfd for interruptible calls");
  }
  int none = -1;
  // relaxed: a number; what it stands for is the kernel's.
  if (!descriptor_.compare_exchange_strong(none, fd, std::memory_order_relaxed)) ::close(fd);
  // relaxed: this thread installs the handler after it; other threads that wait already find it in
  // their next wait.
  interrupts::enabled.store(true, std::memory_order_relaxed);
}

bool request_interrupt() noexcept {
  const int saved = errno;
  const std::int64_t now = now_ns();
  // REQUEST interrupt: seq_cst, before the look at the table; pairs with the waiter's SLEEPS.
  if (request.exchange(true, std::memory_order_seq_cst)) {
    // relaxed: written by an earlier run of this handler; a stale time only delays the verdict.
    if (now - requested_at.load(std::memory_order_relaxed) > kPatience) return false;
  } else {
    requested_at.store(now, std::memory_order_relaxed);  // see above
  }
  const std::uint64_t one = 1;
  const int fd = descriptor_.load(std::memory_order_relaxed);  // it does not change in use
  if (fd >= 0) (void)!::write(fd, &one, sizeof one);
  for (auto& place : places) {
    // SLEEPS: the waiter's store in enter(); acquire, the spot is in order.
    std::uintptr_t spot = place.load(std::memory_order_seq_cst);
    if (spot == 0 || (spot & kBusy) != 0) continue;  // empty, or roused by another's handler
    // BUSY place: taken so that the owner keeps the spot alive.
    if (!place.compare_exchange_strong(spot, spot | kBusy, std::memory_order_acq_rel,
                                       std::memory_order_relaxed)) {
      continue;  // its owner has left, or another handler rouses it
    }
    reinterpret_cast<ParkingSpot*>(spot)->rouse();
    place.store(spot, std::memory_order_release);  // BUSY place: the owner may go on
  }
  errno = saved;
  return true;
}

bool BlockingCall::enter() noexcept {
  if (!is_main_thread()) return false;
  main_blocked.fetch_add(1, std::memory_order_relaxed);  // see may_take()
  return true;
}

void BlockingCall::leave() noexcept { main_blocked.fetch_sub(1, std::memory_order_relaxed); }

bool BlockingCall::is_requested() noexcept {
  // REQUEST interrupt: seq_cst, after this thread's SLEEPS; one of the two sides sees the other.
  return request.load(std::memory_order_seq_cst) && may_take();
}

void BlockingCall::take() {
  if (!is_requested()) return;
  // Drained first: a request made in between leaves the descriptor readable or is taken with this.
  drain();
  // REQUEST interrupt: one thread wins it.
  if (request.exchange(false, std::memory_order_acq_rel)) throw KeyboardInterrupt();
}

int BlockingCall::poll(std::span<pollfd> fds, Clock::time_point deadline) const {
  if (!interrupts_enabled()) {
    for (;;) {
      const int ready = poll_until(fds, deadline);
      if (ready != 0 || Clock::now() >= deadline) return ready;
    }
  }
  std::vector<pollfd> all(fds.begin(), fds.end());
  all.push_back({-1, POLLIN, 0});
  for (bool listen = true;;) {
    if (Clock::now() < deadline) check();
    // A descriptor below zero is passed over.
    all.back().fd = listen ? descriptor_.load(std::memory_order_relaxed) : -1;
    const int ready =
        poll_until(all, listen ? deadline : std::min(deadline, Clock::now() + kSlice));
    const bool woken = all.back().revents != 0;
    if (ready > (woken ? 1 : 0)) {
      std::copy_n(all.begin(), fds.size(), fds.begin());
      return ready - (woken ? 1 : 0);
    }
    if (Clock::now() >= deadline) return 0;
    if (woken && !request.load(std::memory_order_seq_cst)) drain();  // REQUEST: of one that is over
    // A request made since the look above may have been drained: it is seen here, or by check().
    // REQUEST interrupt: as in is_requested(). One that is the main thread's is not listened to.
    listen = !request.load(std::memory_order_seq_cst) || may_take();
  }
}

std::size_t InterruptibleSleep::enter(ParkingSpot* spot) noexcept {
  const auto value = reinterpret_cast<std::uintptr_t>(spot);
  for (std::size_t i = 0; i < kPlaces; ++i) {
    std::uintptr_t free = 0;
    // SLEEPS: seq_cst, before the look at the request; pairs with REQUEST interrupt.
    if (places[i].load(std::memory_order_relaxed) == 0 &&  // a guess, the exchange decides
        places[i].compare_exchange_strong(free, value, std::memory_order_seq_cst,
                                          std::memory_order_relaxed)) {
      return i;
    }
  }
  return kNowhere;
}

void InterruptibleSleep::leave() const noexcept {
  auto& place = places[place_];
  for (;;) {
    // relaxed: the exchange below decides.
    std::uintptr_t own = place.load(std::memory_order_relaxed) & ~kBusy;
    // BUSY place: acquire, the handler has left the spot.
    if (own == 0 || place.compare_exchange_strong(own, 0, std::memory_order_acq_rel,
                                                  std::memory_order_relaxed)) {
      return;
    }
    ::sched_yield();
  }
}

}  // namespace millrace::shm
