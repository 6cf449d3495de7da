// The opcodes of protocol 0, whose arguments are lines of text.
#include <charconv>
#include <utility>

#include "runtime/base/utf8.hpp"
#include "runtime/values/pickle_opcodes.hpp"
#include "runtime/values/unpickler.hpp"

namespace millrace::runtime {
namespace {

template <class T>
T number_in(std::string_view line, const char* what) {
  T value{};
  const char* const end = line.data() + line.size();
  const auto [stopped, error] = std::from_chars(line.data(), end, value);
  if constexpr (std::is_integral_v<T>) {
    if (error == std::errc::result_out_of_range) {
      throw OverflowError("an int in the pickle is beyond 64 bits");
    }
  }
  if (error != std::errc() || stopped != end)
    refuse(std::string("a line of a pickle is no ") + what);
  return value;
}

std::uint64_t place_in(std::string_view line) {
  return number_in<std::uint32_t>(line, "place in the memo");
}

int hex_digit(char digit) noexcept {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

// The number of `digits` hexadecimal digits at `at`, which is moved behind them.
char32_t hex_number(std::string_view text, std::size_t& at, std::size_t digits) {
  if (text.size() - at < digits) refuse("an escape in a str is cut off");
  char32_t value = 0;
  for (const std::size_t end = at + digits; at != end; ++at) {
    const int digit = hex_digit(text[at]);
    if (digit < 0) refuse("an escape in a str is not hexadecimal");
    value = value << 4 | static_cast<char32_t>(digit);
  }
  return value;
}

// Latin-1 with \uXXXX and \UXXXXXXXX: Python's raw-unicode-escape.
std::string raw_unicode(std::string_view line) {
  std::string text;
  for (std::size_t i = 0; i < line.size();) {
    const bool escape = line[i] == '\\' && i + 1 < line.size();
    if (!escape || (line[i + 1] != 'u' && line[i + 1] != 'U')) {
      put_code_point(text, static_cast<unsigned char>(line[i++]));
      continue;
    }
    const std::size_t digits = line[i + 1] == 'u' ? 4 : 8;
    i += 2;
    const char32_t code = hex_number(line, i, digits);
    if (code > 0x10ffff) refuse("an escape in a str is no code point");
    put_code_point(text, code);
  }
  return text;
}

// A str of Python 2 in quotes, escaped.
std::string quoted(std::string_view line) {
  if (line.size() < 2 || (line[0] != '\'' && line[0] != '"') || line.back() != line[0]) {
    refuse("a str of Python 2 without its quotes");
  }
  line = line.substr(1, line.size() - 2);
  static constexpr std::string_view kEscapes = "\\'\"nrtabfv0";
  static constexpr std::string_view kMeant("\\'\"\n\r\t\a\b\f\v\0", 11);
  std::string text;
  for (std::size_t i = 0; i < line.size();) {
    if (line[i] != '\\') {
      text += line[i++];
      continue;
    }
    if (++i == line.size()) refuse("a str ends within an escape");
    const char kind = line[i++];
    if (kind == 'x') {
      text += static_cast<char>(hex_number(line, i, 2));
    } else if (const std::size_t known = kEscapes.find(kind); known != std::string_view::npos) {
      text += kMeant[known];
    } else {
      text += {'\\', kind};
    }
  }
  return text;
}

std::string_view checked_ascii(std::string_view text) {
  if (!is_ascii(text)) refuse("a str of Python 2 is not ASCII");
  return text;
}

}  // namespace

bool Unpickler::step_line(unsigned char code) {
  switch (code) {
    case opcode::int_line: {
      const std::string_view line = in_.line();
      if (line == "00" || line == "01") {
        push(object_of_bool(line == "01"));
      } else {
        push(object_of_integer(number_in<std::int64_t>(line, "int")));
      }
      break;
    }
    case opcode::long_line: {
      std::string_view line = in_.line();
      if (line.ends_with('L')) line.remove_suffix(1);
      push(object_of_integer(number_in<std::int64_t>(line, "int")));
      break;
    }
    case opcode::float_line:
      push(object_of_real(number_in<double>(in_.line(), "float")));
      break;
    case opcode::unicode_line:
      push_text(raw_unicode(in_.line()));
      break;
    case opcode::string_line:
      push_text(checked_ascii(quoted(in_.line())));
      break;
    case opcode::binstring:
      push_text(checked_ascii(in_.take(in_.number<std::uint32_t>())));
      break;
    case opcode::short_binstring:
      push_text(checked_ascii(in_.take(in_.number<std::uint8_t>())));
      break;
    case opcode::put_line:
      memoize(place_in(in_.line()));
      break;
    case opcode::get_line:
      recall(place_in(in_.line()));
      break;
    default:
      refuse("opcode " + std::to_string(code) + " is none that data needs");
  }
  return true;
}

}  // namespace millrace::runtime
