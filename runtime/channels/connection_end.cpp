#include "runtime/channels/connection_end.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <millrace/errors.hpp>
#include <system_error>

namespace millrace::runtime {

std::size_t ConnectionEnd::receive_into(std::span<std::byte> room, FrameBuffer& rest) {
  receive(rest, std::numeric_limits<std::size_t>::max());
  if (rest.size() <= room.size() && rest.size() != 0) {
    std::memcpy(room.data(), rest.data(), rest.size());
  }
  return rest.size();
}

bool ConnectionEnd::something_there(Waits waits) {
  return poll(waits == Waits::no ? Timeout(std::chrono::seconds(0)) : Timeout());
}

std::uint64_t ConnectionEnd::depart() {
  throw TypeError("this connection cannot travel to another process");
}

int ConnectionEnd::duplicate() {
  throw TypeError(
      "an end of a Pipe cannot be sent over a socket: it lies in memory of this program alone. "
      "Within the program send it over a Pipe or Queue, or as an argument; for another program let "
      "a Listener and a Client make the connection");
}

void ConnectionEnd::refuse_rest() noexcept {
  readable_.store(false, std::memory_order_relaxed);  // the flag alone
  if (!writable()) close();
}

void throw_wrong_direction(const char* text) {
  throw std::system_error(EBADF, std::generic_category(), text);
}

void throw_handle_closed() {
  throw std::system_error(EBADF, std::generic_category(), "handle is closed");
}

void throw_end_of_file() { throw EOFError("the other end of the connection is closed"); }

void throw_end_inside_message() {
  throw std::system_error(EIO, std::generic_category(), "got end of file during message");
}

void throw_bad_message_length() {
  throw std::system_error(EMSGSIZE, std::generic_category(), "bad message length");
}

void throw_broken_pipe() {
  throw std::system_error(EPIPE, std::generic_category(),
                          "the other end of the connection is closed");
}

}  // namespace millrace::runtime
