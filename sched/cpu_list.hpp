// Sets of cpus as sorted lists, and their texts: "0-3,8" and hexadecimal masks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace millrace::sched {

/// Sorted numbers of cpus, each once.
using CpuSet = std::vector<int>;

/// Largest cpu number that is believed; the kernel's own limit is 8192.
inline constexpr int kMaxCpu = 65535;

/// Reads "0-3,8,16-31:2". ValueError naming the offending part. The order of the text is lost.
CpuSet parse_cpu_list(std::string_view text);
/// Writes "0-3,8"; the empty set is "".
std::string format_cpu_list(const CpuSet& cpus);
/// Reads a hexadecimal mask, "0xff" or "ff,ffffffff". ValueError naming the offending part.
CpuSet parse_cpu_mask(std::string_view text);

/// Sorts and removes duplicates.
CpuSet make_cpu_set(std::vector<int> cpus);
CpuSet cpu_union(const CpuSet& a, const CpuSet& b);
CpuSet cpu_intersection(const CpuSet& a, const CpuSet& b);
CpuSet cpu_difference(const CpuSet& a, const CpuSet& b);
bool is_subset(const CpuSet& part, const CpuSet& whole);

/// The cpus that the main thread of this process may run on. std::system_error.
CpuSet process_affinity();
/// The cpus that the calling thread may run on. std::system_error.
CpuSet thread_affinity();

}  // namespace millrace::sched
