// Descriptors on their way between processes of the program: they lie in the kernel, as messages in
// a socketpair that all processes have inherited, each under a number that travels in place of it.
//
// The bag is opened by the first fork after an object was made through which a descriptor can
// travel (a Pipe, a Queue of more than bytes, a Pool, a Manager), or with the first descriptor on
// its way, so that whoever inherits that object inherits the bag; it is handed to executed
// children. Who was forked before and meets the others otherwise takes it from the process that
// last put something in (at first, that opened it), which the arena names: where that one has
// ended, or may not be looked into, there are two, and what lies in the other is not found. Who
// looks for a descriptor takes messages out and puts those of others back, one at a time, holding a
// file lock of the kernel's (and a mutex, for threads), which ends with its process.
//
// What happens when a process dies between any two steps: as a sender, the descriptor is in the bag
// or not; with a message in its hands, that descriptor is gone, and whoever asks for it gets an
// error. A number that nobody ever asks for stays until the program ends, but for those of a
// message that a process begins with, which say of which. While it opens the bag:
// the arena names nobody, or numbers that are no longer what their inodes say, and the next one
// opens another.
// Lost: a thread or process that holds descriptors (CPython's resource_sharer: gone with the
// sender), pidfd_getfd for all (refused where processes may not trace each other), opening it at
// any first fork (a socketpair in programs that never send a descriptor), or with the object itself
// (two descriptors that outlive it in a program that never forks).
#pragma once

#include <cstdint>

namespace millrace::runtime {

/// Puts a duplicate of `fd` into the bag. Returns its number, never 0. Throws std::system_error:
/// EBADF, ETOOMANYREFS when too many are on the way.
std::uint64_t deposit_fd(int fd);
/// A new descriptor for what is in the bag, where it stays. Throws std::system_error (ENOENT) when
/// it is not there, EMFILE when this process has no descriptor left.
int fetch_fd(std::uint64_t number);
/// Takes it out of the bag. As fetch_fd().
int withdraw_fd(std::uint64_t number);
/// Two under one number; the second may be -1, and is then.
struct FdPair {
  int first = -1;
  int second = -1;
};
/// As deposit_fd() and fetch_fd().
std::uint64_t deposit_fds(FdPair fds);
FdPair fetch_fds(std::uint64_t number);
/// Throws it, or both, away.
void discard_fd(std::uint64_t number) noexcept;
/// Throws away what is left of those that were put there inside an InMessage for process `id`.
void discard_fds_of_message(unsigned id) noexcept;

/// The bag's two descriptors, for children that are executed.
struct BagEnds {
  int in = -1;
  int out = -1;
};
/// Opens it if it is not open; {-1, -1} when there is no descriptor left. Throws std::system_error
/// when there is no arena.
BagEnds open_fd_bag();
/// There is now an object through which a descriptor can travel.
void need_fd_bag() noexcept;
/// Before every fork: open_fd_bag() if there is such an object, else nothing. A child that is
/// forked when no descriptor is left looks for it later.
void open_needed_fd_bag();
/// In an executed child: these are the program's.
void adopt_fd_bag(BagEnds ends) noexcept;

}  // namespace millrace::runtime
