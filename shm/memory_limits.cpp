#include "shm/memory_limits.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "shm/layout.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint64_t kUnlimited = UINT64_MAX;

class File {
 public:
  explicit File(const std::string& path) : file_(std::fopen(path.c_str(), "re")) {}
  ~File() {
    if (file_ != nullptr) std::fclose(file_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool line(std::string& text) {
    char buffer[4096];
    if (file_ == nullptr || std::fgets(buffer, sizeof buffer, file_) == nullptr) return false;
    text = buffer;
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    return true;
  }

 private:
  std::FILE* file_;
};

// What may still be handed out before the kernel is asked again.
std::atomic<std::int64_t> credit{0};

std::uint64_t number(const char* text) {
  char* end = nullptr;
  const std::uint64_t value = std::strtoull(text, &end, 10);
  return end == text ? kUnlimited : value;  // "max" among others
}

// The one number in a file, kUnlimited when there is no such file.
std::uint64_t read_number(const std::string& path) {
  std::string text;
  return File(path).line(text) ? number(text.c_str()) : kUnlimited;
}

// The number behind `key` and a blank or colon, 0 when it is not there.
std::uint64_t read_key(const std::string& path, const std::string& key) {
  File file(path);
  std::string text;
  while (file.line(text)) {
    if (text.compare(0, key.size(), key) != 0 || text.size() <= key.size()) continue;
    const char next = text[key.size()];
    if (next == ' ' || next == ':') return number(text.c_str() + key.size() + 1);
  }
  return 0;
}

struct Bound {
  std::uint64_t total = kUnlimited;
  std::uint64_t left = kUnlimited;

  void apply(std::uint64_t limit, std::uint64_t used) {
    if (limit >= kUnlimited / 2) return;  // version 1 writes a huge number for "none"
    total = std::min(total, limit);
    left = std::min(left, limit - std::min(limit, used));
  }
};

struct Names {
  const char* limit;
  const char* usage;
  const char* reclaimable;
};
constexpr Names kVersion1{"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                          "total_inactive_file"};
constexpr Names kVersion2{"/memory.max", "/memory.current", "inactive_file"};

// The limits of a group and of all groups above it. Inside a container the path names a group of
// the host that is not visible; then the root of what is visible is the container's own.
void apply_groups(Bound& bound, const std::string& root, std::string path, const Names& names) {
  for (;;) {
    const std::string group = root + path;
    const std::uint64_t limit = read_number(group + names.limit);
    if (limit != kUnlimited) {
      const std::uint64_t used = read_number(group + names.usage);
      const std::uint64_t cached = read_key(group + "/memory.stat", names.reclaimable);
      bound.apply(limit, used == kUnlimited ? 0 : used - std::min(used, cached));
    }
    if (path.empty() || path == "/") return;
    path.erase(path.find_last_of('/'));
  }
}

Bound read_bound(const MemoryFiles& files) {
  Bound bound;
  const std::string meminfo = files.proc + "/meminfo";
  const std::uint64_t total = read_key(meminfo, "MemTotal");
  const std::uint64_t left = read_key(meminfo, "MemAvailable");
  if (total != 0) bound.total = total * kKiB;
  if (left != 0) bound.left = left * kKiB;
  File groups(files.proc + "/self/cgroup");
  std::string line;
  while (groups.line(line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") apply_groups(bound, files.cgroup, path, kVersion2);
    if (controllers.find(",memory,") != std::string::npos) {
      apply_groups(bound, files.cgroup + "/memory", path, kVersion1);
    }
  }
  return bound;
}

}  // namespace

std::uint64_t available_memory(const MemoryFiles& files) { return read_bound(files).left; }
std::uint64_t total_memory(const MemoryFiles& files) { return read_bound(files).total; }

bool spend_credit(std::uint64_t bytes) noexcept {
  const auto wanted = static_cast<std::int64_t>(std::min<std::uint64_t>(bytes, INT64_MAX / 2));
  // relaxed: a budget of this process, not a lock
  return credit.fetch_sub(wanted, std::memory_order_relaxed) >= wanted;
}

void admit(std::uint64_t bytes, std::uint64_t promised) {
  credit.store(0, std::memory_order_relaxed);
  std::uint64_t left = available_memory();
  left -= std::min(left, promised);
  if (bytes > left) {
    throw std::system_error(ENOMEM, std::generic_category(),
                            "allocate " + in_units(bytes) + " of shared memory: " + in_units(left) +
                                " are left to this process");
  }
  const std::uint64_t fresh = std::min<std::uint64_t>((left - bytes) / 16, kGiB);
  credit.store(static_cast<std::int64_t>(fresh), std::memory_order_relaxed);
}

std::string in_units(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  auto value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  char text[48];
  const bool whole = value == static_cast<double>(static_cast<std::uint64_t>(value));
  std::snprintf(text, sizeof text, whole ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace millrace::shm
