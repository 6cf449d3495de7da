// k-mers as numbers: two bits a base, A C G T = 0 1 2 3, the first base in the highest bits. With
// this code the complement of a base is 3 - base.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace kmers {

inline constexpr int kMaxK = 31;

/// What a character of a sequence is: below 4 a base, else one of these.
enum Code : std::uint8_t { kSplit = 4, kEndOfLine = 5, kBad = 6 };

/// The code of every character. IUPAC's ambiguity codes, U and gaps split k-mers; case is ignored.
inline constexpr std::array<std::uint8_t, 256> kCodes = [] {
  std::array<std::uint8_t, 256> codes{};
  codes.fill(kBad);
  for (const char c : {'R', 'Y', 'S', 'W', 'K', 'M', 'B', 'D', 'H', 'V', 'N', 'U'}) {
    codes[static_cast<std::uint8_t>(c)] = codes[static_cast<std::uint8_t>(c | 0x20)] = kSplit;
  }
  codes['-'] = codes['.'] = kSplit;
  codes['\n'] = codes['\r'] = kEndOfLine;
  codes['A'] = codes['a'] = 0;
  codes['C'] = codes['c'] = 1;
  codes['G'] = codes['g'] = 2;
  codes['T'] = codes['t'] = 3;
  return codes;
}();

/// The window of the last k bases, both strands at once.
class Window {
 public:
  explicit Window(int k) : k_(k), shift_(2 * (k - 1)), mask_((std::uint64_t{1} << (2 * k)) - 1) {}

  void reset() { length_ = 0; }
  /// Takes the next base (0..3); true when the window holds k of them.
  bool push(std::uint64_t base) {
    forward_ = ((forward_ << 2) | base) & mask_;
    reverse_ = (reverse_ >> 2) | ((3 - base) << shift_);
    return ++length_ >= k_;
  }
  /// The smaller of the k-mer and its reverse complement: the same for both strands.
  [[nodiscard]] std::uint64_t canonical() const {
    return forward_ < reverse_ ? forward_ : reverse_;
  }

 private:
  std::int64_t k_;
  int shift_;
  std::uint64_t mask_;
  std::uint64_t forward_ = 0;
  std::uint64_t reverse_ = 0;
  std::int64_t length_ = 0;
};

/// The letters of a k-mer.
inline std::string letters(std::uint64_t kmer, int k) {
  std::string text(static_cast<std::size_t>(k), 'A');
  for (auto at = text.rbegin(); at != text.rend(); ++at, kmer >>= 2) *at = "ACGT"[kmer & 3];
  return text;
}

/// Spreads k-mers over 64 bits; the high bits are the good ones.
inline std::uint64_t mix(std::uint64_t key) {
  key ^= key >> 32;
  key *= 0xd6e8feb86659fd93U;
  key ^= key >> 32;
  return key * 0xd6e8feb86659fd93U;
}

}  // namespace kmers
