// Transports that other programs use between two processes of a machine.
#pragma once

#include <cstddef>

namespace bench {

enum class KernelPeer { pipe, socketpair, boost_message_queue };
inline constexpr KernelPeer kKernelPeers[] = {KernelPeer::pipe, KernelPeer::socketpair,
                                              KernelPeer::boost_message_queue};

const char* name_of(KernelPeer peer);
/// Round trip of a message in ns, blocking reads and writes at both ends.
double kernel_round_trip(KernelPeer peer, std::size_t bytes);
/// One way, in million messages a second.
double kernel_stream(KernelPeer peer, std::size_t bytes);

}  // namespace bench
