#include "sched/hints.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <millrace/errors.hpp>
#include <optional>
#include <string_view>
#include <utility>

namespace millrace::sched {
namespace {

std::string_view look_up(const Environment& environment, const char* name) {
  const char* value = environment(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

std::optional<int> to_number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value < 0) {
    return std::nullopt;
  }
  return value;
}

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

// --- OpenMP ---

void add_openmp(const Environment& environment, std::vector<Hint>& hints) {
  const std::string places(look_up(environment, "OMP_PLACES"));
  // A list has a word for each level of nested parallelism: the first is the outermost.
  const std::string all = to_lower(look_up(environment, "OMP_PROC_BIND"));
  const std::string bind(split(all, ',').front());
  if (bind == "false") {
    hints.push_back({"none", "OMP_PROC_BIND"});
  } else if (!places.empty()) {
    const bool spread = bind == "spread";
    hints.push_back(
        {(spread ? "spread " : "") + places, spread ? "OMP_PLACES, OMP_PROC_BIND" : "OMP_PLACES"});
  } else if (bind == "spread") {
    hints.push_back({"spread", "OMP_PROC_BIND"});
  } else if (bind == "close") {
    hints.push_back({"compact", "OMP_PROC_BIND"});
  } else if (bind == "true") {
    hints.push_back({"core", "OMP_PROC_BIND"});
  }
}

// --- Slurm ---

// "0x1,0x2*3,0x4": entry `rank`, the list taken again from its start when it is short.
std::string_view list_entry(std::string_view list, int rank) {
  std::vector<std::pair<std::string_view, int>> entries;
  int total = 0;
  for (const std::string_view part : split(list, ',')) {
    const std::size_t star = part.find('*');
    const int times = star == std::string_view::npos
                          ? 1
                          : std::clamp(to_number(part.substr(star + 1)).value_or(1), 1, 65536);
    if (total > 1 << 24) break;
    entries.emplace_back(part.substr(0, star), times);
    total += times;
  }
  rank %= total;
  for (const auto& [entry, times] : entries) {
    if (rank < times) return entry;
    rank -= times;
  }
  return {};
}

std::optional<CpuSet> slurm_cpus(std::string_view type, std::string_view list, int rank) {
  const std::string_view entry = list_entry(list, rank);
  try {
    if (type == "mask_cpu") return parse_cpu_mask(entry);
    if (entry.starts_with("0x")) {
      const auto cpu = parse_cpu_mask(entry);  // a number in hexadecimal, not a mask
      int value = 0;
      for (const int bit : cpu) value |= bit < 17 ? 1 << bit : 0;
      return CpuSet{value};
    }
    return parse_cpu_list(entry);
  } catch (const ValueError&) {
    return std::nullopt;
  }
}

const char* slurm_policy(std::string_view type) {
  constexpr std::array<std::pair<std::string_view, const char*>, 9> kTypes = {{
      {"none", "none"},
      {"no", "none"},
      {"cores", "core"},
      {"rank", "core"},
      {"threads", "thread"},
      {"sockets", "sockets"},
      {"ldoms", "numa"},
      {"rank_ldom", "numa"},
      {"rank_cpu", "core"},
  }};
  for (const auto& [name, policy] : kTypes) {
    if (name == type) return policy;
  }
  return nullptr;
}

// SLURM_CPU_BIND is "[quiet|verbose,]type[:list]". It speaks of the tasks of a step, so it counts
// only inside one.
void add_slurm(const Environment& environment, const CpuSet& allowed, std::vector<Hint>& hints) {
  const auto rank = to_number(look_up(environment, "SLURM_LOCALID"));
  std::string_view rest = look_up(environment, "SLURM_CPU_BIND");
  if (!rank) return;
  while (!rest.empty()) {
    const std::size_t end = rest.find_first_of(":,");
    const std::string_view type = rest.substr(0, end);
    const std::string_view after = end == std::string_view::npos ? "" : rest.substr(end + 1);
    if (type == "mask_cpu" || type == "map_cpu") {
      const auto cpus = slurm_cpus(type, after, *rank);
      const CpuSet usable = cpu_intersection(cpus.value_or(CpuSet()), allowed);
      if (!usable.empty()) hints.push_back({format_cpu_list(usable), "SLURM_CPU_BIND"});
      return;
    }
    if (const char* policy = slurm_policy(type)) {
      hints.push_back({policy, "SLURM_CPU_BIND"});
      return;
    }
    rest = after;
  }
}

// --- MPI ---

const char* mpi_policy(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, const char*>, 10> kPolicies = {{
      {"core", "core"},
      {"hwthread", "thread"},
      {"l1cache", "core"},
      {"l2cache", "core"},
      {"l3cache", "l3"},
      {"numa", "numa"},
      {"socket", "sockets"},
      {"package", "sockets"},
      {"none", "none"},
      {"board", "none"},
  }};
  for (const auto& [word, policy] : kPolicies) {
    if (word == name) return policy;
  }
  return nullptr;
}

// Several ranks on a host that nobody has bound would put their workers on the same cpus: each
// takes its share of the cores.
std::string rank_share(int rank, int size, const Topology& topology, const CpuSet& allowed) {
  std::vector<CpuSet> cores;
  for (const CpuSet& core : topology.cores()) {
    CpuSet usable = cpu_intersection(core, allowed);
    if (!usable.empty()) cores.push_back(std::move(usable));
  }
  const auto part = static_cast<std::size_t>(rank % size);
  const auto parts = static_cast<std::size_t>(size);
  const std::size_t first = part * cores.size() / parts;
  const std::size_t last = std::max((part + 1) * cores.size() / parts, first + 1);
  CpuSet cpus;
  for (std::size_t i = first; i < std::min(last, cores.size()); ++i) {
    cpus = cpu_union(cpus, cores[i]);
  }
  return format_cpu_list(cpus);
}

// "4(x2),3" is the tasks on each node: 4, 4, 3.
std::optional<int> slurm_local_size(const Environment& environment) {
  int node = to_number(look_up(environment, "SLURM_NODEID")).value_or(0);
  for (const std::string_view part :
       split(look_up(environment, "SLURM_STEP_TASKS_PER_NODE"), ',')) {
    const std::size_t open = part.find("(x");
    int times = 1;
    if (open != std::string_view::npos && part.ends_with(')')) {
      times = to_number(part.substr(open + 2, part.size() - open - 3)).value_or(1);
    }
    if (node < times) return to_number(part.substr(0, open));
    node -= times;
  }
  return std::nullopt;
}

void add_rank_share(const Environment& environment, const Topology& topology, const CpuSet& allowed,
                    std::vector<Hint>& hints) {
  constexpr std::array<std::pair<const char*, const char*>, 2> kLaunchers = {{
      {"OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
      {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
  }};
  if (allowed != topology.allowed()) return;  // somebody has bound this rank: that is its share
  const auto add = [&](const char* name, std::optional<int> rank, std::optional<int> size) {
    if (!rank || !size || *size < 2) return;
    hints.push_back({rank_share(*rank, *size, topology, allowed), name});
  };
  for (const auto& [rank, size] : kLaunchers) {
    add(rank, to_number(look_up(environment, rank)), to_number(look_up(environment, size)));
  }
  add("SLURM_LOCALID", to_number(look_up(environment, "SLURM_LOCALID")),
      slurm_local_size(environment));
}

void add_mpi(const Environment& environment, std::vector<Hint>& hints) {
  if (look_up(environment, "OMPI_COMM_WORLD_LOCAL_RANK").empty()) return;
  for (const char* name :
       {"OMPI_MCA_hwloc_base_binding_policy", "PRTE_MCA_hwloc_default_binding_policy"}) {
    const std::string value = to_lower(look_up(environment, name));
    // Qualifiers follow a colon ("core:overload-allowed").
    const char* policy = mpi_policy(split(value, ':').front());
    if (policy != nullptr) hints.push_back({policy, name});
  }
}

}  // namespace

const char* process_environment(const char* name) { return std::getenv(name); }

std::vector<Hint> batch_hints(const Environment& environment, const Topology& topology,
                              const CpuSet& allowed) {
  std::vector<Hint> hints;
  add_openmp(environment, hints);
  add_slurm(environment, allowed, hints);
  add_mpi(environment, hints);
  // A rank that was told to be unbound among others still must not pile up on their cpus.
  std::vector<Hint> shares;
  add_rank_share(environment, topology, allowed, shares);
  if (hints.empty() || (hints.front().text == "none" && hints.front().source != "OMP_PROC_BIND")) {
    hints.insert(hints.begin(), shares.begin(), shares.end());
  }
  return hints;
}

}  // namespace millrace::sched
