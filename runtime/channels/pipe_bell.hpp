// The bell of one direction of a Pipe: an object of the kernel's that is readable while the ring is
// not empty, for polls that the library cannot see. It exists from the first fileno() on.
//
// It is an anonymous pipe whose bytes are its units: unlike an eventfd it can be had later by a
// process that did not inherit it, through /proc/<pid>/fd of one that has it (same user). Those who
// wait on it write their process and descriptor into the BellState; whoever rings it for the first
// time looks there. That the right file was opened is told by its inode.
//
// Rules, with `rung` as the advice that saves system calls:
//   ring   after publishing, with the send lock, behind a barrier: rung goes from quiet to rung ->
//          add a unit
//   quiet  with the recv lock, the ring looks empty: first see the bell readable, then rung goes to
//          quiet, then see the ring still empty (barrier between), then take that unit; else rung
//   attend with the recv lock, the ring looks empty: rung goes from quiet to attended; until settle
//          writers need not ring, for the one who would hear it is awake and looks at the ring
//   settle with the recv lock, before it is given back: rung goes from attended to quiet, then
//          (barrier between) the ring is not empty -> ring
//   arm    waiter = this process if it was nobody living, else many; barrier; attended goes to
//          quiet. Then, unless the recv lock could be had and the ring is empty, add a unit
//   share  in a forked child, before anything else: waiter = many, for the child has its parent's
//          descriptors and may poll them without asking; attended goes to quiet, and then ring. It
//          enters the descriptor as its own, for its parent may end
//   enter  of those that have the bell kHolders say where. With more, and once all these are gone,
//          whoever has not rung it before does not find it: the others then wait in vain
//   make   a new one, when nobody living has the bell: rung = quiet once it can be found, then arm.
//          Of those who arm at one moment only `maker` looks whether there is one, and makes it,
//          in a few system calls. The others try again when it has told them, or is dead, and open
//          what they find then. In between they hold no lock: a maker that is stopped holds up
//          those who arm, no one else, and each of them can be interrupted, or its end closed
//   whoever takes a dead process's send or recv lock, or sets `gone`, adds a unit
// Without "first see" the reader takes the unit of a writer that publishes just then.
//
// Nobody misses a message for an attended bell. Publish, barrier, look at rung is what a writer
// does; rung = quiet, barrier, look at the ring what settle does: one sees the other. Between the
// two a poll waits longer than it must, until the reader, which does not sleep while it attends,
// takes the message or settles. If it is killed there, the only process that can be polling is
// dead: a bell is attended only by the one `waiter`, which no forked child shares its number with.
// One that asks at that moment either finds the recv lock taken, and adds a unit; or takes it later
// from the reader, settled or dead. One that is forked at that moment rings for its parent.
//
// What happens when a process dies between any two steps: a unit too many, which the next quiet()
// takes; or rung without a unit, which only a holder of the send lock leaves, or attended by the
// dead, which only a holder of the recv lock leaves: see the last rule; or a dead `maker`, whom the
// next one that arms replaces. What that one made and nobody heard of is gone with it. What it
// published can be there still, in a process that opened it to add a unit, while `rung` is what it
// was for the bell before: who replaces a maker and finds a bell sets rung to quiet and adds a
// unit. (Quiet first and then published would be no cure: who rings in between rings nothing, rung
// stays.)
//
// A unit too many is one poll that finds nothing: poll() and a recv() that has to sleep take one
// each time they find the ring empty, so whoever polls and then looks does not go round for ever.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/channels/pipe_body.hpp"

namespace millrace::runtime {

/// Held around every use of a bell's or an epoll's descriptor.
ForkMutex& bell_mutex();

/// This process's descriptor of a bell. All calls with bell_mutex(), by the descriptor's process.
class Bell {
 public:
  explicit Bell(BellState& state) noexcept : state_(state) {}
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;
  ~Bell();

  /// True once anybody waits on it. Without the mutex.
  [[nodiscard]] bool armed() const noexcept {
    // ARM bell: pipe_bell.cpp writes; seq_cst, behind the caller's barrier after publishing
    return state_.armed.load(std::memory_order_seq_cst) != 0;
  }
  /// Opens or makes it for this process to wait on. False while another living process does: try
  /// again. Does not block. Throws std::system_error.
  [[nodiscard]] bool try_arm();
  /// True when ring() would add a unit. Without the mutex, behind the publication.
  /// Memory ordering: a store-load barrier before the look.
  [[nodiscard]] bool wants_ring() const noexcept {
    shm::store_load_barrier();
    // RING bell: seq_cst, behind the publication; pairs with the stores of kQuiet
    return state_.rung.load(std::memory_order_seq_cst) == BellState::kQuiet;
  }
  /// Adds a unit if there is none since the last was taken, and nobody attends.
  void ring() noexcept;
  /// For a reader about to look at the ring: true when it must settle() before it gives the recv
  /// lock back, and ring() then unless the ring is empty. Without the mutex.
  bool attend() noexcept;
  /// Ends that. Without the mutex. Memory ordering: a store-load barrier behind it.
  void settle() noexcept;
  /// This process waits on it no more.
  void leave() noexcept;
  /// Adds a unit.
  void add_unit() noexcept;
  /// True when it is readable.
  [[nodiscard]] bool readable() noexcept;
  void take_unit() noexcept;
  [[nodiscard]] BellState& state() const noexcept { return state_; }
  /// The descriptor, -1 before try_arm().
  [[nodiscard]] int fd() const noexcept { return fd_; }
  /// Closes the descriptor.
  void forget() noexcept;

 private:
  bool open() noexcept;
  shm::Got try_claim() noexcept;
  void make();
  void take_over() noexcept;
  void enter() noexcept;
  void become_waiter() noexcept;
  void share() noexcept;
  static void share_all() noexcept;
  void list() noexcept;
  void unlist() noexcept;
  friend ForkMutex& bell_mutex();

  BellState& state_;
  int fd_ = -1;
  std::uint64_t inode_ = 0;  // of fd_
  std::uint64_t entry_ = 0;  // what this process wrote into the state
  // Among those that this process waits on, or its parent did.
  bool listed_ = false;
  Bell* next_ = nullptr;
  Bell* previous_ = nullptr;
};

}  // namespace millrace::runtime
