#include "kmers/progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace kmers {

using Clock = std::chrono::steady_clock;

ProgressLine::ProgressLine(std::string label, bool shown)
    : label_(std::move(label)),
      shown_(shown),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()) {}

ProgressLine::~ProgressLine() {
  if (open_) std::fputc('\n', stderr);
}

void ProgressLine::update(std::uint64_t done, std::uint64_t total) {
  done_ = done;
  total_ = total;
  const auto now = Clock::now();
  if (!shown_ || !terminal_ || now - drawn_ < std::chrono::milliseconds(80)) return;
  drawn_ = now;
  draw();
  open_ = true;
}

void ProgressLine::finish() {
  if (!shown_) return;
  draw();
  std::fputc('\n', stderr);
  open_ = false;
}

void ProgressLine::draw() const {
  constexpr std::size_t kColumns = 30;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double megabytes = static_cast<double>(done_) / 1e6;
  const char* const begin = terminal_ ? "\r\033[K" : "";
  if (total_ == 0) {
    std::fprintf(stderr, "%s%s: %.1f MB in %.1f s", begin, label_.c_str(), megabytes, seconds);
    return;
  }
  const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  std::string bar(static_cast<std::size_t>(share * kColumns), '#');
  bar.resize(kColumns, '.');
  std::fprintf(stderr, "%s%s [%s] %3.0f %%, %.1f MB in %.1f s", begin, label_.c_str(), bar.c_str(),
               100 * share, megabytes, seconds);
}

}  // namespace kmers
