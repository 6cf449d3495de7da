#include "kmers/scan.hpp"

#include <array>
#include <cstdio>
#include <string>
#include <string_view>

#include "kmers/input_error.hpp"
#include "kmers/kmer.hpp"

namespace kmers {
namespace {

class Scanner {
 public:
  Scanner(const Batch& batch, int k, const KmerSink& sink)
      : batch_(batch), window_(k), sink_(sink), rest_(batch.text), line_(batch.first_line) {}

  Tally run() {
    if (batch_.format == Format::fasta) {
      fasta();
    } else {
      while (!rest_.empty()) fastq_record();
    }
    flush();
    return tally_;
  }

 private:
  void fasta() {
    // Too short to hold a k-mer, and counted already among the bases of the batch before.
    sequence(batch_.context);
    tally_.bases = 0;
    bool inside = batch_.mid_line;
    for (; !rest_.empty(); inside = false, ++line_) {
      const std::string_view text = take_line();
      if (!inside && text.starts_with('>')) {
        window_.reset();
        ++tally_.records;
      } else {
        sequence(text);
      }
    }
  }

  void fastq_record() {
    const std::string_view header = take_line();
    if (header.empty() && rest_.find_first_not_of("\r\n") == rest_.npos) {
      rest_ = {};  // blank lines at the end of the file
      return;
    }
    if (!header.starts_with('@')) fail("a FASTQ record starts with '@', not " + name_of(header));
    ++tally_.records;
    next_line("sequence");
    const std::string_view bases = take_line();
    window_.reset();
    sequence(bases);
    next_line("'+' line");
    const std::string_view plus = take_line();
    if (!plus.starts_with('+')) fail("expected the '+' line of a record, not " + name_of(plus));
    next_line("qualities");
    const std::string_view qualities = take_line();
    if (qualities.size() != bases.size()) {
      fail("length mismatch: " + std::to_string(qualities.size()) + " qualities for " +
           std::to_string(bases.size()) + " bases");
    }
    for (const char c : qualities) {
      if (c < '!' || c > '~') fail("bad character " + name_of({&c, 1}) + " in the qualities");
    }
    ++line_;
  }

  void sequence(std::string_view text) {
    Window window = window_;  // in registers
    for (const char c : text) {
      const std::uint8_t code = kCodes[static_cast<std::uint8_t>(c)];
      if (code < kSplit) {
        if (window.push(code)) emit(window.canonical());
      } else if (code == kSplit) {
        window.reset();
      } else {
        fail("bad character " + name_of({&c, 1}) + " in the sequence");
      }
    }
    window_ = window;
    tally_.bases += text.size();
  }

  void emit(std::uint64_t kmer) {
    buffer_[filled_++] = kmer;
    if (filled_ == buffer_.size()) flush();
  }

  void flush() {
    tally_.kmers += filled_;
    sink_(std::span(buffer_).first(filled_));
    filled_ = 0;
  }

  // The next line without its end, which may be \n or \r\n.
  std::string_view take_line() {
    const std::size_t end = rest_.find('\n');
    std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end == rest_.npos ? rest_.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
  }

  void next_line(const std::string& what) {
    if (rest_.empty()) fail("the file ends before the " + what + " of a record");
    ++line_;
  }

  static std::string name_of(std::string_view text) {
    if (text.empty()) return "an empty line";
    const auto c = static_cast<unsigned char>(text[0]);
    if (c > ' ' && c <= '~') return "'" + std::string(1, text[0]) + "'";
    std::array<char, 8> hex{};
    std::snprintf(hex.data(), hex.size(), "0x%02x", c);
    return hex.data();
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(batch_.file, line_, what);
  }

  const Batch& batch_;
  Window window_;
  const KmerSink& sink_;
  std::string_view rest_;
  std::uint64_t line_;
  Tally tally_;
  std::array<std::uint64_t, 4096> buffer_{};
  std::size_t filled_ = 0;
};

}  // namespace

Tally scan(const Batch& batch, int k, const KmerSink& sink) {
  return Scanner(batch, k, sink).run();
}

}  // namespace kmers
