// A progress bar on stderr, by the bytes read.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace kmers {

/// Redraws one line on a terminal; elsewhere only the last state is printed, as a line of its own.
class ProgressLine {
 public:
  explicit ProgressLine(std::string label, bool shown);
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  /// Ends a line that was begun.
  ~ProgressLine();
  /// `total` 0: unknown.
  void update(std::uint64_t done, std::uint64_t total);
  /// Draws the last state and ends the line.
  void finish();

 private:
  void draw() const;

  std::string label_;
  bool shown_;
  bool terminal_;
  bool open_ = false;  // a line is begun
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_{};
};

}  // namespace kmers
