#include <string.h>

#include <millrace/errors.hpp>

namespace millrace {
namespace {

std::string describe_loss(pid_t pid, int exitcode, bool oom, std::uint64_t first,
                          std::uint64_t last) {
  std::string text = "worker " + std::to_string(pid) + " ";
  if (exitcode < 0) {
    const char* name = ::sigabbrev_np(-exitcode);
    text += "was ended by " +
            (name ? "SIG" + std::string(name) : "signal " + std::to_string(-exitcode));
  } else {
    text += "exited with code " + std::to_string(exitcode);
  }
  if (oom) text += " (out of memory: killed by the kernel)";
  text += first == last
              ? " while it ran item " + std::to_string(first)
              : " while it ran items " + std::to_string(first) + " to " + std::to_string(last);
  return text;
}

}  // namespace

WorkerLost::WorkerLost(pid_t pid, int exitcode, bool oom, std::uint64_t first, std::uint64_t last)
    : ProcessError(describe_loss(pid, exitcode, oom, first, last)),
      pid_(pid),
      exitcode_(exitcode),
      oom_(oom),
      first_(first),
      last_(last) {}

}  // namespace millrace
