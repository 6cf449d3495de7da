// What tests leave in /dev/shm, which other programs use too, the same tests in another run among
// them: whoever may (root) gets a folder of his own, elsewhere only names of the tests' own count.
#pragma once

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstdio>
#include <random>
#include <set>
#include <string>

namespace millrace::test {

inline std::set<std::string> names_in(const char* folder) {
  std::set<std::string> names;
  DIR* dir = ::opendir(folder);
  if (dir == nullptr) return names;
  const std::string own = std::to_string(::dirfd(dir));
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name != own || std::string(folder) != "/proc/self/fd") names.insert(entry->d_name);
  }
  ::closedir(dir);
  return names;
}

/// What the names begin with that this run gives to its segments: no other run uses it.
inline const std::string& own_prefix() {
  static const std::string prefix = "millrace_test_" + std::to_string(std::random_device()()) + "_";
  return prefix;
}

/// A mount namespace in which mounts under /dev reach nobody else, made with unshare()'s `flags`;
/// false where that is not permitted. In a chroot "/" need not be a mount, but /dev has to be one.
inline bool have_own_mounts(int flags) {
  if (::unshare(flags) != 0) return false;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) return true;
  return errno == EINVAL && ::mount("none", "/dev", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

/// Mounts an empty /dev/shm that only this program and its children see, once; false where that is
/// not permitted. For the main thread, before there are others.
inline bool have_own_shared_folder() {
  static const bool done =
      have_own_mounts(CLONE_NEWNS) &&
      ::mount("none", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") == 0;
  return done;
}

/// The segments of the tests.
inline std::set<std::string> own_segments() {
  const bool all = have_own_shared_folder();
  std::set<std::string> names = names_in("/dev/shm");
  std::erase_if(names, [&](const std::string& name) {
    return name[0] == '.' || (!all && name.compare(0, own_prefix().size(), own_prefix()) != 0);
  });
  return names;
}

}  // namespace millrace::test
