#include "runtime/process/shed_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace millrace::runtime {
namespace {

constexpr std::uintptr_t kPage = 4096;
// Smaller mappings are left alone: malloc's, and in them what the dynamic linker still needs to
// bind a function at its first call.
constexpr std::uintptr_t kSmall = 128 << 20;
constexpr std::uintptr_t kAround = 1 << 20;  // kept on both sides of the stack and thread pointers

struct Mapping {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool sheddable = false;
  bool of_file = false;
};

// "begin-end rw-p offset dev inode path": private, writable, of no file.
Mapping parse(const char* line) noexcept {
  Mapping found;
  char* at = nullptr;
  found.begin = std::strtoull(line, &at, 16);
  if (*at != '-') return found;
  found.end = std::strtoull(at + 1, &at, 16);
  const bool is_private = std::strncmp(at, " rw-p ", 6) == 0;
  const char* field = at;
  for (int spaces = 0; *field != 0 && spaces < 4; ++field) spaces += *field == ' ' ? 1 : 0;
  found.of_file = std::strtoull(field, nullptr, 10) != 0;
  found.sheddable = is_private && !found.of_file && std::strstr(field, "[heap]") == nullptr;
  return found;
}

void drop(std::uintptr_t begin, std::uintptr_t end) noexcept {
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

// Drops [begin, end) but for the surroundings of the places in `keep`, which are in order.
void drop_around(std::uintptr_t begin, std::uintptr_t end,
                 const std::array<std::uintptr_t, 2>& keep) noexcept {
  for (const std::uintptr_t place : keep) {
    const std::uintptr_t first = (place > kAround ? place - kAround : 0) / kPage * kPage;
    const std::uintptr_t last = (place + kAround) / kPage * kPage;
    if (last <= begin || first >= end) continue;
    drop(begin, std::min(first, end));
    begin = std::min(last, end);
  }
  drop(begin, end);
}

}  // namespace

void shed_memory() noexcept {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  std::array<char, 4096> text;
  std::size_t held = 0;
  bool after_file = false;
  std::array<std::uintptr_t, 2> keep{reinterpret_cast<std::uintptr_t>(&held),
                                     reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer())};
  if (keep[0] > keep[1]) std::swap(keep[0], keep[1]);
  for (;;) {
    const ssize_t got = ::read(fd, text.data() + held, text.size() - 1 - held);
    if (got <= 0) break;
    held += static_cast<std::size_t>(got);
    text[held] = 0;
    char* line = text.data();
    for (char* stop = nullptr; (stop = std::strchr(line, '\n')) != nullptr; line = stop + 1) {
      *stop = 0;
      const Mapping mapping = parse(line);
      // Right behind a file's mapping lies its .bss.
      if (mapping.sheddable && !after_file && mapping.end - mapping.begin >= kSmall) {
        drop_around(mapping.begin, mapping.end, keep);
      }
      after_file = mapping.of_file;
    }
    held -= static_cast<std::size_t>(line - text.data());
    std::memmove(text.data(), line, held);
    if (held == text.size() - 1) held = 0;  // a path longer than the room: not one to shed
  }
  ::close(fd);
}

}  // namespace millrace::runtime
