#include "runtime/base/affinity_mask.hpp"

#include <sched.h>

#include <cerrno>

namespace millrace::runtime {
namespace {

cpu_set_t* as_set(std::vector<unsigned long>& words) noexcept {
  return reinterpret_cast<cpu_set_t*>(words.data());
}

const AffinityMask& read_initial() {
  static const AffinityMask& mask = *new AffinityMask(AffinityMask::of_this_thread());
  return mask;
}
// Read while the program loads: before it, or anybody, has bound a thread.
[[maybe_unused]] const AffinityMask& g_read_at_start = read_initial();

}  // namespace

AffinityMask AffinityMask::of_this_thread() {
  // The kernel refuses a buffer smaller than its own mask; no machine has 2^20 cpus.
  for (std::size_t words = 16; words <= (1u << 14); words *= 2) {
    AffinityMask mask;
    mask.words_.resize(words);
    if (::sched_getaffinity(0, words * sizeof(unsigned long), as_set(mask.words_)) == 0) {
      return mask;
    }
    if (errno != EINVAL) break;
  }
  return {};
}

const AffinityMask& AffinityMask::initial() noexcept { return read_initial(); }

bool AffinityMask::apply() const noexcept {
  return !words_.empty() &&
         ::sched_setaffinity(0, words_.size() * sizeof(unsigned long),
                             reinterpret_cast<const cpu_set_t*>(words_.data())) == 0;
}

bool AffinityMask::apply_if_wider(const AffinityMask& current) const noexcept {
  // Without a mask to go back to the thread keeps the one it has.
  return !current.words_.empty() && *this != current && apply();
}

}  // namespace millrace::runtime
