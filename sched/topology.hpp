// The machine as the scheduler sees it: plain lists, read once by hwloc (or from a text in its
// place) and never changed. Everything here is a pure question about them, so it answers for a
// synthetic 8-node machine as for this one.
//
// Invariants
// 1. Objects of a kind are in hwloc's logical order; their cpu sets are whole, allowed or not.
// Which
//    cpus may be used is allowed(), and current_allowed() right now.
// 2. Every cpu is in exactly one core. A cpu may be in no NUMA node, a node may have no cpus.
// 3. Node numbers are the system's; places in the lists are never shown outside.
//
// A process that dies leaves nothing: all memory is private.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sched/cpu_list.hpp"

namespace millrace::sched {

/// A NUMA node.
struct NumaNode {
  int os_index = 0;
  CpuSet cpus;                     ///< may be empty: memory only
  std::uint64_t memory_bytes = 0;  ///< may be 0: cpus only
};

/// Kinds of objects that locations can name.
enum class Level { machine, package, numa, l3, l2, core, pu };

/// Whether a topology text describes the machine that runs this program.
enum class Origin { this_system, elsewhere };

class Topology {
 public:
  /// This machine, by hwloc. std::system_error when it cannot be read.
  static Topology load();
  /// From export_xml() or a file of lstopo. ValueError.
  static Topology from_xml(std::string_view xml, Origin origin = Origin::elsewhere);
  /// From hwloc's synthetic language: "pack:2 [numa] l3:1 core:16 pu:2". ValueError.
  static Topology from_synthetic(const std::string& text);
  /// From MILLRACE_TOPOLOGY's text: a file of XML, or synthetic:... ValueError.
  static Topology from_setting(const std::string& setting);

  /// The program's topology: MILLRACE_TOPOLOGY if it is set, else load(); read on first use. A
  /// forked child inherits it.
  static const Topology& system();
  /// What system() has read; null: nobody has asked.
  static const Topology* known() noexcept;
  /// How processes of a program that are no forks of each other read the machine once for all.
  struct Relay {
    std::string (*take)() = nullptr;  ///< export_xml() of one that has read it, "": none has
    void (*offer)(const Topology& topology) noexcept = nullptr;  ///< had to read it itself
  };
  /// For such a process, which may run nothing else yet: system() will ask it first. Not where
  /// MILLRACE_TOPOLOGY is set.
  static void set_relay(const Relay& relay) noexcept;

  /// The same, of which only `cpus` may be used.
  [[nodiscard]] Topology restricted_to(const CpuSet& cpus) const;
  /// hwloc's XML, from which another process makes the same topology.
  [[nodiscard]] std::string export_xml() const;
  /// False: bindings are planned and reported, not applied.
  [[nodiscard]] bool is_thissystem() const noexcept { return is_thissystem_; }

  [[nodiscard]] const std::vector<NumaNode>& nodes() const noexcept { return nodes_; }
  /// Cpu sets of all objects of a kind. l3: where there is no such cache, the nodes with cpus.
  [[nodiscard]] const std::vector<CpuSet>& objects(Level level) const noexcept;
  [[nodiscard]] const std::vector<CpuSet>& packages() const noexcept {
    return objects(Level::package);
  }
  [[nodiscard]] const std::vector<CpuSet>& l3_groups() const noexcept { return objects(Level::l3); }
  [[nodiscard]] const std::vector<CpuSet>& cores() const noexcept { return objects(Level::core); }
  [[nodiscard]] const std::vector<CpuSet>& pus() const noexcept { return objects(Level::pu); }
  /// All cpus.
  [[nodiscard]] const CpuSet& cpus() const noexcept { return objects(Level::machine).front(); }

  /// The cpus that could be used when the topology was read.
  [[nodiscard]] const CpuSet& allowed() const noexcept { return allowed_; }
  /// Of these, the ones this process may use now: narrower in a child that was bound.
  [[nodiscard]] CpuSet current_allowed() const;

  /// The node that a cpu belongs to, -1: none.
  [[nodiscard]] int node_of_cpu(int cpu) const noexcept;
  /// The node that holds all of `cpus`, -1: none does, or `cpus` is empty.
  [[nodiscard]] int node_of(const CpuSet& cpus) const noexcept;
  [[nodiscard]] bool has_node(int node) const noexcept;
  /// Relative distance of two nodes: the machine's own figures, else 10 and 20. -1 counts as a node
  /// far from all.
  [[nodiscard]] int distance(int a, int b) const noexcept;
  /// All nodes by distance from `node`, itself first; of equal ones the next number upwards first,
  /// round, so that not everybody goes to node 0.
  [[nodiscard]] std::vector<int> steal_order(int node) const;
  /// The node for memory that is used on `node`: itself, or the nearest that has memory; -1: none.
  [[nodiscard]] int memory_node(int node) const;

 private:
  friend class Discovery;
  Topology() = default;
  [[nodiscard]] int place_of(int node) const noexcept;

  std::vector<NumaNode> nodes_;
  std::vector<std::vector<CpuSet>> objects_;  // by Level
  std::vector<std::vector<int>> distance_;    // by place in nodes_
  std::vector<int> node_of_cpu_;              // by cpu
  CpuSet allowed_;
  bool is_thissystem_ = false;
  std::shared_ptr<const void> hwloc_;  // for export_xml()
};

}  // namespace millrace::sched
