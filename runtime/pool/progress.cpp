// The progress bar.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <millrace/pool_options.hpp>
#include <string>
#include <utility>

#include "runtime/process/child.hpp"

namespace millrace {
namespace {

class Bar {
 public:
  explicit Bar(std::string label)
      : label_(std::move(label)), terminal_(::isatty(STDERR_FILENO) == 1) {}

  void show(const Progress& progress) {
    const bool last = progress.total != 0 && progress.done >= progress.total;
    if (!terminal_ && !last) return;
    std::string line = label_.empty() ? "" : label_ + " ";
    line += progress.total != 0 ? share(progress) : std::to_string(progress.done) + " done";
    const double seconds = progress.elapsed.count();
    if (seconds > 0) line += rate(static_cast<double>(progress.done) / seconds);
    if (last) {
      line += ", " + time_text(seconds);
    } else if (progress.total != 0 && progress.done != 0) {
      const auto left = static_cast<double>(progress.total - progress.done);
      line += ", " + time_text(seconds * left / static_cast<double>(progress.done)) + " left";
    }
    runtime::print_error(terminal_ ? "\r" + line + "\033[K" + (last ? "\n" : "") : line + "\n");
  }

 private:
  static std::string share(const Progress& progress) {
    constexpr std::uint64_t kWidth = 24;
    const std::uint64_t done = std::min(progress.done, progress.total);
    const std::uint64_t full = kWidth * done / progress.total;
    std::string bar = "[" + std::string(full, '#') + std::string(kWidth - full, '.') + "] ";
    char percent[16];
    std::snprintf(percent, sizeof percent, "%3d %%", static_cast<int>(100 * done / progress.total));
    return bar + percent + " " + std::to_string(progress.done) + "/" +
           std::to_string(progress.total);
  }
  static std::string rate(double per_second) {
    const char* unit = "";
    for (const char* bigger : {"k", "M", "G"}) {
      if (per_second < 10000) break;
      per_second /= 1000;
      unit = bigger;
    }
    char text[48];
    std::snprintf(text, sizeof text, ", %.0f%s/s", per_second, unit);
    return text;
  }
  static std::string time_text(double seconds) {
    char text[48];
    if (seconds < 60) {
      std::snprintf(text, sizeof text, "%.1f s", seconds);
    } else {
      const auto whole = static_cast<long>(seconds);
      std::snprintf(text, sizeof text, "%ld:%02ld min", whole / 60, whole % 60);
    }
    return text;
  }

  std::string label_;
  bool terminal_;
};

}  // namespace

ProgressSink progress_bar(std::string label) {
  return [bar = std::make_shared<Bar>(std::move(label))](const Progress& progress) {
    bar->show(progress);
  };
}

}  // namespace millrace
