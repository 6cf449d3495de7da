#include "sched/topology.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <millrace/errors.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace millrace::sched {
namespace {

constexpr int kLocal = 10;
constexpr int kRemote = 20;
constexpr int kUnknown = 255;

struct SystemTopology {
  std::mutex mutex;                               // one reader of the machine at a time
  std::atomic<const Topology*> current{nullptr};  // written once under mutex, lives for ever
  Topology::Relay relay{};                        // written before there are threads
};

constinit SystemTopology instance;

SystemTopology& system_topology() noexcept { return instance; }

// A fork waits for a thread that reads the machine: the child would find the lock taken for ever.
const int fork_waits =
    ::pthread_atfork([] { instance.mutex.lock(); }, [] { instance.mutex.unlock(); },
                     [] { instance.mutex.unlock(); });

// What another process has read; none, or nothing that hwloc can read.
std::optional<Topology> relayed(const Topology::Relay& relay) {
  const std::string xml = relay.take == nullptr ? std::string() : relay.take();
  if (xml.empty()) return std::nullopt;
  try {
    return Topology::from_xml(xml, Origin::this_system);
  } catch (const ValueError&) {
    return std::nullopt;
  }
}

// The first call of system(). True: it was this process that had to read the machine.
bool read_system(SystemTopology& state) {
  const std::scoped_lock lock(state.mutex);
  if (state.current.load(std::memory_order_relaxed) != nullptr) return false;  // under the mutex
  const char* setting = std::getenv("MILLRACE_TOPOLOGY");
  const bool substituted = setting != nullptr && *setting != '\0';
  std::optional<Topology> found = substituted ? std::nullopt : relayed(state.relay);
  const bool given = found.has_value();
  if (!given) found = substituted ? Topology::from_setting(setting) : Topology::load();
  // PUBLISH topology: release.
  state.current.store(new Topology(*std::move(found)), std::memory_order_release);
  return !given;
}

}  // namespace

const Topology* Topology::known() noexcept {
  // OBSERVE topology: acquire, pairs with PUBLISH topology.
  return system_topology().current.load(std::memory_order_acquire);
}

const Topology& Topology::system() {
  if (const Topology* const there = known()) return *there;
  SystemTopology& state = system_topology();
  const bool was_read = read_system(state);
  const Topology& read = *known();
  if (was_read && state.relay.offer != nullptr) state.relay.offer(read);
  return read;
}

void Topology::set_relay(const Relay& relay) noexcept { system_topology().relay = relay; }

Topology Topology::restricted_to(const CpuSet& cpus) const {
  Topology copy = *this;
  copy.allowed_ = cpu_intersection(allowed_, cpus);
  return copy;
}

const std::vector<CpuSet>& Topology::objects(Level level) const noexcept {
  return objects_[static_cast<std::size_t>(level)];
}

CpuSet Topology::current_allowed() const {
  if (!is_thissystem_) return allowed_;
  CpuSet now = cpu_intersection(allowed_, process_affinity());
  return now.empty() ? allowed_ : now;
}

int Topology::place_of(int node) const noexcept {
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].os_index == node) return static_cast<int>(i);
  }
  return -1;
}

bool Topology::has_node(int node) const noexcept { return place_of(node) >= 0; }

int Topology::node_of_cpu(int cpu) const noexcept {
  if (cpu < 0 || static_cast<std::size_t>(cpu) >= node_of_cpu_.size()) return -1;
  return node_of_cpu_[static_cast<std::size_t>(cpu)];
}

int Topology::node_of(const CpuSet& cpus) const noexcept {
  if (cpus.empty()) return -1;
  const int node = node_of_cpu(cpus.front());
  const auto same = [&](int cpu) { return node_of_cpu(cpu) == node; };
  return std::all_of(cpus.begin(), cpus.end(), same) ? node : -1;
}

int Topology::distance(int a, int b) const noexcept {
  const int from = place_of(a);
  const int to = place_of(b);
  if (from < 0 || to < 0) return a == b ? kLocal : kUnknown;
  if (distance_.empty()) return from == to ? kLocal : kRemote;
  return distance_[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)];
}

std::vector<int> Topology::steal_order(int node) const {
  const int self = std::max(place_of(node), 0);
  const int count = static_cast<int>(nodes_.size());
  const auto package_of = [&](int number) {
    const auto& cpus = nodes_[static_cast<std::size_t>(place_of(number))].cpus;
    for (std::size_t i = 0; i < packages().size(); ++i) {
      if (!cpus.empty() && is_subset(cpus, packages()[i])) return static_cast<int>(i);
    }
    return -1;
  };
  std::vector<int> order;
  for (int i = 0; i < count; ++i) {
    order.push_back(nodes_[static_cast<std::size_t>((self + i) % count)].os_index);
  }
  if (!has_node(node)) return order;
  const int home = package_of(node);
  const auto key = [&](int other) {
    const bool near = other == node || (home >= 0 && package_of(other) == home);
    return std::pair(other == node ? 0 : distance(node, other), near ? 0 : 1);
  };
  std::stable_sort(order.begin() + 1, order.end(), [&](int a, int b) { return key(a) < key(b); });
  return order;
}

int Topology::memory_node(int node) const {
  for (const int candidate : steal_order(node)) {
    if (nodes_[static_cast<std::size_t>(place_of(candidate))].memory_bytes > 0) return candidate;
  }
  return -1;
}

}  // namespace millrace::sched
