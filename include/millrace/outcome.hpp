// What became of one item when every item runs: `{.on_error = mp::collect}`.
#pragma once

#include <sys/types.h>

#include <exception>
#include <millrace/errors.hpp>
#include <millrace/light_std.hpp>
#include <millrace/none.hpp>
#include <optional>
#include <type_traits>
#include <utility>

namespace millrace {

/// A result or an error, with the circumstances. R is NoneType where the function returns void.
/// Python: none; its map raises the first error and drops every result.
template <class R>
class Outcome {
 public:
  /// The facts about a run that every outcome has.
  struct Facts {
    pid_t pid = 0;
    int cpu = -1;
    std::chrono::nanoseconds duration{};
  };

  Outcome(R value, Facts facts) : value_(std::move(value)), facts_(facts) {}
  Outcome(std::exception_ptr error, Facts facts) : error_(std::move(error)), facts_(facts) {
    try {
      std::rethrow_exception(error_);
    } catch (const WorkerLost& lost) {
      facts_.pid = lost.pid();
      signal_ = lost.exitcode() < 0 ? -lost.exitcode() : 0;
      oom_ = lost.oom();
    } catch (...) {  // an error of the function's own: no signal
    }
  }

  /// True when the item has a value.
  explicit operator bool() const noexcept { return value_.has_value(); }
  /// The value; rethrows the error if there is none.
  [[nodiscard]] const R& value() const& {
    if (!value_) std::rethrow_exception(error_);
    return *value_;
  }
  [[nodiscard]] R value() && {
    if (!value_) std::rethrow_exception(error_);
    return *std::move(value_);
  }
  /// What was thrown, or WorkerLost, TimeoutError ...; null if there is a value.
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }
  /// Process that ran the item; 0 if none did.
  [[nodiscard]] pid_t pid() const noexcept { return facts_.pid; }
  /// The signal that ended the worker, 0 if none did.
  [[nodiscard]] int signal() const noexcept { return signal_; }
  /// True when the worker was ended by the kernel's out-of-memory killer.
  [[nodiscard]] bool oom() const noexcept { return oom_; }
  /// Cpu on which the item ended; -1 if unknown.
  [[nodiscard]] int cpu() const noexcept { return facts_.cpu; }
  /// How long the function ran.
  [[nodiscard]] std::chrono::nanoseconds duration() const noexcept { return facts_.duration; }

 private:
  std::optional<R> value_;
  std::exception_ptr error_;
  Facts facts_;
  int signal_ = 0;
  bool oom_ = false;
};

}  // namespace millrace
