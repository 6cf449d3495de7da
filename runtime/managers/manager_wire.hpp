// Requests and replies of a manager as bytes: CPython's pickles, or, between processes of one
// program, values as the program's own messages have them.
#pragma once

#include <cstddef>
#include <millrace/object.hpp>
#include <millrace/wire/buffer.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace millrace::runtime {

/// Frames that do not begin so are pickles, whose first byte is 0x80 (or below 0x80 and printable,
/// for protocols 0 and 1).
inline constexpr std::byte kOwnFrame{0x01};

/// The value of a frame. `own` tells whether frames of this program's own are to be believed.
/// Throws what unpickle() and decode_object() throw.
Object value_of_frame(std::span<const std::byte> frame, bool own);
/// Appends a frame. Throws TypeError for what cannot travel so; nothing is appended then.
void put_frame(wire::Writer& out, const Object& value, bool own);

/// A number in hexadecimal digits.
std::string hex_of(std::uint64_t number);
/// And back. Throws ValueError.
std::uint64_t number_of_hex(std::string_view text);

/// How a client of millrace's introduces itself, inside the name that accept_connection has.
struct ManagerHello {
  std::string proof;         // that it is of this program: program_proof()
  std::uint64_t client = 0;  // of this process
  std::uint64_t parent = 0;  // whose references it begins with
  int pid = 0;
};
std::string text_of_hello(const std::string& process_name, const ManagerHello& hello);
/// False for a name of CPython's.
bool hello_of_text(std::string_view text, ManagerHello& hello);
/// What the server answers to one, with its own proof; and what of an answer is that.
std::string reply_to_hello(const std::string& proof);
std::optional<std::string> proof_in_reply(const Object& value);

}  // namespace millrace::runtime
