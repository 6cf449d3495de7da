// Where processes run: the machine's topology, what a binding text means, and who would be bound
// where. Node and cpu numbers are the system's own (as in /sys/devices/system).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace millrace::affinity {

/// How workers are bound to cpus. Texts:
///   none      not bound at all
///   compact   a core each, filling one NUMA node before the next
///   spread    a core each, round-robin over packages and nodes
///   numa, l3  all cpus of a node (of a group sharing an L3 cache); workers in proportion to cpus
///   core      a core each; thread: a hardware thread each, second threads only when cores run out
///   numa:0.core:0-3       hwloc locations; cpus divided evenly among the workers
///   {0:4}:2:4, cores(8)   OpenMP places, one worker after the other
///   0-3,8                 a cpu list; divided evenly among the workers
/// Python: none.
class Binding {
 public:
  /// Reads `text`. ValueError naming the offending part.
  static Binding parse(std::string_view text);
  Binding(const char* text);         // NOLINT(google-explicit-constructor): implicit from text
  Binding(const std::string& text);  // NOLINT(google-explicit-constructor): implicit from text
  Binding(std::string_view text);    // NOLINT(google-explicit-constructor): implicit from text
  /// The same, with where the text came from, for reports.
  Binding(std::string_view text, std::string source);

  /// The text it was read from, without surrounding blanks.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  /// Where the text came from: "bind option", "MILLRACE_BIND", "OMP_PLACES", "default"...
  [[nodiscard]] const std::string& source() const noexcept { return source_; }
  friend bool operator==(const Binding& a, const Binding& b) { return a.text_ == b.text_; }

 private:
  std::string text_;
  std::string source_;
};

/// One worker of a plan.
struct PlannedWorker {
  std::vector<int> cpus;  ///< sorted; empty: not bound
  int node = -1;          ///< NUMA node that has all of them, -1: none or several
  std::string source;     ///< which text won and where it came from: "numa (default)"
};

/// The machine, or what MILLRACE_TOPOLOGY puts in its place. Read once per program.
class Topology {
 public:
  /// Processor packages (sockets).
  [[nodiscard]] int packages() const;
  /// NUMA nodes, with or without cpus.
  [[nodiscard]] int nodes() const;
  /// Groups of cores that share an L3 cache; where there is none, NUMA nodes with cpus.
  [[nodiscard]] int l3_groups() const;
  /// Cores.
  [[nodiscard]] int cores() const;
  /// Hardware threads.
  [[nodiscard]] int pus() const;
  /// Relative distance from node `a` to node `b`: 10 is local. IndexError for an absent node.
  [[nodiscard]] int distance(int a, int b) const;
  /// The cpus this process may use, sorted.
  [[nodiscard]] std::vector<int> allowed_cpus() const;
};

/// The topology. std::system_error or ValueError when MILLRACE_TOPOLOGY cannot be read.
Topology topology();

/// Where `workers` workers would be bound. Nothing is bound. ValueError for less than one worker,
/// or for cpus or places that are absent or not allowed, naming them.
std::vector<PlannedWorker> plan(const Binding& binding, int workers);

}  // namespace millrace::affinity
