#include "sched/cpu_list.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <iterator>
#include <memory>
#include <millrace/errors.hpp>
#include <system_error>

namespace millrace::sched {
namespace {

[[noreturn]] void bad(std::string_view what, std::string_view part, std::string_view text) {
  throw ValueError(std::string(what) + " '" + std::string(part) + "' in cpu list '" +
                   std::string(text) + "'");
}

int parse_number(std::string_view part, std::string_view item, std::string_view text) {
  int value = -1;
  const char* const end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, value);
  if (part.empty() || part.front() == '-' || stop != end) bad("bad item", item, text);
  if (error != std::errc() || value > kMaxCpu) bad("too large a number", item, text);
  return value;
}

CpuSet affinity_of(pid_t pid) {
  for (std::size_t cpus = 1024; cpus <= kMaxCpu + 1; cpus *= 2) {
    const std::size_t size = CPU_ALLOC_SIZE(cpus);
    const auto release = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(release)> mask(CPU_ALLOC(cpus), release);
    if (!mask) break;
    CPU_ZERO_S(size, mask.get());
    if (sched_getaffinity(pid, size, mask.get()) == 0) {
      CpuSet result;
      for (std::size_t cpu = 0; cpu < cpus; ++cpu) {
        if (CPU_ISSET_S(cpu, size, mask.get())) result.push_back(static_cast<int>(cpu));
      }
      return result;
    }
    if (errno != EINVAL) break;  // EINVAL: the kernel's mask is wider
  }
  throw std::system_error(errno, std::generic_category(),
                          "sched_getaffinity of process " + std::to_string(pid));
}

}  // namespace

CpuSet parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  std::string_view rest = text;
  for (;;) {
    const std::size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const std::size_t dash = item.find('-');
    const std::size_t colon = item.find(':');
    const bool range = dash != std::string_view::npos;
    if (colon != std::string_view::npos && (!range || colon < dash)) bad("bad item", item, text);
    const int first = parse_number(item.substr(0, dash), item, text);
    int last = first;
    int stride = 1;
    if (range) {
      const std::size_t length = colon == std::string_view::npos ? colon : colon - dash - 1;
      last = parse_number(item.substr(dash + 1, length), item, text);
    }
    if (colon != std::string_view::npos) stride = parse_number(item.substr(colon + 1), item, text);
    if (last < first) bad("range runs backwards:", item, text);
    if (stride == 0) bad("stride is zero:", item, text);
    if (cpus.size() > kMaxCpu) bad("too many cpus at", item, text);
    for (int cpu = first; cpu <= last; cpu += stride) cpus.push_back(cpu);
    if (comma == std::string_view::npos) return make_cpu_set(std::move(cpus));
    rest.remove_prefix(comma + 1);
  }
}

std::string format_cpu_list(const CpuSet& cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += std::to_string(cpus[i]);
    if (last > i) text += '-' + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

CpuSet parse_cpu_mask(std::string_view text) {
  std::string_view digits = text;
  if (digits.starts_with("0x") || digits.starts_with("0X")) digits.remove_prefix(2);
  std::vector<int> cpus;
  int bit = 0;
  bool any = false;
  for (auto at = digits.rbegin(); at != digits.rend(); ++at) {
    if (*at == ',' && any) continue;
    int value = 0;
    const auto [stop, error] = std::from_chars(&*at, &*at + 1, value, 16);
    if (error != std::errc() || bit > kMaxCpu) {
      throw ValueError("bad character '" + std::string(1, *at) + "' in cpu mask '" +
                       std::string(text) + "'");
    }
    for (int i = 0; i < 4; ++i) {
      if ((value >> i & 1) != 0) cpus.push_back(bit + i);
    }
    bit += 4;
    any = true;
  }
  if (!any) throw ValueError("empty cpu mask '" + std::string(text) + "'");
  return cpus;
}

CpuSet make_cpu_set(std::vector<int> cpus) {
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

CpuSet cpu_union(const CpuSet& a, const CpuSet& b) {
  CpuSet result;
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

CpuSet cpu_intersection(const CpuSet& a, const CpuSet& b) {
  CpuSet result;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

CpuSet cpu_difference(const CpuSet& a, const CpuSet& b) {
  CpuSet result;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

bool is_subset(const CpuSet& part, const CpuSet& whole) {
  return std::includes(whole.begin(), whole.end(), part.begin(), part.end());
}

CpuSet process_affinity() { return affinity_of(getpid()); }
CpuSet thread_affinity() { return affinity_of(0); }

}  // namespace millrace::sched
