// Machines that tests plan for.
#pragma once

#include <string>

#include "sched/topology.hpp"

namespace millrace::sched {

inline Topology laptop() { return Topology::from_synthetic("pack:1 [numa] l3:1 core:2 pu:1"); }
/// Two packages of one node, 16 cores in two L3 groups.
inline Topology two_by_sixteen() {
  return Topology::from_synthetic("pack:2 [numa] l3:2 core:8 pu:1");
}
/// Eight nodes of 16 cores with two hardware threads in two packages; cpus n and n + 1 share a
/// core.
inline Topology eight_by_sixteen() {
  return Topology::from_synthetic("pack:2 group:4 [numa] l3:4 core:4 pu:2");
}
/// Two packages: nodes 0 and 2 have the cpus but no memory, 1 and 3 the memory.
inline Topology split_memory() {
  return Topology::from_synthetic("pack:2 [numa] [numa(memory=1073741824)] core:2 pu:1");
}

inline void replace(std::string& text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

/// As a file of lstopo, with uneven distances: 31 from node 0 to 1, 32 back.
inline std::string two_nodes_xml() {
  std::string xml = Topology::from_synthetic("pack:2 [numa] core:2 pu:1").export_xml();
  replace(xml, "  <support name=\"discovery.pu\"/>",
          "  <distances2 type=\"NUMANode\" nbobjs=\"2\" kind=\"5\" indexing=\"os\">"
          "<indexes length=\"4\">0 1 </indexes>"
          "<u64values length=\"12\">10 31 32 10 </u64values></distances2>\n"
          "  <support name=\"discovery.pu\"/>");
  return xml;
}

/// The same without node 1: cpus 2 and 3 belong to no node.
inline Topology cpus_without_node() {
  std::string xml = Topology::from_synthetic("pack:2 [numa] core:2 pu:1").export_xml();
  const std::size_t begin = xml.find("<object type=\"NUMANode\" os_index=\"1\"");
  const std::size_t end = xml.find("</object>", begin) + std::string("</object>").size();
  xml.erase(begin, end - begin);
  return Topology::from_xml(xml);
}

}  // namespace millrace::sched
