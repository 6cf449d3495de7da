// Text is UTF-8; as in Python a code point may also be half of a surrogate pair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace millrace::runtime {

/// What next_code_point() gives for a byte that begins none.
inline constexpr char32_t kNoCodePoint = 0xffffffff;

/// The code point at `at`, which is moved behind it; behind one byte for kNoCodePoint.
char32_t next_code_point(const char*& at, const char* end) noexcept;
void put_code_point(std::string& out, char32_t code_point);
bool is_utf8(std::string_view text) noexcept;
bool is_ascii(std::string_view text) noexcept;
/// How many bytes begin a code point.
std::size_t count_code_points(std::string_view text) noexcept;
/// Python's str.isprintable() of one code point: Unicode 14.
bool is_printable(char32_t code_point) noexcept;
/// Appends Python's repr of a str. A byte that is no UTF-8 shows as Python's surrogateescape.
void put_text_repr(std::string& out, std::string_view text);

}  // namespace millrace::runtime
