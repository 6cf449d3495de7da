#include "runtime/process/server_folder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"

namespace millrace::runtime {
namespace {

constexpr std::string_view kPrefix = "millrace-server-";
constexpr std::string_view kRandom = "XXXXXX";
constexpr std::string_view kSocket = "/socket";
constexpr int kTries = 16;  // somebody may take a new folder for an abandoned one

// The folder for temporary files, if a socket's path below it is short enough for the kernel.
std::string temporary_folder() {
  const char* const named = std::getenv("TMPDIR");
  const std::string folder = named != nullptr && *named == '/' ? named : "/tmp";
  const std::size_t below = kPrefix.size() + kRandom.size() + kSocket.size() + 1;
  return folder.size() + below < sizeof(sockaddr_un::sun_path) ? folder : "/tmp";
}

// Opens a folder of this user's and locks it; -1 when it is none, or when its server lives.
int lock_folder(int at, const char* name) noexcept {
  const int fd = ::openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat status {};
  const bool own = ::fstat(fd, &status) == 0 && status.st_uid == ::geteuid() && status.st_nlink > 0;
  if (own && ::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

void remove_abandoned_in(const std::string& parent) noexcept {
  DIR* const all = ::opendir(parent.c_str());
  if (all == nullptr) return;
  while (const dirent* const entry = ::readdir(all)) {
    if (std::string_view(entry->d_name).substr(0, kPrefix.size()) != kPrefix) continue;
    const int fd = lock_folder(::dirfd(all), entry->d_name);
    if (fd < 0) continue;
    (void)::unlinkat(fd, kSocket.data() + 1, 0);
    (void)::unlinkat(::dirfd(all), entry->d_name, AT_REMOVEDIR);
    ::close(fd);
  }
  ::closedir(all);
}

}  // namespace

ServerFolder::ServerFolder() {
  const std::string parent = temporary_folder();
  // Once: a folder with many files takes long to read. relaxed: at worst two threads do.
  static std::atomic<pid_t> cleaner{0};
  if (cleaner.exchange(own_pid(), std::memory_order_relaxed) != own_pid()) {
    remove_abandoned_in(parent);
  }
  for (int i = 0; i < kTries; ++i) {
    std::string path = parent + "/" + std::string(kPrefix) + std::string(kRandom);
    socket_.reserve(path.size() + kSocket.size());  // nothing can fail once the folder is there
    if (::mkdtemp(path.data()) == nullptr) {
      throw std::system_error(
          errno, std::generic_category(),
          "a private folder in '" + parent + "'; let TMPDIR name one that can be written");
    }
    // The umask may have kept it from its own user. Locking finds out if that failed.
    (void)::chmod(path.c_str(), S_IRWXU);
    socket_.assign(path).append(kSocket);
    lock_ = lock_folder(AT_FDCWD, path.c_str());
    // Still there: whoever removes it as abandoned has locked it before.
    if (lock_ >= 0 && ::access(path.c_str(), X_OK) == 0) return;
    let_go();
    remove();  // nobody's, whether it is still there or not
  }
  throw std::system_error(EAGAIN, std::generic_category(), "a folder for sockets in " + parent);
}

void ServerFolder::remove(const std::string& socket) noexcept {
  std::array<char, sizeof(sockaddr_un::sun_path)> folder{};
  socket.copy(folder.data(), std::min(socket.rfind('/'), folder.size() - 1));
  (void)::unlink(socket.c_str());
  (void)::rmdir(folder.data());
}

void ServerFolder::remove_abandoned() noexcept {
  try {
    remove_abandoned_in(temporary_folder());
  } catch (const std::bad_alloc&) {  // the next one does
    static_cast<void>(0);
  }
}

void ServerFolder::let_go() noexcept {
  if (lock_ >= 0) ::close(std::exchange(lock_, -1));
}

}  // namespace millrace::runtime
