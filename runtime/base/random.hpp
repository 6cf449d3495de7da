// Random bytes that nobody can foretell, from the kernel.
#pragma once

#include <cstddef>

namespace millrace::runtime {

/// Fills `bytes` bytes. Blocks while the kernel has gathered too little, early after it has booted.
/// Throws std::system_error when it refuses.
void fill_random(void* place, std::size_t bytes);

}  // namespace millrace::runtime
