// How the two ends of a socket find out that they are processes of one program, and may believe
// each other's pointers and numbers of functions, when all that strangers may send is data.
//
// A number that is in the program's arena alone is the key of an HMAC over who says it and over the
// socket's two ends, as the kernel tells them on either side: addresses and ports, or the path
// listened at and the process that connected to it. So the number never leaves the program, and a
// proof is worth nothing over another socket: neither to the peer that it was said to, nor to one
// that passes on what two others say. Stateless; any thread.
#pragma once

#include <string>
#include <string_view>

namespace millrace::runtime {

/// What the process that connected, and the one that accepted, know of their socket: the same text.
/// Empty: unknown, nothing can be proven.
std::string ends_seen_by_client(int socket);
std::string ends_seen_by_server(int socket);

/// What `who`, "client" or "server", says over a socket with these ends: hexadecimal digits, or
/// nothing. Throws std::system_error when the kernel has no random bytes.
std::string program_proof(std::string_view who, std::string_view ends);
/// Whether `said` is that, and not empty. Takes the same time wherever they differ.
bool proves_program(std::string_view said, std::string_view who, std::string_view ends);

}  // namespace millrace::runtime
