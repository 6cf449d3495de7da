// Descriptors that are on their way to another program: CPython's resource_sharer.
//
// A pickle holds only where to ask and a key. Who reads it calls that address (AF_UNIX, private),
// both sides prove that they have the authkey of the sender's process, the caller says {key, pid},
// and gets one byte with the descriptor. Each is given out once.
//
// A process has a sharer, a thread that listens, while descriptors wait in it: the first makes it,
// and with the last one it ends, before that one is given out.
//
// Invariants
// 1. The mutex guards what waits and who asks. Nothing blocks inside it, also not giving a
//    descriptor out: a fork never copies one that is in nobody's hands.
// 2. Handshakes and requests go on side by side; a caller that is silent disturbs nobody and is
//    dropped at its deadline.
// 3. A forked child has no sharer: it closes its copies before fork() returns, and leaves the
//    socket's file to the parent. Its own first descriptor makes its own.
// 4. A Sharer belongs to its thread, which destroys it.
//
// What happens when a process dies between any two steps.
// The sender: the kernel closes the socket and what waits; who asks from then on finds nobody
// (ECONNREFUSED, ENOENT), who is asking the end, and its recv() says which. A killed one's file
// goes when the next process of its user makes a folder (server_folder.hpp). At std::exit the
// children are waited for, and served, first.
// The receiver: before it has asked, the descriptor waits until the sender ends, as in CPython, for
// nobody knows of the pickle; the peer of that Connection sees no end until then. Having asked:
// given out, it is in the dead one's socket, and goes with it.
// Either, while the message is not sent (an error, no memory): what its pickle named is taken back.
// Lost: a process that serves (it would have to be told of every descriptor, and of every end); a
// limit of time (who reads a queue late would find nothing).
#pragma once

#include <cstdint>
#include <millrace/address.hpp>

#include "runtime/base/descriptor.hpp"

namespace millrace::runtime {

/// Where a descriptor waits.
struct SharedFd {
  connection::Address address;
  std::uint64_t key = 0;
};

/// Has a descriptor wait to be taken once, or until this thread's DepartingHandles take it back.
/// Throws std::system_error: EMFILE, EAGAIN for a thread, EACCES for the folder of temporary files.
SharedFd share_fd(Descriptor fd);

}  // namespace millrace::runtime
