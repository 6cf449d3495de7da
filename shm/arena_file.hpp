// Making and mapping the arena's memory file.
#pragma once

#include <cstddef>

namespace millrace::shm {

struct ArenaFile {
  int fd = -1;
  std::size_t size = 0;
  bool joined = false;  // another copy of the library in this process had mapped it
};

/// The size that MILLRACE_ARENA_SIZE asks for, a multiple of the span. ValueError when the text is
/// not a size between 32M and the largest arena.
std::size_t requested_arena_bytes(const char* text);

/// Makes the file and maps it at kArenaBase, as large as limits allow; joins an arena that is
/// there.
ArenaFile make_arena_file();

/// Maps the file behind `fd`, checked: size, seals.
ArenaFile map_arena_file(int fd);

}  // namespace millrace::shm
