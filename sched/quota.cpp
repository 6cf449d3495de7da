#include "sched/quota.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <millrace/errors.hpp>
#include <sstream>
#include <string_view>
#include <vector>

#include "sched/cpu_list.hpp"

namespace millrace::sched {
namespace {

enum class Version { v1, v2 };

// One mounted cgroup hierarchy: `root` of the hierarchy is seen at `point`.
struct Mount {
  Version version;
  std::string root;
  std::string point;
};

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

bool lists(std::string_view names, std::string_view wanted) {
  while (!names.empty()) {
    const std::size_t comma = names.find(',');
    if (names.substr(0, comma) == wanted) return true;
    if (comma == std::string_view::npos) return false;
    names.remove_prefix(comma + 1);
  }
  return false;
}

// /proc writes blanks in paths as \040 and so on.
std::string unescape(const std::string& path) {
  std::string result;
  for (std::size_t i = 0; i < path.size(); ++i) {
    int value = 0;
    if (path[i] == '\\' && i + 3 < path.size() &&
        std::from_chars(&path[i + 1], &path[i] + 4, value, 8).ptr == &path[i] + 4) {
      result += static_cast<char>(value);
      i += 3;
    } else {
      result += path[i];
    }
  }
  return result;
}

// Lines of /proc/self/mountinfo: id parent device root point options [fields] - type source
// options.
std::vector<Mount> cgroup_mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = words_of(line);
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 2) continue;
    const std::string& type = *(dash + 1);
    if (type == "cgroup2") {
      mounts.push_back({Version::v2, unescape(words[3]), unescape(words[4])});
    } else if (type == "cgroup" && lists(words.back(), "cpu")) {
      mounts.push_back({Version::v1, unescape(words[3]), unescape(words[4])});
    }
  }
  return mounts;
}

// This process's cgroup in a hierarchy: lines of /proc/self/cgroup are id:controllers:path.
std::optional<std::string> cgroup_path(const std::string& root, Version version) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string_view controllers =
        std::string_view(line).substr(first + 1, second - first - 1);
    const bool found = version == Version::v2 ? controllers.empty() && line.starts_with("0:")
                                              : lists(controllers, "cpu");
    if (found) return line.substr(second + 1);
  }
  return std::nullopt;
}

std::optional<double> read_number(const std::string& path) {
  std::ifstream file(path);
  double value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

// The quota of one group's directory, in cpus.
std::optional<double> quota_at(const std::string& directory, Version version) {
  std::optional<double> quota;
  std::optional<double> period;
  if (version == Version::v1) {
    quota = read_number(directory + "/cpu.cfs_quota_us");
    period = read_number(directory + "/cpu.cfs_period_us");
  } else {
    std::ifstream file(directory + "/cpu.max");
    std::string first;
    double second = 0;
    if (!(file >> first >> second)) return std::nullopt;
    double value = 0;
    const char* const end = first.data() + first.size();
    if (std::from_chars(first.data(), end, value).ptr != end) return std::nullopt;  // "max"
    quota = value;
    period = second;
  }
  if (!quota || !period || !(*quota > 0) || !(*period > 0)) return std::nullopt;
  return *quota / *period;
}

}  // namespace

std::optional<double> cpu_quota(const std::string& root) {
  std::optional<double> smallest;
  for (const Mount& mount : cgroup_mounts(root)) {
    std::optional<std::string> path = cgroup_path(root, mount.version);
    if (!path) continue;
    // Inside a container the mount shows a part of the hierarchy, or the path is told relative to a
    // namespace ("/../.."): then what is seen at the mount point is the nearest to be had.
    if (mount.root != "/" && path->starts_with(mount.root)) path->erase(0, mount.root.size());
    if (path->starts_with("/..")) path->clear();
    for (;;) {
      while (path->ends_with('/')) path->pop_back();
      const std::optional<double> quota = quota_at(root + mount.point + *path, mount.version);
      if (quota && (!smallest || *quota < *smallest)) smallest = quota;
      if (path->empty()) break;
      path->erase(path->rfind('/') == std::string::npos ? 0 : path->rfind('/'));
    }
  }
  return smallest;
}

int cpu_count() {
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  if (count < 1) throw NotImplementedError("cannot determine number of cpus");
  return static_cast<int>(count);
}

int usable_cpu_count() {
  const auto allowed = static_cast<int>(process_affinity().size());
  const std::optional<double> quota = cpu_quota();
  if (!quota || *quota >= allowed) return std::max(allowed, 1);
  return std::max(static_cast<int>(std::ceil(*quota)), 1);
}

}  // namespace millrace::sched
