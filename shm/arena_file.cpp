#include "shm/arena_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/errors.hpp>
#include <string>
#include <system_error>

#include "shm/above_streams.hpp"
#include "shm/layout.hpp"
#include "shm/memory_limits.hpp"

// There only in a program that runs under ThreadSanitizer, for which this file may not be built.
extern "C" [[gnu::weak]] void __tsan_init();

namespace millrace::shm {
namespace {

constexpr const char* kFileName = "millrace-arena";
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
#ifndef MFD_NOEXEC_SEAL
constexpr unsigned kNoExec = 8U;  // linux/memfd.h, since 6.3
#else
constexpr unsigned kNoExec = MFD_NOEXEC_SEAL;
#endif

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

[[noreturn]] void bad_size(const char* text) {
  throw ValueError("MILLRACE_ARENA_SIZE='" + std::string(text) +
                   "' is not a size: a number with an optional K, M, G or T, at least 32M and at "
                   "most " +
                   in_units(kArenaLargest));
}

void* base_address() noexcept {
  return reinterpret_cast<void*>(kArenaBase);  // NOLINT(performance-no-int-to-ptr): fixed address
}

// Limits that would end the program (SIGXFSZ) or leave it without address space of its own.
std::size_t size_within_limits(std::size_t size) noexcept {
  rlimit limit{};
  std::uint64_t most = UINT64_MAX;
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    most = std::min<std::uint64_t>(most, limit.rlim_cur);
  }
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    most = std::min<std::uint64_t>(most, limit.rlim_cur / 2);
  }
  while (size > most && size > kArenaSmallest) size = std::max(size / 2, kArenaSmallest);
  return size <= most ? size / kSpanBytes * kSpanBytes : 0;
}

int make_file() {
  int fd = ::memfd_create(kFileName, MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExec);
  if (fd < 0 && errno == EINVAL) fd = ::memfd_create(kFileName, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) fail(errno, "memfd_create for the arena");
  fd = above_streams(fd);
  if (fd < 0) fail(errno, "a descriptor for the arena");
  return fd;
}

// 0, or why not.
int map_at_base(int fd, std::size_t size) noexcept {
  void* at = ::mmap(base_address(), size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
  if (at == MAP_FAILED) return errno;
  if (at != base_address()) {  // kernels before 4.17 take the flag for a wish
    ::munmap(at, size);
    return EEXIST;
  }
  // Without this a core file would hold the whole arena. Directly after mmap: a crash can come
  // at any time.
  ::madvise(at, size, MADV_DONTDUMP);
  return 0;
}

// The mapping that is in the way at the base: its file's inode if it is an arena, else its text.
struct Occupant {
  bool is_arena = false;
  ino_t inode = 0;
  std::string text = "nothing that /proc/self/maps shows";
};

Occupant occupant_of_base() {
  Occupant found;
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return found;
  char line[4352];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    std::uintptr_t from = 0;
    std::uintptr_t to = 0;
    unsigned long inode = 0;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &from, &to, &inode) != 3) {
      continue;
    }
    if (to <= kArenaBase || from >= kArenaBase + kArenaSmallest) continue;
    line[std::strcspn(line, "\n")] = 0;
    found.text = line;
    found.inode = inode;
    found.is_arena = from == kArenaBase && std::strstr(line, "/memfd:millrace-arena") != nullptr;
    break;
  }
  std::fclose(maps);
  return found;
}

int find_fd(ino_t inode) noexcept {
  DIR* fds = ::opendir("/proc/self/fd");
  if (fds == nullptr) return -1;
  int found = -1;
  while (const dirent* entry = ::readdir(fds)) {
    const int fd = std::atoi(entry->d_name);
    struct stat file {};
    if (entry->d_name[0] != '.' && fd != ::dirfd(fds) && ::fstat(fd, &file) == 0 &&
        file.st_ino == inode && (::fcntl(fd, F_GET_SEALS) & kSeals) == kSeals) {
      found = fd;
      break;
    }
  }
  ::closedir(fds);
  return found;
}

// The arena of another copy of the library in this process. Its descriptor says how large it is.
ArenaFile join() {
  const Occupant there = occupant_of_base();
  if (!there.is_arena) {
    fail(EEXIST, "mmap arena at its fixed address, where there is: " + there.text +
                     (&__tsan_init != nullptr && MILLRACE_UNDER_TSAN == 0
                          ? " (ThreadSanitizer's own memory: a program that runs under it needs a "
                            "millrace that was built with -fsanitize=thread as well)"
                          : ""));
  }
  ArenaFile file;
  file.joined = true;
  file.fd = find_fd(there.inode);
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0) {
    fail(EEXIST, "mmap arena: another copy of millrace has one here, but closed its descriptor");
  }
  file.size = static_cast<std::size_t>(status.st_size);
  return file;
}

}  // namespace

std::size_t requested_arena_bytes(const char* text) {
  if (text == nullptr || *text == 0) return kArenaDefault;
  if (*text < '0' || *text > '9') bad_size(text);
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text, &end, 10);
  std::size_t unit = 1;
  switch (*end) {
    case 'K':
    case 'k':
      unit = kKiB;
      break;
    case 'M':
    case 'm':
      unit = kMiB;
      break;
    case 'G':
    case 'g':
      unit = kGiB;
      break;
    case 'T':
    case 't':
      unit = kTiB;
      break;
    default:
      break;
  }
  if (unit != 1) ++end;
  if (*end != 0 || errno != 0 || value > kArenaLargest / unit) bad_size(text);
  const std::size_t bytes = static_cast<std::size_t>(value) * unit / kSpanBytes * kSpanBytes;
  if (bytes < kArenaSmallest) bad_size(text);
  return bytes;
}

ArenaFile make_arena_file() {
  const std::size_t wanted = requested_arena_bytes(std::getenv("MILLRACE_ARENA_SIZE"));
  ArenaFile file;
  file.size = size_within_limits(wanted);
  if (file.size == 0) {
    fail(ENOMEM, "arena: ulimit -v or -f leaves less than " + in_units(kArenaSmallest));
  }
  file.fd = make_file();
  int why = 0;
  for (;; file.size /= 2) {
    if (file.size < kArenaSmallest) break;
    file.size = file.size / kSpanBytes * kSpanBytes;
    why = ::ftruncate(file.fd, static_cast<off_t>(file.size)) == 0 ? map_at_base(file.fd, file.size)
                                                                   : errno;
    if (why == 0 || why == EEXIST) break;
  }
  if (why != 0) {
    ::close(file.fd);
    if (why == EEXIST) return join();
    fail(why, "mmap arena " + in_units(std::max(file.size, kArenaSmallest)));
  }
  if (::fcntl(file.fd, F_ADD_SEALS, kSeals) != 0) {
    const int error = errno;
    ::munmap(base_address(), file.size);
    ::close(file.fd);
    fail(error, "seal the arena");
  }
  return file;
}

ArenaFile map_arena_file(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail(errno, "fstat of the arena's descriptor");
  const int seals = ::fcntl(fd, F_GET_SEALS);
  const auto size = static_cast<std::size_t>(status.st_size);
  const bool fits = size >= kArenaSmallest && size <= kArenaLargest && size % kSpanBytes == 0;
  if (!S_ISREG(status.st_mode) || seals < 0 || (seals & kSeals) != kSeals || !fits) {
    throw Corrupt("descriptor " + std::to_string(fd) + " is not a sealed millrace arena");
  }
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) fail(errno, "fcntl of the arena's descriptor");
  const int why = map_at_base(fd, size);
  if (why == EEXIST) {
    fail(EEXIST, "mmap arena at its fixed address, where there is: " + occupant_of_base().text);
  }
  if (why != 0) fail(why, "mmap arena " + in_units(size));
  return {fd, size, false};
}

}  // namespace millrace::shm
