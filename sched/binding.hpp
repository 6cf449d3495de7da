// Binding a process: which text counts, applying it, and what is reported. The kernel's answer is
// the truth: bind_self() returns what it says, not what was asked for.
//
// A process that dies between binding its cpus and its memory policy leaves nothing behind: both
// are its own.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "sched/hints.hpp"
#include "sched/plan.hpp"

namespace millrace::sched {

/// Who asks: pools are bound by default, single processes are not.
enum class Consumer { pool, process };

/// The binding that counts: `option`, else MILLRACE_BIND, else the batch job's hints, else "numa"
/// for a pool and "none" for a process. Its source() says which won, and which hints could not be
/// followed. ValueError for a bad MILLRACE_BIND.
Binding resolve(const std::optional<Binding>& option, Consumer consumer,
                const Environment& environment = process_environment,
                const Topology& topology = Topology::system());

/// Binds the calling thread to `cpus` and returns the cpus the kernel lets it use from now on.
/// Nothing is bound when `cpus` is empty or `topology` is not this machine's. std::system_error
/// naming the cpus when the kernel refuses.
CpuSet bind_self(const CpuSet& cpus, const Topology& topology = Topology::system());

/// Makes `node`, or the nearest one that has memory, the preferred node of the calling thread's new
/// pages. False, and nothing changed, when there is no such node, the topology is not this
/// machine's, or the system does not permit it (as some containers).
bool prefer_node(int node, const Topology& topology = Topology::system());

/// True when MILLRACE_REPORT_BINDINGS asks for a line per worker.
bool report_bindings(const Environment& environment = process_environment);

/// The line: "millrace: ForkPoolWorker-1 (pid 4711) cpus 0-3 node 0: numa (default)".
std::string format_binding(const std::string& name, pid_t pid, const PlannedWorker& worker);

}  // namespace millrace::sched
