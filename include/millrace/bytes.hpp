// mp::Bytes: an owned run of bytes, distinct from text. Python: bytes.
#pragma once

#include <compare>
#include <cstddef>
#include <iosfwd>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace millrace {

class Bytes;

/// The element type of what std::data() points to.
template <class R>
using element_t = std::remove_cvref_t<decltype(*std::data(std::declval<const R&>()))>;

/// A contiguous range of trivially copyable elements, taken as the bytes it occupies.
template <class R>
concept ByteSource = requires(const R& range) {
  {std::data(range) + std::size(range)};
}
&&std::is_trivially_copyable_v<element_t<R>> && !std::is_pointer_v<element_t<R>> &&
    !std::is_convertible_v<const R&, std::string_view> &&
    !std::is_same_v<std::remove_cvref_t<R>, Bytes>;

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
      : Bytes(std::data(range), std::size(range) * sizeof(element_t<R>)) {}
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
  [[nodiscard]] std::string repr() const;
  friend std::ostream& operator<<(std::ostream& out, const Bytes& bytes);

 private:
  std::string data_;
};

}  // namespace millrace
