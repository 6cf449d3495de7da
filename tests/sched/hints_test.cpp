#include "sched/hints.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "sched/plan.hpp"
#include "tests/sched/topologies.hpp"

namespace millrace::sched {
namespace {

using Variables = std::map<std::string, std::string>;

Environment environment_of(Variables variables) {
  return [variables = std::move(variables)](const char* name) {
    const auto at = variables.find(name);
    return at == variables.end() ? nullptr : at->second.c_str();
  };
}

// The strongest hint as "text (source)", or "".
std::string strongest(Variables variables, const Topology& machine = two_by_sixteen(),
                      const char* allowed = "0-31") {
  const auto hints =
      batch_hints(environment_of(std::move(variables)), machine, parse_cpu_list(allowed));
  return hints.empty() ? "" : hints.front().text + " (" + hints.front().source + ")";
}

TEST(Hints, NoneWithoutABatchJob) {
  EXPECT_EQ(strongest({}), "");
  EXPECT_EQ(strongest({{"OMP_PLACES", ""}, {"SLURM_CPU_BIND", ""}}), "");
}

TEST(Hints, OpenMpPlacesAndBindings) {
  EXPECT_EQ(strongest({{"OMP_PLACES", "{0:4}:2:4"}}), "{0:4}:2:4 (OMP_PLACES)");
  EXPECT_EQ(strongest({{"OMP_PLACES", "cores"}, {"OMP_PROC_BIND", "close"}}), "cores (OMP_PLACES)");
  EXPECT_EQ(strongest({{"OMP_PLACES", "cores"}, {"OMP_PROC_BIND", "Spread,close"}}),
            "spread cores (OMP_PLACES, OMP_PROC_BIND)");
  EXPECT_EQ(strongest({{"OMP_PLACES", "cores"}, {"OMP_PROC_BIND", "FALSE"}}),
            "none (OMP_PROC_BIND)");
  EXPECT_EQ(strongest({{"OMP_PROC_BIND", "spread"}}), "spread (OMP_PROC_BIND)");
  EXPECT_EQ(strongest({{"OMP_PROC_BIND", "close"}}), "compact (OMP_PROC_BIND)");
  EXPECT_EQ(strongest({{"OMP_PROC_BIND", "true"}}), "core (OMP_PROC_BIND)");
  EXPECT_EQ(strongest({{"OMP_PROC_BIND", "rubbish"}}), "");
}

TEST(Hints, SlurmTaskMasksAndMaps) {
  const auto slurm = [](const char* bind, const char* rank) {
    return strongest({{"SLURM_CPU_BIND", bind}, {"SLURM_LOCALID", rank}});
  };
  EXPECT_EQ(slurm("quiet,mask_cpu:0x00000003,0x0000000C", "1"), "2-3 (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("quiet,mask_cpu:0x3,0xC", "2"), "0-1 (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("map_cpu:4,6,8", "2"), "8 (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("map_cpu:0x4,0x1f", "1"), "31 (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("verbose,map_cpu:4*2,6", "1"), "4 (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("map_cpu:4*2,6", "2"), "6 (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("quiet,cores", "0"), "core (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("threads", "0"), "thread (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("verbose,sockets", "0"), "sockets (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("ldoms", "0"), "numa (SLURM_CPU_BIND)");
  EXPECT_EQ(slurm("none", "0"), "none (SLURM_CPU_BIND)");
}

TEST(Hints, SlurmThatCannotBeFollowedIsNoHint) {
  const auto slurm = [](const char* bind) {
    return strongest({{"SLURM_CPU_BIND", bind}, {"SLURM_LOCALID", "0"}});
  };
  EXPECT_EQ(strongest({{"SLURM_CPU_BIND", "cores"}}), "") << "not in a step's task";
  EXPECT_EQ(slurm("mask_cpu:"), "");
  EXPECT_EQ(slurm("mask_cpu:0xzz"), "");
  EXPECT_EQ(slurm("map_cpu:77"), "") << "not allowed";
  EXPECT_EQ(slurm("autobind=threads"), "");
  EXPECT_EQ(slurm(",,,:"), "");
  EXPECT_EQ(strongest({{"SLURM_CPU_BIND", "cores"}, {"SLURM_LOCALID", "-1"}}), "");
}

TEST(Hints, OpenMpWinsOverSlurmAndSlurmOverOpenMpi) {
  Variables all = {{"OMP_PLACES", "cores"},
                   {"SLURM_CPU_BIND", "threads"},
                   {"SLURM_LOCALID", "0"},
                   {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                   {"OMPI_MCA_hwloc_base_binding_policy", "numa"}};
  EXPECT_EQ(strongest(all), "cores (OMP_PLACES)");
  all.erase("OMP_PLACES");
  EXPECT_EQ(strongest(all), "thread (SLURM_CPU_BIND)");
  all.erase("SLURM_CPU_BIND");
  EXPECT_EQ(strongest(all), "numa (OMPI_MCA_hwloc_base_binding_policy)");
}

TEST(Hints, OpenMpiPolicies) {
  const auto policy = [](const char* text) {
    return strongest(
        {{"OMPI_COMM_WORLD_LOCAL_RANK", "0"}, {"PRTE_MCA_hwloc_default_binding_policy", text}});
  };
  EXPECT_EQ(policy("core:overload-allowed"), "core (PRTE_MCA_hwloc_default_binding_policy)");
  EXPECT_EQ(policy("L3cache"), "l3 (PRTE_MCA_hwloc_default_binding_policy)");
  EXPECT_EQ(policy("package"), "sockets (PRTE_MCA_hwloc_default_binding_policy)");
  EXPECT_EQ(policy("bogus"), "");
}

TEST(Hints, UnboundRanksOfOneHostShareItsCores) {
  const auto ompi = [](const char* rank, const char* size, const char* allowed = "0-31") {
    return strongest({{"OMPI_COMM_WORLD_LOCAL_RANK", rank}, {"OMPI_COMM_WORLD_LOCAL_SIZE", size}},
                     two_by_sixteen(), allowed);
  };
  EXPECT_EQ(ompi("0", "2"), "0-15 (OMPI_COMM_WORLD_LOCAL_RANK)");
  EXPECT_EQ(ompi("3", "4"), "24-31 (OMPI_COMM_WORLD_LOCAL_RANK)");
  EXPECT_EQ(ompi("40", "64"), "20 (OMPI_COMM_WORLD_LOCAL_RANK)");
  EXPECT_EQ(ompi("0", "1"), "");
  EXPECT_EQ(ompi("1", "2", "16-31"), "") << "it is bound already: its mask is its share";
  EXPECT_EQ(strongest({{"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}}),
            "16-31 (MPI_LOCALRANKID)");
  EXPECT_EQ(strongest({{"SLURM_LOCALID", "1"},
                       {"SLURM_NODEID", "2"},
                       {"SLURM_STEP_TASKS_PER_NODE", "4(x2),2"}}),
            "16-31 (SLURM_LOCALID)");
  EXPECT_EQ(strongest({{"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                       {"OMPI_MCA_hwloc_base_binding_policy", "none"}}),
            "16-31 (OMPI_COMM_WORLD_LOCAL_RANK)");
}

}  // namespace
}  // namespace millrace::sched
