// The bell of one direction of a Pipe: an object of the kernel's that is readable while the ring is
// not empty, for polls that the library cannot see. It exists from the first fileno() on.
//
// It is an anonymous pipe whose bytes are its units: unlike an eventfd it can be had later by a
// process that did not inherit it, through /proc/<pid>/fd of one that has it (same user). Those who
// wait on it write their process and descriptor into the BellState; whoever rings it for the first
// time looks there. That the right file was opened is told by its inode.
//
// Rules, with `rung` as the advice that saves system calls:
//   ring   after publishing, with the send lock: rung was 0 before it is set to 1 -> add a unit
//   quiet  with the recv lock, the ring looks empty: first see the bell readable, then rung = 0,
//          then see the ring still empty (barrier between), then take that one unit; else rung = 1
//   arm    with the recv lock: armed = 1; the ring is not empty -> add a unit
//   whoever takes a dead process's send or recv lock, or sets `gone`, adds a unit
// Without "first see" the reader takes the unit of a writer that publishes just then.
//
// What happens when a process dies between any two steps: a unit too many, which the next quiet()
// takes; or rung = 1 without a unit, which only a holder of the send lock leaves: see the last
// rule.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "runtime/channels/pipe_body.hpp"

namespace millrace::runtime {

/// This process's descriptor of a bell. All calls with bell_mutex(), by the descriptor's process.
class Bell {
 public:
  explicit Bell(BellState& state) noexcept : state_(state) {}
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;
  ~Bell() { forget(); }

  /// True once anybody waits on it. Without the mutex.
  [[nodiscard]] bool armed() const noexcept {
    // ARM bell: pipe_bell.cpp writes; seq_cst, behind the caller's barrier after publishing
    return state_.armed.load(std::memory_order_seq_cst) != 0;
  }
  /// Opens or makes it for this process to wait on. Throws std::system_error.
  void arm();
  /// Adds a unit if there is none since the last was taken.
  void ring() noexcept;
  /// Adds a unit.
  void add_unit() noexcept;
  /// True when it is readable.
  [[nodiscard]] bool readable() noexcept;
  void take_unit() noexcept;
  [[nodiscard]] BellState& state() const noexcept { return state_; }
  /// The descriptor, -1 before arm().
  [[nodiscard]] int fd() const noexcept { return fd_; }
  /// Closes the descriptor.
  void forget() noexcept;

 private:
  bool open() noexcept;
  void make();
  void enter();

  BellState& state_;
  int fd_ = -1;
  std::uint64_t inode_ = 0;  // of fd_
  std::uint64_t entry_ = 0;  // what this process wrote into the state
};

}  // namespace millrace::runtime
