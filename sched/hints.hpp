// What the batch job around this program says about cpus: OpenMP's places, Slurm's and Open MPI's
// environment. The strongest word, the process's allowed cpus, is already in force; these only
// refine it, so one that cannot be followed is passed over.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sched/topology.hpp"

namespace millrace::sched {

/// Looks up an environment variable; nullptr when it is not set.
using Environment = std::function<const char*(const char* name)>;
/// getenv().
const char* process_environment(const char* name);

/// A binding text and the variable it was taken from.
struct Hint {
  std::string text;
  std::string source;
};

/// All hints found, the strongest first: OMP_PLACES and OMP_PROC_BIND, then Slurm, then Open MPI
/// and MPICH. `allowed` is what this process may use.
std::vector<Hint> batch_hints(const Environment& environment, const Topology& topology,
                              const CpuSet& allowed);

}  // namespace millrace::sched
