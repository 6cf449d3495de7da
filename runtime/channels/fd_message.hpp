// What is said between who shares a descriptor with another program and who takes it, as CPython's
// resource_sharer and reduction say it: a frame with the pickle of {key, pid}, and back one byte,
// the number of descriptors, with the descriptor.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <millrace/address.hpp>
#include <millrace/timeout.hpp>
#include <optional>

#include "runtime/base/descriptor.hpp"

namespace millrace::runtime {

/// A request that comes in. Used by one thread at a time.
class FdRequest {
 public:
  /// The key, once all of it is there; none: not yet, or never. Does not block.
  std::optional<std::uint64_t> receive(int socket);
  /// Nothing more comes of it.
  [[nodiscard]] bool is_over() const noexcept { return over_; }

 private:
  static constexpr std::size_t kHeader = 4;
  static constexpr std::size_t kMost = 256;

  std::optional<std::uint64_t> key_in(std::size_t bytes);

  std::array<unsigned char, kHeader + kMost> in_{};
  std::size_t got_ = 0;
  bool over_ = false;
};

/// Sends the descriptor; false: the socket takes nothing. Does not block.
bool send_fd(int socket, int fd) noexcept;

/// Takes the descriptor that waits under `key` with the process that listens at `address`, which
/// the sender of a message has named. Only AF_UNIX, only a listener of this user's (who is sent
/// nothing before that is known, so nobody else can have an answer to a challenge made), with this
/// process's authkey. Blocks until `until` at most. Throws std::system_error naming the address
/// (ECONNREFUSED, ENOENT, EPERM, ETIMEDOUT, ECONNRESET, EMFILE); UnpicklingError for an address
/// that is none, AuthenticationError, KeyboardInterrupt.
Descriptor fetch_shared_fd(const connection::Address& address, std::uint64_t key,
                           Timeout::Clock::time_point until);

}  // namespace millrace::runtime
