#include "shm/parking.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace millrace::shm {
namespace {

using Clock = Timeout::Clock;

// The kernel takes the address of the 32 bits themselves.
const std::uint32_t* address_of(const std::atomic<std::uint32_t>& word) noexcept {
  static_assert(sizeof(std::atomic<std::uint32_t>) == 4 &&
                std::atomic<std::uint32_t>::is_always_lock_free);
  return reinterpret_cast<const std::uint32_t*>(&word);
}

// steady_clock is CLOCK_MONOTONIC here; its time since epoch is the kernel's absolute time.
timespec to_timespec(Clock::time_point deadline) noexcept {
  const auto since = deadline.time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
  if (since.count() < 0) return {0, 0};
  return {static_cast<std::time_t>(seconds.count()), static_cast<long>((since - seconds).count())};
}

}  // namespace

int futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
               Clock::time_point deadline) noexcept {
  const timespec until = to_timespec(deadline);
  const timespec* limit = deadline == Clock::time_point::max() ? nullptr : &until;
  const int saved = errno;
  int outcome = 0;
  if (syscall(SYS_futex, address_of(word), FUTEX_WAIT_BITSET, expected, limit, nullptr,
              FUTEX_BITSET_MATCH_ANY) != 0) {
    outcome = errno;
  }
  errno = saved;
  return outcome;
}

int futex_wake(const std::atomic<std::uint32_t>& word, int count) noexcept {
  const int saved = errno;
  const long woken = syscall(SYS_futex, address_of(word), FUTEX_WAKE, count, nullptr, nullptr, 0);
  errno = saved;
  return woken > 0 ? static_cast<int>(woken) : 0;
}

std::uint64_t ticks_per_us() noexcept {
  static const std::uint64_t measured = [] {
    const auto start = Clock::now();
    const std::uint64_t first = ticks();
    auto elapsed = Clock::duration::zero();
    while (elapsed < std::chrono::microseconds{100}) elapsed = Clock::now() - start;
    const auto passed = ticks() - first;
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count();
    const std::uint64_t rate = passed * 1000 / static_cast<std::uint64_t>(ns);
    return rate > 0 ? rate : 1;
  }();
  return measured;
}

}  // namespace millrace::shm
