// A file descriptor that is owned, and that can travel to another process.
#pragma once

#include <millrace/wire/buffer.hpp>
#include <millrace/wire/kinds.hpp>
#include <utility>

namespace millrace {

/// Owns a descriptor: closes it when destroyed. Move-only; it travels as a duplicate, by
/// `conn.send(mp::Fd(fd))`, as an item or an argument, and the receiver owns the copy. Nothing has
/// to be running in the sender meanwhile. Python: multiprocessing.reduction.DupFd, N13.
class Fd {
 public:
  /// Owns nothing.
  Fd() noexcept = default;
  /// Owns `fd` from now on.
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  /// The number of the descriptor, which stays owned; -1 for none.
  [[nodiscard]] int get() const noexcept { return fd_; }
  /// Gives the descriptor away: it is the caller's to close.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  /// Closes it and owns `fd` instead.
  void reset(int fd = -1) noexcept;

 private:
  int fd_ = -1;
};

namespace wire {

/// A descriptor travels as a ticket: its duplicate lies in the kernel until it is taken.
template <>
struct Custom<Fd> {
  /// Throws std::system_error: EBADF for none, ETOOMANYREFS when too many are on the way.
  static void encode(Writer& out, const Fd& fd);
  static Fd decode(Reader& in);
};

}  // namespace wire
}  // namespace millrace
