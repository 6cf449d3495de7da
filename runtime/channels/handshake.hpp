// One peer that is being authenticated over its socket, without ever blocking: any number of them
// go on side by side, each until its deadline.
//
// Invariants
// 1. Exactly the bytes of the handshake's frames are read: what the peer sends next stays in the
//    socket, for the Connection. At once are read the rest of the frame that has begun and the
//    fewest bytes that the frames behind it have.
// 2. A peer that calls costs one descriptor and about 600 bytes until it is known. Memory is opened
//    for one that has proved its key, and offered to such a one; the caller makes what it offers
//    while the peer is at work on the proof.
#pragma once

#include <array>
#include <cstddef>
#include <millrace/timeout.hpp>
#include <string>
#include <string_view>

#include "runtime/base/descriptor.hpp"
#include "runtime/channels/auth.hpp"
#include "runtime/channels/peer_memory.hpp"

namespace millrace::runtime {

/// Used by one thread at a time. `key` outlives it.
class Handshake {
 public:
  enum class State {
    reading,  ///< waits for the peer's bytes
    writing,  ///< waits for room
    done,     ///< the peer has the key
    refused,  ///< it has not, or says that we have not
    lost      ///< it closed, broke the connection, or sent what is no frame of a handshake
  };

  /// Throws std::system_error when the kernel has no random bytes.
  Handshake(Descriptor socket, AuthExchange::Side side, const AuthKey& key,
            Timeout::Clock::time_point deadline);

  /// True when something came, be it the end or an error: what there is of the handshake is read,
  /// and advance() goes on with it.
  bool look();
  /// As far as it goes without blocking, from what look() has found and finds.
  State advance();

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  [[nodiscard]] Timeout::Clock::time_point deadline() const noexcept { return deadline_; }
  /// Why it was refused or lost.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  /// Of a peer that was lost: its errno, 0 when it closed the connection.
  [[nodiscard]] int error() const noexcept { return error_; }
  /// The socket of a peer that is known.
  [[nodiscard]] Descriptor release() noexcept { return std::move(socket_); }
  /// The memory that is shared with it; none with most.
  [[nodiscard]] Descriptor release_memory() noexcept { return std::move(memory_); }

 private:
  static constexpr std::size_t kHeader = 4;

  void queue(std::string_view frame);
  bool flush();    // false: no room
  bool receive();  // false: no whole frame yet
  [[nodiscard]] std::size_t frame_size() const noexcept;
  [[nodiscard]] std::size_t sure() const noexcept;
  void take();
  void share();
  void prepare();
  void lose_by(int error);
  void lose(int error, std::string why);

  Descriptor socket_;
  Descriptor memory_;
  OfferedMemory offered_;  // of the connecting side's, made while it waits for the proof
  AuthExchange exchange_;
  const AuthExchange::Side side_;
  Timeout::Clock::time_point deadline_;
  std::string out_;
  std::array<unsigned char, kHeader + kAuthFrame + 96> in_{};  // a frame, and the least behind it
  std::size_t got_ = 0;
  bool more_ = false;          // may be there: all that was asked for came
  bool offer_is_due_ = false;  // the peer's next frame offers memory
  bool finished_ = false;
  bool refused_ = false;
  bool lost_ = false;
  int error_ = 0;
  std::string reason_;
};

}  // namespace millrace::runtime
