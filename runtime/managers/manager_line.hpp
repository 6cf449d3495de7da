// A manager's line: the shortcut of one connection through shared memory, between processes of one
// program.
//
// It holds one frame in each direction, since a client waits for the reply to each request. A frame
// goes through it only while its receiver is looking; in all other cases, and when it is too long,
// it goes over the connection's socket. So whoever sleeps does so on the socket: nobody has to be
// woken by other means, and the end of a peer is the socket's end of file.
//
// Each half has a word that says how things stand:
//   kAsleep    its receiver does not look: send over the socket
//   kWatching  its receiver looks, and goes on for a while
//   kFrame     a frame lies there
// Invariants
// 1. The receiver alone makes kAsleep kWatching, before it sends what the frame answers.
// 2. kWatching ends by one compare-and-swap: the sender's to kFrame, its content written before, or
//    to kAsleep when it uses the socket; or the receiver's to kAsleep when it stops looking.
// 3. kFrame ends by one compare-and-swap to kAsleep or, the next time, by watch(): the receiver's
//    when it has taken the frame, or reclaim() of a sender whose socket says that the receiver is
//    gone. One of them wins: a frame has been taken, or never will be.
//
// When a process dies between any two steps: a sender before its swap has sent nothing, after it
// everything. A receiver that watched leaves a frame that nobody takes; its sender then reads end
// of file from the socket. The memory is an object that both ends hold (shm/object.hpp).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/handle.hpp>
#include <span>
#include <vector>

namespace millrace::runtime {

struct ManagerLineBody;

/// One end of a line, used by one thread at a time; or none, by which nothing is ever sent.
class ManagerLine {
 public:
  /// Longer frames go over the socket. Bytes.
  static constexpr std::size_t kRoom = 4096;

  ManagerLine() noexcept = default;
  /// A new one: the client's end. Throws std::system_error (ENOMEM).
  static ManagerLine make();
  /// A number for a message, which owns it until the server's end is made of it: by depart(), or
  /// until drop().
  [[nodiscard]] std::uint64_t depart() const;
  static void drop(std::uint64_t departed) noexcept;
  /// The server's end. Throws Corrupt when `departed` is no line.
  static ManagerLine arrive(std::uint64_t departed);

  explicit operator bool() const noexcept { return object_.payload() != nullptr; }

  /// From here on the peer's next frame may come through the line.
  void watch() noexcept;
  /// Sends a frame if the peer is looking and there is room. False: send it over the socket.
  bool offer(std::span<const std::byte> frame) noexcept;
  /// Looks for as long as that pays: spins if `spin`, then yields; while that lets others compute
  /// it does neither, but for a moment now and then. False: the next frame comes over the socket.
  bool look(bool spin) noexcept;
  /// The frame that look() has found. The client's is taken, into `room`, before anything else is
  /// done with it; false when the server has taken it back. The server's stays in its place until
  /// watch().
  bool take(std::vector<std::byte>& room);
  [[nodiscard]] std::span<const std::byte> frame() const noexcept;
  /// After the end of the peer: true when it has not taken the last frame, and never will.
  bool reclaim() noexcept;

  /// The server's advice whether spinning pays: while all who are awake have a cpu each.
  void advise(bool spin) noexcept;
  [[nodiscard]] bool advised() const noexcept;

 private:
  enum class Side : bool { client, server };
  struct Half;
  friend struct ManagerLineBody;

  ManagerLine(shm::ObjectRef object, Side side) noexcept;
  bool waits_awake() noexcept;
  template <class Ready>
  void yield_until(Ready&& ready, bool crowd) noexcept;
  [[nodiscard]] ManagerLineBody& body() const noexcept;
  [[nodiscard]] Half& in() const noexcept;
  [[nodiscard]] Half& out() const noexcept;

  shm::ObjectRef object_;
  Side side_ = Side::client;

  // Whether looks wait awake; of the thread that uses the end.
  unsigned without_ = 0;        // so many do not
  unsigned long_ = 0;           // what its long yields count
  std::int64_t given_up_ = -1;  // the period in which it found yields too long the last time
};

}  // namespace millrace::runtime
