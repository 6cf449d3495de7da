#include "shm/nodes.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/errors.hpp>
#include <mutex>
#include <string>
#include <system_error>

#include "shm/fork_hooks.hpp"
#include "shm/layout.hpp"
#include "shm/memory_limits.hpp"

namespace millrace::shm {
namespace {

// The kernel's numbers (linux/mempolicy.h), which belong to its stable interface.
constexpr int kPolicyDefault = 0;
constexpr int kPolicyPreferred = 1;
constexpr int kPolicyInterleave = 3;
constexpr std::size_t kMaxNodes = 1024;
constexpr std::size_t kWordBits = 8 * sizeof(unsigned long);

// "0-3,8" as numbers.
std::vector<int> parse_list(const char* text) {
  std::vector<int> numbers;
  while (*text >= '0' && *text <= '9') {
    char* end = nullptr;
    const long first = std::strtol(text, &end, 10);
    long last = first;
    if (*end == '-') last = std::strtol(end + 1, &end, 10);
    for (long k = first; k <= last && k < static_cast<long>(kMaxNodes); ++k) {
      numbers.push_back(static_cast<int>(k));
    }
    text = *end == ',' ? end + 1 : end;
  }
  return numbers;
}

// The list behind `key` in a file of the kernel's; the whole first line when there is no key.
std::vector<int> read_list(const char* path, const char* key) {
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return {};
  std::vector<int> numbers;
  char line[4096];
  const std::size_t length = std::strlen(key);
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, key, length) != 0) continue;
    const char* at = line + length;
    while (*at == ' ' || *at == '\t') ++at;
    numbers = parse_list(at);
    break;
  }
  std::fclose(file);
  return numbers;
}

std::vector<int> read_nodes() {
  std::vector<int> nodes = read_list("/sys/devices/system/node/has_memory", "");
  if (nodes.empty()) nodes = read_list("/sys/devices/system/node/online", "");
  const std::vector<int> allowed = read_list("/proc/self/status", "Mems_allowed_list:");
  std::erase_if(nodes, [&](int node) {
    return !allowed.empty() && std::find(allowed.begin(), allowed.end(), node) == allowed.end();
  });
  if (nodes.empty()) nodes.push_back(0);
  return nodes;
}

struct NodeList {
  std::vector<int> nodes = read_nodes();
  bool imposed = false;
};

NodeList& node_list() {
  const std::lock_guard lock(first_use());
  static NodeList list;
  return list;
}

// Free memory of a node, counting the file cache that the kernel would drop; SIZE_MAX if unknown.
std::size_t left_on(int node) {
  const std::string path = "/sys/devices/system/node/node" + std::to_string(node) + "/meminfo";
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return SIZE_MAX;
  std::size_t kib = 0;
  bool known = false;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    char name[64];
    unsigned long long value = 0;
    if (std::sscanf(line, "Node %*d %63[^:]: %llu", name, &value) != 2) continue;
    const bool counts = std::strcmp(name, "MemFree") == 0 ||
                        std::strcmp(name, "Inactive(file)") == 0 ||
                        std::strcmp(name, "SReclaimable") == 0;
    if (counts) kib += value;
    known = known || counts;
  }
  std::fclose(file);
  return known ? kib * kKiB : SIZE_MAX;
}

std::string names_of(const std::vector<int>& nodes) {
  std::string text;
  for (const int node : nodes) text += (text.empty() ? "" : ", ") + std::to_string(node);
  return text;
}

}  // namespace

const std::vector<int>& memory_nodes() { return node_list().nodes; }

void set_memory_nodes(std::vector<int> nodes) {
  node_list().nodes = std::move(nodes);
  node_list().imposed = true;
}

bool placement_matters() { return node_list().imposed || memory_nodes().size() > 1; }

void check_placement(const Placement& placement, std::size_t bytes) {
  if (placement.kind != Placement::node) return;
  const std::vector<int>& nodes = memory_nodes();
  if (std::find(nodes.begin(), nodes.end(), placement.index) == nodes.end()) {
    throw ValueError("node " + std::to_string(placement.index) +
                     ": this process may use memory of node " + names_of(nodes) + " only");
  }
  if (bytes < 64 * kMiB) return;
  const std::size_t left = left_on(placement.index);
  if (bytes > left) {
    throw std::system_error(ENOMEM, std::generic_category(),
                            "allocate " + in_units(bytes) + " on node " +
                                std::to_string(placement.index) + ", which has " + in_units(left) +
                                " left");
  }
}

void set_policy(void* start, std::size_t bytes, const Placement& placement) {
  unsigned long mask[kMaxNodes / kWordBits] = {};
  const auto add = [&](int node) {
    const auto bit = static_cast<std::size_t>(node);
    mask[bit / kWordBits] |= 1UL << (bit % kWordBits);
  };
  int mode = kPolicyDefault;
  if (placement.kind == Placement::node) {
    mode = kPolicyPreferred;  // strict binding would end in the out-of-memory killer, not an error
    add(placement.index);
  } else if (placement.kind == Placement::interleave) {
    mode = kPolicyInterleave;
    for (const int node : memory_nodes()) add(node);
  }
  const bool plain = mode == kPolicyDefault;
  if (::syscall(SYS_mbind, start, bytes, mode, plain ? nullptr : mask, plain ? 0 : kMaxNodes, 0U) ==
      0) {
    return;
  }
  throw std::system_error(errno, std::generic_category(), "mbind " + in_units(bytes));
}

}  // namespace millrace::shm
