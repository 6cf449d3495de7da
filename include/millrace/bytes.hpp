// mp::Bytes: an owned run of bytes, distinct from text. Python: bytes.
#pragma once

#include <compare>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <ostream>
#include <ranges>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace millrace {

class Bytes;

/// A contiguous range of trivially copyable elements, taken as the bytes it occupies.
template <class R>
concept ByteSource = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
                     std::is_trivially_copyable_v<std::ranges::range_value_t<R>> &&
                     !std::is_pointer_v<std::ranges::range_value_t<R>> &&
                     !std::is_convertible_v<const R&, std::string_view> &&
                     !std::same_as<std::remove_cvref_t<R>, Bytes>;

/// Owning, compared bytewise. Implicit from text (a literal without its NUL) and from any
/// contiguous range of trivially copyable elements. Python: bytes.
class Bytes {
 public:
  using value_type = std::byte;
  using iterator = std::byte*;
  using const_iterator = const std::byte*;
  using size_type = std::size_t;

  Bytes() noexcept = default;
  Bytes(std::string_view text) : data_(text) {}        // NOLINT(google-explicit-constructor)
  Bytes(const char* text) : data_(text) {}             // NOLINT(google-explicit-constructor)
  Bytes(std::string text) : data_(std::move(text)) {}  // NOLINT(google-explicit-constructor)
  /// The bytes of a contiguous range.
  template <ByteSource R>
  Bytes(const R& range)  // NOLINT(google-explicit-constructor)
      : data_(reinterpret_cast<const char*>(std::ranges::data(range)),
              std::ranges::size(range) * sizeof(std::ranges::range_value_t<R>)) {}
  Bytes(const void* from, std::size_t byte_count)
      : data_(static_cast<const char*>(from), byte_count) {}

  [[nodiscard]] std::byte* data() noexcept { return reinterpret_cast<std::byte*>(data_.data()); }
  [[nodiscard]] const std::byte* data() const noexcept {
    return reinterpret_cast<const std::byte*>(data_.data());
  }
  [[nodiscard]] std::size_t size() const noexcept { return data_.size(); }
  [[nodiscard]] bool empty() const noexcept { return data_.empty(); }
  /// The bytes as text.
  [[nodiscard]] std::string_view view() const noexcept { return data_; }
  [[nodiscard]] iterator begin() noexcept { return data(); }
  [[nodiscard]] iterator end() noexcept { return data() + size(); }
  [[nodiscard]] const_iterator begin() const noexcept { return data(); }
  [[nodiscard]] const_iterator end() const noexcept { return data() + size(); }
  /// Grows with zero bytes or cuts the end off.
  void resize(std::size_t byte_count) { data_.resize(byte_count); }

  friend bool operator==(const Bytes&, const Bytes&) noexcept = default;
  friend std::strong_ordering operator<=>(const Bytes& a, const Bytes& b) noexcept {
    return a.data_.compare(b.data_) <=> 0;
  }
  /// Python's repr: b'text', other bytes as \xNN.
  friend std::ostream& operator<<(std::ostream& out, const Bytes& bytes) {
    return out << bytes.repr();
  }
  /// Python's repr: b'text', other bytes as \xNN.
  [[nodiscard]] std::string repr() const {
    static constexpr char kHex[] = "0123456789abcdef";
    const bool both = data_.find('\'') != std::string::npos && data_.find('"') == std::string::npos;
    const char quote = both ? '"' : '\'';
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

 private:
  std::string data_;
};

}  // namespace millrace
