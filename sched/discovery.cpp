// Topology out of hwloc: the only file that knows its types.
#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <millrace/errors.hpp>
#include <numeric>
#include <sstream>
#include <system_error>
#include <tuple>

#include "sched/topology.hpp"

namespace millrace::sched {
namespace {

using Handle = std::shared_ptr<hwloc_topology>;

Handle make_handle() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    throw std::system_error(errno, std::generic_category(), "hwloc_topology_init");
  }
  return Handle(raw, [](hwloc_topology_t topology) { hwloc_topology_destroy(topology); });
}

CpuSet to_cpus(hwloc_const_bitmap_t bitmap) {
  CpuSet cpus;
  if (bitmap == nullptr) return cpus;
  for (int cpu = hwloc_bitmap_first(bitmap); cpu >= 0 && cpu <= kMaxCpu;
       cpu = hwloc_bitmap_next(bitmap, cpu)) {
    cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<CpuSet> cpus_of_all(hwloc_topology_t topology, hwloc_obj_type_t type) {
  std::vector<CpuSet> sets;
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr) {
    sets.push_back(to_cpus(object->cpuset));
  }
  return sets;
}

}  // namespace

/// Fills a Topology from a loaded hwloc topology.
class Discovery {
 public:
  explicit Discovery(Handle handle) : handle_(std::move(handle)) {}

  Topology read(Origin origin) {
    result_.hwloc_ = handle_;
    result_.is_thissystem_ =
        origin == Origin::this_system && hwloc_topology_is_thissystem(handle_.get()) != 0;
    result_.allowed_ = to_cpus(hwloc_topology_get_allowed_cpuset(handle_.get()));
    const CpuSet all = to_cpus(hwloc_topology_get_topology_cpuset(handle_.get()));
    if (all.empty()) throw ValueError("topology without cpus");
    result_.allowed_ = cpu_intersection(result_.allowed_, all);
    read_nodes(all);
    read_objects(all);
    read_distances();
    return std::move(result_);
  }

 private:
  // A node whose memory is near several others' cpus (high-bandwidth memory, an expander) lists
  // them too; a cpu belongs to the node with the fewest cpus.
  void read_nodes(const CpuSet& all) {
    std::vector<hwloc_obj_t> objects;
    hwloc_obj_t object = nullptr;
    while ((object = hwloc_get_next_obj_by_type(handle_.get(), HWLOC_OBJ_NUMANODE, object)) !=
           nullptr) {
      objects.push_back(object);
    }
    std::vector<std::size_t> by_size(objects.size());
    std::iota(by_size.begin(), by_size.end(), std::size_t{0});
    std::sort(by_size.begin(), by_size.end(), [&](std::size_t a, std::size_t b) {
      const auto key = [&](std::size_t i) {
        return std::tuple(hwloc_bitmap_weight(objects[i]->cpuset), objects[i]->subtype != nullptr,
                          objects[i]->os_index);
      };
      return key(a) < key(b);
    });
    result_.node_of_cpu_.assign(static_cast<std::size_t>(all.back()) + 1, -1);
    std::vector<NumaNode> nodes(objects.size());
    for (const std::size_t i : by_size) {
      nodes[i].os_index = static_cast<int>(objects[i]->os_index);
      nodes[i].memory_bytes = objects[i]->attr->numanode.local_memory;
      for (const int cpu : cpu_intersection(to_cpus(objects[i]->cpuset), all)) {
        int& owner = result_.node_of_cpu_[static_cast<std::size_t>(cpu)];
        if (owner >= 0) continue;
        owner = nodes[i].os_index;
        nodes[i].cpus.push_back(cpu);
      }
    }
    result_.nodes_ = std::move(nodes);
    // Synthetic topologies give no size, and then every node counts as having memory.
    const auto empty = [](const NumaNode& node) { return node.memory_bytes == 0; };
    if (std::all_of(result_.nodes_.begin(), result_.nodes_.end(), empty)) {
      for (NumaNode& node : result_.nodes_) node.memory_bytes = 1;
    }
  }

  void read_objects(const CpuSet& all) {
    auto& objects = result_.objects_;
    objects.resize(static_cast<std::size_t>(Level::pu) + 1);
    const auto at = [&](Level level) -> std::vector<CpuSet>& {
      return objects[static_cast<std::size_t>(level)];
    };
    at(Level::machine) = {all};
    at(Level::package) = cpus_of_all(handle_.get(), HWLOC_OBJ_PACKAGE);
    if (at(Level::package).empty()) at(Level::package) = {all};
    for (const NumaNode& node : result_.nodes_) at(Level::numa).push_back(node.cpus);
    at(Level::l3) = cpus_of_all(handle_.get(), HWLOC_OBJ_L3CACHE);
    at(Level::l2) = cpus_of_all(handle_.get(), HWLOC_OBJ_L2CACHE);
    at(Level::core) = cpus_of_all(handle_.get(), HWLOC_OBJ_CORE);
    at(Level::pu) = cpus_of_all(handle_.get(), HWLOC_OBJ_PU);
    if (at(Level::l3).empty()) {
      for (const NumaNode& node : result_.nodes_) {
        if (!node.cpus.empty()) at(Level::l3).push_back(node.cpus);
      }
    }
    add_lone_cpus(at(Level::core), all);
  }

  // Cpus that no core lists (some virtual machines) are cores of their own.
  static void add_lone_cpus(std::vector<CpuSet>& cores, const CpuSet& all) {
    CpuSet in_cores;
    for (const CpuSet& core : cores) in_cores.insert(in_cores.end(), core.begin(), core.end());
    for (const int cpu : cpu_difference(all, make_cpu_set(std::move(in_cores)))) {
      cores.push_back({cpu});
    }
  }

  void read_distances() {
    unsigned count = 1;
    hwloc_distances_s* found = nullptr;
    if (hwloc_distances_get_by_type(handle_.get(), HWLOC_OBJ_NUMANODE, &count, &found,
                                    HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) != 0 ||
        count == 0) {
      return;
    }
    const std::size_t size = result_.nodes_.size();
    auto& matrix = result_.distance_;
    matrix.assign(size, std::vector<int>(size, 20));
    for (std::size_t i = 0; i < size; ++i) matrix[i][i] = 10;
    for (unsigned a = 0; a < found->nbobjs; ++a) {
      for (unsigned b = 0; b < found->nbobjs; ++b) {
        const unsigned i = found->objs[a]->logical_index;
        const unsigned j = found->objs[b]->logical_index;
        const hwloc_uint64_t value = found->values[a * found->nbobjs + b];
        if (i < size && j < size) {
          matrix[i][j] = static_cast<int>(std::min<hwloc_uint64_t>(value, 1'000'000));
        }
      }
    }
    hwloc_distances_release(handle_.get(), found);
  }

  Handle handle_;
  Topology result_;
};

Topology Topology::load() {
  const Handle handle = make_handle();
  if (hwloc_topology_load(handle.get()) != 0) {
    throw std::system_error(errno, std::generic_category(), "hwloc_topology_load");
  }
  return Discovery(handle).read(Origin::this_system);
}

Topology Topology::from_xml(std::string_view xml, Origin origin) {
  const Handle handle = make_handle();
  const std::string copy(xml);  // with the terminating zero that hwloc wants counted
  if (origin == Origin::this_system) {
    hwloc_topology_set_flags(handle.get(), HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM);
  }
  if (copy.size() > 1U << 30 ||
      hwloc_topology_set_xmlbuffer(handle.get(), copy.c_str(), static_cast<int>(copy.size() + 1)) !=
          0 ||
      hwloc_topology_load(handle.get()) != 0) {
    throw ValueError("topology XML of " + std::to_string(xml.size()) +
                     " bytes cannot be read by hwloc");
  }
  return Discovery(handle).read(origin);
}

Topology Topology::from_synthetic(const std::string& text) {
  const Handle handle = make_handle();
  if (hwloc_topology_set_synthetic(handle.get(), text.c_str()) != 0 ||
      hwloc_topology_load(handle.get()) != 0) {
    throw ValueError("synthetic topology '" + text + "' cannot be read by hwloc");
  }
  return Discovery(handle).read(Origin::elsewhere);
}

Topology Topology::from_setting(const std::string& setting) {
  constexpr std::string_view kSynthetic = "synthetic:";
  try {
    if (setting.starts_with(kSynthetic)) return from_synthetic(setting.substr(kSynthetic.size()));
    std::ifstream file(setting, std::ios::binary);
    std::ostringstream content;
    if (!file || !(content << file.rdbuf())) {
      throw ValueError("file '" + setting + "' cannot be read");
    }
    return from_xml(content.str());
  } catch (const ValueError& error) {
    throw ValueError(std::string("MILLRACE_TOPOLOGY: ") + error.what());
  }
}

std::string Topology::export_xml() const {
  auto* const topology = static_cast<hwloc_topology_t>(const_cast<void*>(hwloc_.get()));
  char* buffer = nullptr;
  int length = 0;
  if (hwloc_topology_export_xmlbuffer(topology, &buffer, &length, 0) != 0) {
    throw std::system_error(errno, std::generic_category(), "hwloc_topology_export_xmlbuffer");
  }
  std::string xml(buffer, static_cast<std::size_t>(std::max(length - 1, 0)));
  hwloc_free_xmlbuffer(topology, buffer);
  return xml;
}

}  // namespace millrace::sched
