#include "runtime/pool/oom.hpp"

#include <cstdio>
#include <cstring>
#include <memory>

namespace millrace::runtime {
namespace {

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

File open_file(const std::string& path) { return {std::fopen(path.c_str(), "re"), &std::fclose}; }

// The file of this process's memory cgroup that counts kills, "" if there is none to be read.
std::string find_counter() {
  const File cgroups = open_file("/proc/self/cgroup");
  if (!cgroups) return {};
  char line[4096];
  while (std::fgets(line, sizeof line, cgroups.get()) != nullptr) {
    line[std::strcspn(line, "\n")] = '\0';
    const char* controllers = std::strchr(line, ':');
    if (controllers == nullptr) continue;
    const char* path = std::strchr(++controllers, ':');
    if (path == nullptr) continue;
    const std::string names(controllers, path);
    const std::string candidate =
        names.empty() ? "/sys/fs/cgroup" + std::string(path + 1) + "/memory.events"
        : (',' + names + ',').find(",memory,") != std::string::npos
            ? "/sys/fs/cgroup/memory" + std::string(path + 1) + "/memory.oom_control"
            : "";
    if (!candidate.empty() && open_file(candidate)) return candidate;
  }
  return {};
}

}  // namespace

OomWatch::OomWatch() : file_(find_counter()), seen_(count()) {}

std::uint64_t OomWatch::count() const {
  if (file_.empty()) return 0;
  const File file = open_file(file_);
  if (!file) return 0;
  char key[64];
  unsigned long long value = 0;
  while (std::fscanf(file.get(), "%63s %llu", key, &value) == 2) {
    if (std::strcmp(key, "oom_kill") == 0) return value;
  }
  return 0;
}

bool OomWatch::struck() {
  const std::uint64_t now = count();
  const bool rose = now > seen_;
  seen_ = now;
  return rose;
}

}  // namespace millrace::runtime
