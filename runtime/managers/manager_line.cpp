#include "runtime/managers/manager_line.hpp"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <millrace/timeout.hpp>
#include <utility>

#include "shm/message_scope.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

namespace {

constexpr std::uint32_t kAsleep = 0;
constexpr std::uint32_t kWatching = 1;
constexpr std::uint32_t kFrame = 2;

constexpr std::chrono::microseconds kSpin{50};  // about what a wake-up costs
// Without a cpu for everybody: each lets all others run once. On an idle machine 10 us.
constexpr int kYields = 40;
// A yield that takes longer gave the cpu to others that compute: who sleeps gets it back sooner.
constexpr std::uint64_t kLongYieldUs = 200;
// In a crowd (16 clients and their threads one after the other: 16 to 130 us) only many say so.
constexpr std::uint64_t kLongYieldInCrowdUs = 2000;
constexpr unsigned kLong = 4;  // is what each counts there; any other yield takes one away
constexpr unsigned kTooLong = 32;
constexpr unsigned kLooksWithout = 63;  // then, until it is tried again
// Or until the next time at which all of this machine try together: while some sleep and are
// woken, those that yield come last, and their yields are long.
constexpr std::chrono::milliseconds kPeriod{256};
constexpr std::chrono::milliseconds kTogether{16};  // of each period

}  // namespace

struct ManagerLine::Half {
  alignas(64) std::atomic<std::uint32_t> word;
  std::uint32_t size;
  std::byte content[kRoom];
};

struct ManagerLineBody {
  ManagerLine::Half request;
  ManagerLine::Half reply;
  std::atomic<std::uint32_t> spin;  // advice
};

ManagerLine::ManagerLine(shm::ObjectRef object, Side side) noexcept
    : object_(std::move(object)), side_(side) {}

ManagerLineBody& ManagerLine::body() const noexcept {
  return *static_cast<ManagerLineBody*>(object_.payload());
}

ManagerLine ManagerLine::make() {
  const shm::ObjectRequest request{.bytes = sizeof(ManagerLineBody),
                                   .type = shm::object_type<ManagerLineBody>()};
  return {shm::ObjectRef(request), Side::client};
}

std::uint64_t ManagerLine::depart() const {
  const shm::OutsideMessage outside;  // the reference is another message's
  shm::depart_object(object_.payload());
  return reinterpret_cast<std::uint64_t>(object_.payload());
}

void ManagerLine::drop(std::uint64_t departed) noexcept {
  const shm::OutsideMessage outside;  // as in depart()
  shm::drop_departed_object(
      reinterpret_cast<void*>(departed));  // NOLINT(performance-no-int-to-ptr): arena address
}

ManagerLine ManagerLine::arrive(std::uint64_t departed) {
  return {shm::ObjectRef(departed, shm::object_type<ManagerLineBody>(), true), Side::server};
}

ManagerLine::Half& ManagerLine::in() const noexcept {
  return side_ == Side::server ? body().request : body().reply;
}
ManagerLine::Half& ManagerLine::out() const noexcept {
  return side_ == Side::server ? body().reply : body().request;
}

void ManagerLine::watch() noexcept {
  if (!*this) return;
  // WATCH: release, what was in the half has been read; pairs with offer()
  in().word.store(kWatching, std::memory_order_release);
}

bool ManagerLine::offer(std::span<const std::byte> frame) noexcept {
  if (!*this) return false;
  Half& half = out();
  // WATCH: acquire, the frame is written behind the receiver's last look at the one before
  std::uint32_t known = half.word.load(std::memory_order_acquire);
  if (known != kWatching) return false;
  const bool fits = frame.size() <= kRoom;
  if (fits) {
    half.size = static_cast<std::uint32_t>(frame.size());
    std::memcpy(half.content, frame.data(), frame.size());
  }
  // PUBLISH frame: release, its content lies before it. Failure: the peer went to the socket.
  return half.word.compare_exchange_strong(known, fits ? kFrame : kAsleep,
                                           std::memory_order_release, std::memory_order_relaxed) &&
         fits;
}

bool ManagerLine::waits_awake() noexcept {
  if (without_ == 0) return true;
  --without_;
  const auto now = Timeout::Clock::now().time_since_epoch();
  if (now % kPeriod >= kTogether || now / kPeriod == given_up_) return false;
  long_ = std::min(long_, kTooLong / 2);
  return true;
}

template <class Ready>
void ManagerLine::yield_until(Ready&& ready, bool crowd) noexcept {
  const std::uint64_t limit = shm::ticks_per_us() * (crowd ? kLongYieldInCrowdUs : kLongYieldUs);
  std::uint64_t start = shm::ticks();
  for (int i = 0; i < kYields && !ready(); ++i) {
    ::sched_yield();
    const std::uint64_t now = shm::ticks();
    if (now - start <= limit) {
      if (long_ > 0) --long_;
      if (long_ < kTooLong / 2) without_ = 0;
    } else if ((long_ += crowd ? kLong : kTooLong) >= kTooLong) {
      without_ = kLooksWithout;
      given_up_ = Timeout::Clock::now().time_since_epoch() / kPeriod;
      long_ = kTooLong - kLong;
      return;
    }
    start = now;
  }
}

bool ManagerLine::look(bool spin) noexcept {
  if (!*this) return false;
  std::atomic<std::uint32_t>& word = in().word;
  // OBSERVE frame: acquire, its content is read behind it
  const auto come = [&] { return word.load(std::memory_order_acquire) != kWatching; };
  if (waits_awake() && !(spin && shm::spin_until(come, kSpin))) yield_until(come, !spin);
  std::uint32_t known = kWatching;
  // OBSERVE frame: acquire on failure, as above. Success, from here on the socket, needs no order,
  // but g++ 12 takes a failure that is ordered more than a success for an error.
  if (word.compare_exchange_strong(known, kAsleep, std::memory_order_acquire,
                                   std::memory_order_acquire)) {
    return false;
  }
  return known == kFrame;
}

std::span<const std::byte> ManagerLine::frame() const noexcept {
  const Half& half = in();
  return {half.content, std::min<std::size_t>(half.size, kRoom)};
}

bool ManagerLine::take(std::vector<std::byte>& room) {
  const auto bytes = frame();
  room.assign(bytes.begin(), bytes.end());
  std::uint32_t known = kFrame;
  // TAKE frame: acq_rel, the copy lies before it; pairs with reclaim()
  return in().word.compare_exchange_strong(known, kAsleep, std::memory_order_acq_rel,
                                           std::memory_order_relaxed);
}

bool ManagerLine::reclaim() noexcept {
  if (!*this) return false;
  std::uint32_t known = kFrame;
  // TAKE frame: as above
  return out().word.compare_exchange_strong(known, kAsleep, std::memory_order_acq_rel,
                                            std::memory_order_relaxed);
}

void ManagerLine::advise(bool spin) noexcept {
  // relaxed: advice; written only when it changes, the client has it in its cache
  if (!*this || (body().spin.load(std::memory_order_relaxed) != 0) == spin) return;
  body().spin.store(spin ? 1 : 0, std::memory_order_relaxed);
}

bool ManagerLine::advised() const noexcept {
  return static_cast<bool>(*this) && body().spin.load(std::memory_order_relaxed) != 0;  // as above
}

}  // namespace millrace::runtime
