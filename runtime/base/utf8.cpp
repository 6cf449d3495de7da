#include "runtime/base/utf8.hpp"

#include <cstring>

namespace millrace::runtime {
namespace {

constexpr char kHex[] = "0123456789abcdef";

bool continues(const char* at) noexcept { return (static_cast<unsigned char>(*at) & 0xc0) == 0x80; }
char32_t low_bits(const char* at) noexcept { return static_cast<unsigned char>(*at) & 0x3fU; }

void put_hex(std::string& out, char32_t value, int digits) {
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += kHex[(value >> shift) & 15];
}

void put_escaped(std::string& out, char32_t code_point) {
  if (code_point <= 0xff) {
    out += "\\x";
    put_hex(out, code_point, 2);
  } else if (code_point <= 0xffff) {
    out += "\\u";
    put_hex(out, code_point, 4);
  } else {
    out += "\\U";
    put_hex(out, code_point, 8);
  }
}

}  // namespace

char32_t next_code_point(const char*& at, const char* end) noexcept {
  const auto first = static_cast<unsigned char>(*at);
  const auto left = end - at;
  char32_t code = kNoCodePoint;
  int length = 1;
  if (first < 0x80) {
    code = first;
  } else if (first >= 0xc2 && first < 0xe0 && left >= 2 && continues(at + 1)) {
    code = (first & 0x1fU) << 6 | low_bits(at + 1);
    length = 2;
  } else if (first >= 0xe0 && first < 0xf0 && left >= 3 && continues(at + 1) && continues(at + 2)) {
    code = (first & 0xfU) << 12 | low_bits(at + 1) << 6 | low_bits(at + 2);
    length = 3;
    if (code < 0x800) code = kNoCodePoint;
  } else if (first >= 0xf0 && first < 0xf5 && left >= 4 && continues(at + 1) && continues(at + 2) &&
             continues(at + 3)) {
    code = (first & 7U) << 18 | low_bits(at + 1) << 12 | low_bits(at + 2) << 6 | low_bits(at + 3);
    length = 4;
    if (code < 0x10000 || code > 0x10ffff) code = kNoCodePoint;
  }
  at += code == kNoCodePoint ? 1 : length;
  return code;
}

void put_code_point(std::string& out, char32_t code_point) {
  const auto put = [&out](char32_t bits) { out += static_cast<char>(bits); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | code_point >> 6);
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3f));
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

bool is_ascii(std::string_view text) noexcept {
  constexpr std::uint64_t kHigh = 0x8080808080808080U;
  const char* at = text.data();
  std::size_t left = text.size();
  std::uint64_t seen = 0;
  for (; left >= 8; at += 8, left -= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, 8);
    seen |= word;
  }
  if (text.size() >= 8) {  // the last 8 bytes, some of them again
    std::uint64_t word = 0;
    std::memcpy(&word, at + left - 8, 8);
    seen |= word;
  } else {
    for (; left > 0; ++at, --left) seen |= static_cast<unsigned char>(*at);
  }
  return (seen & kHigh) == 0;
}

bool is_utf8(std::string_view text) noexcept {
  if (is_ascii(text)) return true;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    if (next_code_point(at, end) == kNoCodePoint) return false;
  }
  return true;
}

std::size_t count_code_points(std::string_view text) noexcept {
  std::size_t count = 0;
  for (const char& each : text) count += continues(&each) ? 0 : 1;
  return count;
}

void put_text_repr(std::string& out, std::string_view text) {
  const bool apostrophe = text.find('\'') != std::string_view::npos;
  const char quote = apostrophe && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const char* const from = at;
    const char32_t code = next_code_point(at, end);
    if (code == kNoCodePoint) {
      put_escaped(out, 0xdc00U | static_cast<unsigned char>(*from));
    } else if (code == '\\' || code == static_cast<unsigned char>(quote)) {
      out += {'\\', *from};
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += {'\\', code == '\n' ? 'n' : code == '\r' ? 'r' : 't'};
    } else if (is_printable(code)) {
      out.append(from, at);
    } else {
      put_escaped(out, code);
    }
  }
  out += quote;
}

}  // namespace millrace::runtime
