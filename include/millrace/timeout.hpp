// How long a blocking call may wait. One type for every timeout in the library.
#pragma once

#include <cstdint>
#include <limits>
#include <millrace/light_std.hpp>
#include <optional>

namespace millrace {

/// A relative timeout: any std::chrono duration, an optional of one, or std::nullopt (the default)
/// to wait for ever. A negative duration counts as zero. A bare number does not compile: it has no
/// unit. Python: the `timeout` argument, in seconds, None for ever.
class Timeout {
 public:
  using Clock = std::chrono::steady_clock;

  constexpr Timeout() noexcept = default;
  constexpr Timeout(std::nullopt_t) noexcept {}  // NOLINT(google-explicit-constructor): call form
  template <class Rep, class Period>
  constexpr Timeout(std::chrono::duration<Rep, Period> d) noexcept : nanoseconds_(clamp(d)) {}
  template <class Rep, class Period>
  constexpr Timeout(const std::optional<std::chrono::duration<Rep, Period>>& d) noexcept {
    if (d) nanoseconds_ = clamp(*d);
  }

  /// True when the call waits for ever.
  [[nodiscard]] constexpr bool infinite() const noexcept { return nanoseconds_ == kInfinite; }
  /// The time to wait, never negative. Only for a finite timeout.
  [[nodiscard]] constexpr std::chrono::nanoseconds duration() const noexcept {
    return std::chrono::nanoseconds(nanoseconds_);
  }
  /// The instant at which the wait ends: time_point::max() for an infinite one.
  [[nodiscard]] Clock::time_point deadline() const noexcept {
    if (infinite()) return Clock::time_point::max();
    const auto now = Clock::now();
    const bool beyond = duration() > Clock::time_point::max() - now;
    return beyond ? Clock::time_point::max() : now + duration();
  }

 private:
  static constexpr std::int64_t kInfinite = std::numeric_limits<std::int64_t>::max();

  template <class Rep, class Period>
  static constexpr std::int64_t clamp(std::chrono::duration<Rep, Period> d) noexcept {
    using Seconds = std::chrono::duration<double>;
    if (!(d > d.zero())) return 0;  // a NaN of seconds counts as zero too
    if (std::chrono::duration_cast<Seconds>(d) > Seconds(9.0e9)) return kInfinite;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count();
  }

  std::int64_t nanoseconds_ = kInfinite;
};

}  // namespace millrace
