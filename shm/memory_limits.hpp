// How much memory is left to this process: the machine's, and its memory cgroup's.
#pragma once

#include <cstdint>
#include <string>

namespace millrace::shm {

/// Where the kernel's files are; another place in tests.
struct MemoryFiles {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
};

/// Bytes that can be had without the kernel's out-of-memory killer: the smaller of MemAvailable
/// and what every memory cgroup (v1 or v2) above this process still allows. UINT64_MAX when
/// nothing can be read.
std::uint64_t available_memory(const MemoryFiles& files = {});

/// Total memory this process may use: the machine's, or the smallest cgroup limit.
std::uint64_t total_memory(const MemoryFiles& files = {});

/// True when `bytes` lie within what the last call of admit() allows without asking again.
bool spend_credit(std::uint64_t bytes) noexcept;

/// Asks the kernel. Throws std::system_error (ENOMEM) naming the request when `bytes` not touched
/// before, on top of `promised` bytes handed out but not touched yet, cannot be backed by memory.
void admit(std::uint64_t bytes, std::uint64_t promised);

/// "1.5 GiB", "64 KiB", "12 bytes".
std::string in_units(std::uint64_t bytes);

}  // namespace millrace::shm
