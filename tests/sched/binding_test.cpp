#include "sched/binding.hpp"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <millrace/errors.hpp>
#include <system_error>
#include <thread>

#include "tests/sched/topologies.hpp"

namespace millrace::sched {
namespace {

Environment environment_of(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const char* name) {
    const auto at = variables.find(name);
    return at == variables.end() ? nullptr : at->second.c_str();
  };
}

std::string resolved(const std::optional<Binding>& option, Consumer consumer,
                     std::map<std::string, std::string> variables) {
  const Binding binding =
      resolve(option, consumer, environment_of(std::move(variables)), two_by_sixteen());
  return binding.text() + " (" + binding.source() + ")";
}

// Bindings are a thread's own, so tests bind threads of their own.
void in_a_thread(const std::function<void()>& body) { std::thread(body).join(); }

TEST(Binding, IsReadImplicitlyFromText) {
  const Binding from_literal = "numa";
  const Binding from_string = std::string(" core ");
  EXPECT_EQ(from_literal.text(), "numa");
  EXPECT_EQ(from_string.text(), "core");
  EXPECT_EQ(from_literal, Binding::parse("numa"));
  EXPECT_FALSE(from_literal == from_string);
  EXPECT_THROW(Binding(static_cast<const char*>(nullptr)), ValueError);
  EXPECT_THROW(Binding::parse("nonsense"), ValueError);
}

TEST(Binding, TheOptionWinsThenTheEnvironmentThenHintsThenTheDefault) {
  const std::map<std::string, std::string> all = {{"MILLRACE_BIND", "l3"}, {"OMP_PLACES", "cores"}};
  EXPECT_EQ(resolved(Binding("compact"), Consumer::pool, all), "compact (bind option)");
  EXPECT_EQ(resolved({}, Consumer::pool, all), "l3 (MILLRACE_BIND)");
  EXPECT_EQ(resolved({}, Consumer::process, all), "l3 (MILLRACE_BIND)");
  EXPECT_EQ(resolved({}, Consumer::pool, {{"OMP_PLACES", "cores"}}), "cores (OMP_PLACES)");
  EXPECT_EQ(resolved({}, Consumer::pool, {}), "numa (default)");
  EXPECT_EQ(resolved({}, Consumer::process, {}), "none (default)");
  EXPECT_EQ(resolved({}, Consumer::pool, {{"MILLRACE_BIND", ""}}), "numa (default)");
}

TEST(Binding, ABadEnvironmentIsNamed) {
  const auto refusal = [](const char* setting) -> std::string {
    try {
      return resolved({}, Consumer::pool, {{"MILLRACE_BIND", setting}});
    } catch (const ValueError& error) {
      return error.what();
    }
  };
  EXPECT_EQ(refusal("nonsense"), "MILLRACE_BIND: binding 'nonsense': unknown name 'nonsense'");
  EXPECT_EQ(refusal("30-33"),
            "MILLRACE_BIND: binding '30-33': cpus 32-33 are absent or not allowed (allowed: 0-31)");
  EXPECT_EQ(refusal("numa:9"), "MILLRACE_BIND: binding 'numa:9': there is no numa:9, only 2 there");
}

TEST(Binding, AHintThatCannotBeFollowedIsPassedOverAndNamed) {
  EXPECT_EQ(resolved({}, Consumer::pool, {{"OMP_PLACES", "{99}"}}),
            "numa (default; OMP_PLACES ignored: binding '{99}': cpus 99 are absent or not allowed "
            "(allowed: 0-31))");
  EXPECT_EQ(resolved({}, Consumer::pool,
                     {{"OMP_PLACES", "{9"}, {"SLURM_CPU_BIND", "cores"}, {"SLURM_LOCALID", "0"}}),
            "core (SLURM_CPU_BIND; OMP_PLACES ignored: binding '{9': ends where '}' is missing)");
}

TEST(Binding, BindSelfReturnsWhatTheKernelSays) {
  in_a_thread([] {
    const CpuSet before = thread_affinity();
    const CpuSet one = {before.back()};
    EXPECT_EQ(bind_self(one), one);
    EXPECT_EQ(thread_affinity(), one);
    EXPECT_EQ(bind_self({}), one) << "an empty set binds nothing";
    EXPECT_EQ(bind_self(before), before);
  });
}

TEST(Binding, BindSelfOnAnotherMachinesTopologyBindsNothing) {
  in_a_thread([] {
    const CpuSet before = thread_affinity();
    EXPECT_EQ(bind_self({31}, two_by_sixteen()), before);
    EXPECT_EQ(thread_affinity(), before);
  });
}

TEST(Binding, BindSelfNamesCpusTheKernelRefuses) {
  in_a_thread([] {
    try {
      bind_self({kMaxCpu});
      ADD_FAILURE() << "the machine has so many cpus?";
    } catch (const std::system_error& error) {
      EXPECT_NE(std::string(error.what()).find("65535"), std::string::npos) << error.what();
    }
  });
}

TEST(Binding, PreferredNodesAreTheKernelsPolicy) {
  in_a_thread([] {
    const int node = Topology::system().nodes().front().os_index;
    const bool done = prefer_node(node);
    int mode = -1;
    unsigned long mask[16] = {};
    const long rc = syscall(SYS_get_mempolicy, &mode, mask, 8 * sizeof mask, nullptr, 0);
    if (rc == 0 && done) {
      EXPECT_EQ(mode, MPOL_PREFERRED);
      EXPECT_EQ(mask[0], 1UL << node);
    } else {
      EXPECT_NE(mode, MPOL_PREFERRED);
    }
    EXPECT_FALSE(prefer_node(-1));
    EXPECT_FALSE(prefer_node(4000));
    EXPECT_FALSE(prefer_node(0, two_by_sixteen()));
  });
}

TEST(Binding, ReportsAreOneLine) {
  EXPECT_EQ(format_binding("ForkPoolWorker-1", 4711, {{0, 1, 2, 3}, 0, "numa (default)"}),
            "millrace: ForkPoolWorker-1 (pid 4711) cpus 0-3 node 0: numa (default)");
  EXPECT_EQ(format_binding("w", 1, {{}, -1, "none (default)"}),
            "millrace: w (pid 1) cpus unbound no one node: none (default)");
  EXPECT_TRUE(report_bindings(environment_of({{"MILLRACE_REPORT_BINDINGS", "1"}})));
  EXPECT_FALSE(report_bindings(environment_of({{"MILLRACE_REPORT_BINDINGS", "0"}})));
  EXPECT_FALSE(report_bindings(environment_of({})));
}

TEST(Affinity, ThePublicTopologyIsThisProcesss) {
  const affinity::Topology here = affinity::topology();
  EXPECT_GE(here.packages(), 1);
  EXPECT_GE(here.nodes(), 1);
  EXPECT_GE(here.l3_groups(), 1);
  EXPECT_GE(here.cores(), 1);
  EXPECT_GE(here.pus(), here.cores());
  const int node = Topology::system().nodes().front().os_index;
  EXPECT_EQ(here.distance(node, node), 10);
  EXPECT_THROW(static_cast<void>(here.distance(node, 4000)), IndexError);
  EXPECT_EQ(here.allowed_cpus(), process_affinity());
  EXPECT_EQ(affinity::plan("numa", 4).size(), 4U);
  EXPECT_THROW(affinity::plan("numa", 0), ValueError);
}

}  // namespace
}  // namespace millrace::sched
