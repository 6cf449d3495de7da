#include "runtime/segments/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <millrace/errors.hpp>
#include <system_error>
#include <utility>

#include "runtime/base/random.hpp"
#include "runtime/segments/resource_tracker.hpp"

namespace millrace::runtime {
namespace {

constexpr const char* kFolder = "/dev/shm";
constexpr int kNameTries = 100;

[[noreturn]] void fail(int error, const std::string& name, const char* what) {
  throw std::system_error(error, std::generic_category(), "shared memory '" + name + "': " + what);
}

// shm_open()'s rules: leading slashes do not count, others are refused.
std::string file_name(const std::string& name) {
  const std::string plain = name.substr(std::min(name.find_first_not_of('/'), name.size()));
  if (plain.empty() || plain == "." || plain == ".." ||
      plain.find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
    fail(EINVAL, name, "no name for a file of /dev/shm");
  }
  if (plain.size() >= kSegmentNameBytes) fail(ENAMETOOLONG, name, "name of a segment");
  return plain;
}

std::string path_of(const std::string& file) { return std::string(kFolder) + "/" + file; }

void check_folder(const std::string& name) {
  struct stat folder {};
  if (::stat(kFolder, &folder) != 0) fail(errno, name, "there is no /dev/shm");
  if (!S_ISDIR(folder.st_mode)) fail(ENOTDIR, name, "/dev/shm");
}

SegmentIdentity identity_of(const struct stat& file) {
  return {static_cast<std::uint64_t>(file.st_dev), static_cast<std::uint64_t>(file.st_ino)};
}

class File {
 public:
  explicit File(int fd) noexcept : fd_(fd) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

std::span<std::byte> map(const File& file, std::size_t bytes, const std::string& name) {
  void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) fail(errno, name, ("mmap of " + std::to_string(bytes) + " bytes").c_str());
  return {static_cast<std::byte*>(at), bytes};
}

// All of it is backed now: a full /dev/shm is an error here, not SIGBUS at some later access.
void back(const File& file, std::size_t bytes, const std::string& name) {
  int error = 0;
  do {
    error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  if (error != 0) {
    fail(error, name, ("no room in /dev/shm for " + std::to_string(bytes) + " bytes").c_str());
  }
}

SegmentIdentity identity_of(const File& file, const std::string& name) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(errno, name, "fstat");
  return identity_of(status);
}

std::string random_name() {
  std::array<unsigned char, 4> bytes{};
  fill_random(bytes.data(), bytes.size());
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "psm_%02x%02x%02x%02x", bytes[0], bytes[1], bytes[2],
                bytes[3]);
  return text.data();
}

// What its user may do with it is not the umask's to say: other processes of his open it by name.
void open_to_user(const File& file, const std::string& name) {
  if (::fchmod(file.get(), S_IRUSR | S_IWUSR) != 0) fail(errno, name, "fchmod");
}

// Gives a nameless file its name; 0 or the error. `identity` is noted before, if it is to be.
int name_file(const File& file, const std::string& name, const SegmentIdentity* noted) {
  const std::string self = "/proc/self/fd/" + std::to_string(file.get());
  if (noted != nullptr) SegmentRegistry::instance().arm(*noted, name);
  if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path_of(name).c_str(), AT_SYMLINK_FOLLOW) == 0) {
    return 0;
  }
  const int error = errno;
  if (noted != nullptr) SegmentRegistry::instance().disarm(*noted);
  return error;
}

// Where files cannot be made without a name first (no tmpfs, no /proc): a process that is killed
// between the first two steps leaves the name behind.
Segment create_named(const std::string& name, std::size_t bytes, bool track) {
  const std::string path = path_of(name);
  const File file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (file.get() < 0) fail(errno, name, "create");
  try {
    open_to_user(file, name);
    const SegmentIdentity identity = identity_of(file, name);
    if (track) SegmentRegistry::instance().arm(identity, name);
    try {
      back(file, bytes, name);
      return {name, identity, map(file, bytes, name)};
    } catch (...) {
      if (track) SegmentRegistry::instance().disarm(identity);
      throw;
    }
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
}

bool taken(const std::string& name) {
  struct stat file {};
  return ::lstat(path_of(name).c_str(), &file) == 0;
}

}  // namespace

Segment create_segment(const std::optional<std::string>& name, std::size_t bytes, bool track) {
  const std::string wanted = name ? file_name(*name) : "psm_";
  check_folder(wanted);
  if (name && taken(wanted)) fail(EEXIST, wanted, "create");  // before anything is paid for
  if (track) ensure_resource_tracker();
  const File file(::open(kFolder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  const bool nameless = file.get() >= 0;
  if (!nameless && errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT) {
    fail(errno, wanted, "create in /dev/shm");
  }
  SegmentIdentity identity;
  std::span<std::byte> memory;
  if (nameless) {
    open_to_user(file, wanted);
    back(file, bytes, wanted);
    identity = identity_of(file, wanted);
    memory = map(file, bytes, wanted);
  }
  try {
    for (int tried = 1;; ++tried) {
      std::string chosen = name ? wanted : random_name();
      const int error = nameless ? name_file(file, chosen, track ? &identity : nullptr) : ENOENT;
      if (error == 0) return {std::move(chosen), identity, memory};
      if (error == EEXIST && !name && tried < kNameTries) continue;
      if (error != ENOENT) fail(error, chosen, "create");
      if (!name && taken(chosen) && tried < kNameTries) continue;
      unmap_segment(std::exchange(memory, {}));
      return create_named(chosen, bytes, track);
    }
  } catch (...) {
    unmap_segment(memory);
    throw;
  }
}

Segment open_segment(const std::string& name) {
  const std::string plain = file_name(name);
  const File file(::open(path_of(plain).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (file.get() < 0) {
    const int error = errno;
    check_folder(plain);
    fail(error, plain, "open");
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(errno, plain, "fstat");
  if (!S_ISREG(status.st_mode)) fail(EINVAL, plain, "is no segment");
  if (status.st_size == 0) throw ValueError("shared memory '" + plain + "' is empty");
  return {plain, identity_of(status), map(file, static_cast<std::size_t>(status.st_size), plain)};
}

int unlink_if(const char* name, const SegmentIdentity& identity) noexcept {
  std::array<char, kSegmentNameBytes + 16> path{};
  std::snprintf(path.data(), path.size(), "%s/%s", kFolder, name);
  struct stat file {};
  if (::lstat(path.data(), &file) != 0) return errno;
  if (!(identity_of(file) == identity)) return ENOENT;
  return ::unlink(path.data()) == 0 ? 0 : errno;
}

void unlink_segment(const std::string& name, const SegmentIdentity& identity) {
  const int error = unlink_if(name.c_str(), identity);
  if (error != 0) fail(error, name, "unlink");
  SegmentRegistry::instance().disarm(identity);
}

void unmap_segment(std::span<std::byte> memory) noexcept {
  if (!memory.empty()) ::munmap(memory.data(), memory.size());
}

}  // namespace millrace::runtime
