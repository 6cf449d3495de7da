#include <millrace/bytes.hpp>
#include <ostream>

namespace millrace {

std::string Bytes::repr() const {
  static constexpr char kHex[] = "0123456789abcdef";
  const bool plain = data_.find('\'') == std::string::npos || data_.find('"') != std::string::npos;
  const char quote = plain ? '\'' : '"';
  std::string text{'b', quote};
  for (const char c : data_) {
    const auto value = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      text += {'\\', c};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      text += {'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'};
    } else if (value < 32 || value > 126) {
      text += {'\\', 'x', kHex[value >> 4], kHex[value & 15]};
    } else {
      text += c;
    }
  }
  return text + quote;
}

std::ostream& operator<<(std::ostream& out, const Bytes& bytes) { return out << bytes.repr(); }

}  // namespace millrace
