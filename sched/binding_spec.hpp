// The grammar of binding texts. Reading a text needs no topology; what it means on one is place
// evaluation, below.
//
//   binding   = policy | locations | places | cpu-list
//   policy    = none | compact | spread | numa | l3 | core | thread
//   locations = location { ("," | " ") location }        each may begin with "hwloc:"
//   location  = type [":" index] { "." type ":" index }
//   type      = machine | package | numa | l3 | l2 | core | pu      (and hwloc's other spellings)
//   index     = n | n-m | n- | n:count[:stride] | all | odd | even      logical, as hwloc counts
//   places    = [ "spread " | "close " ] ( abstract [ "(" n ")" ] | interval { "," interval } )
//   abstract  = threads | cores | ll_caches | numa_domains | sockets
//   interval  = place [":" count [":" stride]] | "!" place
//   place     = "{" resource { "," resource } "}";  resource = n [":" count [":" stride]] | "!" n
//   cpu-list  = n | n-m | n-m:stride, separated by ","
//
// Letters may be of either case. Numbers are below 65536 and a text names at most 65536 places.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sched/topology.hpp"

namespace millrace::sched {

enum class Policy { none, compact, spread, numa, l3, core, thread, divided, places };

/// Which objects of a kind: first, first + stride, ... count of them; count -1: to the end.
struct IndexRange {
  int first = 0;
  int count = -1;
  int stride = 1;
};

struct LocationStep {
  Level level = Level::machine;
  IndexRange index;
};

/// A binding text, read.
struct BindingSpec {
  std::string text;
  Policy policy = Policy::none;
  bool sparse = false;                               // places: far apart, not one after the other
  std::vector<std::vector<LocationStep>> locations;  // divided: these, else cpus
  CpuSet cpus;
  bool abstract =
      false;  // places: the objects of `level`, at most `limit` (-1: all), else `places`
  Level level = Level::core;
  int limit = -1;
  std::vector<CpuSet> places;
};

/// ValueError naming the offending part.
BindingSpec parse_binding(std::string_view text);

/// The cpus of a divided binding, grouped by what was named in the order it was named; all of them
/// in `allowed`. ValueError for what is absent, or wholly (a list: in part) not allowed.
std::vector<CpuSet> evaluate_locations(const BindingSpec& spec, const Topology& topology,
                                       const CpuSet& allowed);
/// The places of a places binding, all of them in `allowed`. ValueError as above.
std::vector<CpuSet> evaluate_places(const BindingSpec& spec, const Topology& topology,
                                    const CpuSet& allowed);

}  // namespace millrace::sched
