// What this process has mapped where, as the kernel tells it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace millrace::runtime {

/// One line of /proc/self/maps: addresses [begin, end).
struct Mapping {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool accessible = false;  ///< readable, writable or executable
  bool shared = false;      ///< MAP_SHARED
  std::string path;         ///< the file's, without the " (deleted)" of one that is gone; or ""
};

/// The mapping that holds an address; none when there is none, or no /proc.
std::optional<Mapping> find_mapping(const void* address);

/// True when the kernel has something mapped at the address. Cheaper than find_mapping().
bool is_mapped(const void* address) noexcept;

}  // namespace millrace::runtime
