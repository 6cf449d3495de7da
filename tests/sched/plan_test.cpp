#include "sched/plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <millrace/errors.hpp>
#include <random>
#include <string>

#include "tests/sched/topologies.hpp"

namespace millrace::sched {
namespace {

std::string show(const std::vector<PlannedWorker>& workers) {
  std::string text;
  for (const PlannedWorker& worker : workers) {
    text += (text.empty() ? "" : " ") + format_cpu_list(worker.cpus);
    text += worker.node < 0 ? "@" : "@" + std::to_string(worker.node);
  }
  return text;
}

std::string planned(const Topology& machine, const char* binding, int workers, int cores = 1) {
  return show(sched::plan(binding, workers, cores, machine));
}

std::map<int, int> per_node(const std::vector<PlannedWorker>& workers) {
  std::map<int, int> count;
  for (const PlannedWorker& worker : workers) ++count[worker.node];
  return count;
}

TEST(Plan, OneNodeOfTwoCores) {
  const Topology machine = laptop();
  EXPECT_EQ(planned(machine, "compact", 2), "0@0 1@0");
  EXPECT_EQ(planned(machine, "spread", 2), "0@0 1@0");
  EXPECT_EQ(planned(machine, "numa", 2), "0-1@0 0-1@0");
  EXPECT_EQ(planned(machine, "l3", 1), "0-1@0");
  EXPECT_EQ(planned(machine, "core", 5), "0@0 0@0 0@0 1@0 1@0");
  EXPECT_EQ(planned(machine, "thread", 2), "0@0 1@0");
  EXPECT_EQ(planned(machine, "none", 2), "@ @");
  EXPECT_EQ(planned(machine, "core", 1, 2), "0-1@0");
}

TEST(Plan, TwoNodesOfSixteenCores) {
  const Topology machine = two_by_sixteen();
  EXPECT_EQ(planned(machine, "compact", 4), "0@0 1@0 2@0 3@0");
  EXPECT_EQ(planned(machine, "spread", 5), "0@0 16@1 8@0 24@1 1@0");
  EXPECT_EQ(planned(machine, "core", 4), "0@0 8@0 16@1 24@1");
  EXPECT_EQ(planned(machine, "numa", 4), "0-15@0 0-15@0 16-31@1 16-31@1");
  EXPECT_EQ(planned(machine, "l3", 4), "0-7@0 8-15@0 16-23@1 24-31@1");
  EXPECT_EQ(planned(machine, "numa", 3), "0-15@0 0-15@0 16-31@1");
  EXPECT_EQ(planned(machine, "compact", 3, 6), "0-5@0 6-11@0 16-21@1") << "groups stay in a node";
  EXPECT_EQ(planned(machine, "spread", 3, 8), "0-7@0 16-23@1 8-15@0");
  EXPECT_EQ(planned(machine, "core", 1, 20), "0-19@") << "no node has so many";
  EXPECT_EQ(planned(machine, "core", 2, 99), "0-31@ 0-31@");
  const auto full = sched::plan("core", 32, 1, machine);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(full[static_cast<std::size_t>(i)].cpus, CpuSet{i}) << "a core each";
  }
}

TEST(Plan, EightNodesOfSixteenCoresWithTwoThreads) {
  const Topology machine = eight_by_sixteen();
  EXPECT_EQ(planned(machine, "numa", 2), "0-31@0 128-159@4") << "one to each package";
  EXPECT_EQ(planned(machine, "core", 2), "0-1@0 128-129@4");
  EXPECT_EQ(planned(machine, "spread", 4), "0-1@0 128-129@4 32-33@1 160-161@5");
  EXPECT_EQ(planned(machine, "thread", 2), "0@0 128@4");
  EXPECT_EQ(planned(machine, "compact", 2, 2), "0-3@0 4-7@0");
  for (const auto& [node, count] : per_node(sched::plan("numa", 128, 1, machine))) {
    EXPECT_EQ(count, 16) << node;
  }
}

TEST(Plan, SecondHardwareThreadsComeLast) {
  const Topology machine = eight_by_sixteen();
  const auto cores = sched::plan("thread", 128, 1, machine);
  for (const PlannedWorker& worker : cores) EXPECT_EQ(worker.cpus.front() % 2, 0);
  const auto more = sched::plan("thread", 160, 1, machine);
  std::map<int, int> used;
  for (const PlannedWorker& worker : more) ++used[worker.cpus.front()];
  EXPECT_EQ(used.size(), 160U) << "no thread twice";
  for (int cpu = 0; cpu < 256; cpu += 2) EXPECT_EQ(used.count(cpu), 1U) << "every core once";
  for (const auto& [node, count] : per_node(more)) EXPECT_EQ(count, 20) << node;
}

TEST(Plan, AsymmetricAllowedSetsShareInProportion) {
  // Twelve cores on node 0, four on node 1.
  const Topology machine = two_by_sixteen().restricted_to(parse_cpu_list("0-11,28-31"));
  EXPECT_EQ(per_node(sched::plan("numa", 8, 1, machine)), (std::map<int, int>{{0, 6}, {1, 2}}));
  EXPECT_EQ(per_node(sched::plan("core", 16, 1, machine)), (std::map<int, int>{{0, 12}, {1, 4}}));
  EXPECT_EQ(planned(machine, "l3", 3), "0-7@0 8-11@0 28-31@1");
  EXPECT_EQ(planned(machine, "spread", 6), "0@0 28@1 8@0 29@1 1@0 30@1");
  for (const char* binding : {"compact", "spread", "core", "thread", "machine", "numa", "l3"}) {
    CpuSet used;
    for (const auto& worker : sched::plan(binding, 16, 1, machine)) {
      EXPECT_FALSE(worker.cpus.empty());
      used = cpu_union(used, worker.cpus);
    }
    EXPECT_EQ(used, machine.allowed()) << binding << " uses all and nothing else";
  }
}

TEST(Plan, AHalfAllowedCoreCountsAsOneCore) {
  const Topology machine = eight_by_sixteen().restricted_to({0, 1, 3, 5});
  EXPECT_EQ(planned(machine, "core", 3), "0-1@0 3@0 5@0");
  EXPECT_EQ(planned(machine, "thread", 4), "0@0 3@0 5@0 1@0");
}

TEST(Plan, NodesWithoutCpusGetNoWorkers) {
  const Topology machine = split_memory();
  EXPECT_EQ(planned(machine, "numa", 3), "0-1@0 0-1@0 2-3@2");
  EXPECT_EQ(planned(machine, "spread", 4), "0@0 2@2 1@0 3@2");
}

TEST(Plan, CpusWithoutANodeAreUsedToo) {
  const Topology machine = cpus_without_node();
  EXPECT_EQ(planned(machine, "numa", 2), "0-1@0 2-3@");
  EXPECT_EQ(planned(machine, "compact", 4), "0@0 1@0 2@ 3@");
  EXPECT_EQ(planned(machine, "core", 4), "0@0 1@0 2@ 3@");
}

TEST(Plan, MoreWorkersThanPlacesWrapRoundEvenly) {
  for (const char* binding : {"compact", "spread", "core", "thread", "0-31", "cores"}) {
    std::map<CpuSet, int> used;
    for (const auto& worker : sched::plan(binding, 96, 1, two_by_sixteen())) ++used[worker.cpus];
    EXPECT_EQ(used.size(), 32U) << binding;
    for (const auto& [cpus, count] : used) EXPECT_EQ(count, 3) << binding;
  }
}

TEST(Plan, ListsAndLocationsAreDivided) {
  const Topology machine = two_by_sixteen();
  EXPECT_EQ(planned(machine, "0-3,8", 1), "0-3,8@0");
  EXPECT_EQ(planned(machine, "0-3,8", 2), "0-1@0 2-3,8@0");
  EXPECT_EQ(planned(machine, "0-3,8", 5), "0@0 1@0 2@0 3@0 8@0");
  EXPECT_EQ(planned(machine, "0-3,8", 6), "0@0 1@0 2@0 3@0 8@0 0@0");
  EXPECT_EQ(planned(machine, "numa:1,numa:0", 2), "16-31@1 0-15@0") << "in the order named";
  EXPECT_EQ(planned(machine, "numa:0.core:0-3", 3, 2), "0-1@0 2-3@0 0-1@0");
  EXPECT_EQ(planned(eight_by_sixteen(), "core:0-1", 3), "0@0 2@0 1@0") << "threads when cores end";
  EXPECT_EQ(planned(machine, "core:0,core:0", 1), "0@0");
}

TEST(Plan, PlacesAreTakenInTurnOrFarApart) {
  const Topology machine = two_by_sixteen();
  EXPECT_EQ(planned(machine, "{0:4}:4:4", 2), "0-3@0 4-7@0");
  EXPECT_EQ(planned(machine, "spread {0:4}:4:4", 2), "0-3@0 8-11@0");
  EXPECT_EQ(planned(machine, "{0:4}:2:4", 4), "0-3@0 0-3@0 4-7@0 4-7@0");
  EXPECT_EQ(planned(machine, "{14:4}", 1), "14-17@") << "of no one node";
}

TEST(Plan, SourcesSayWhatWon) {
  EXPECT_EQ(sched::plan(Binding("numa"), 1, 1, Topology::load())[0].source, "numa (bind option)");
  EXPECT_EQ(sched::plan(Binding("core", "MILLRACE_BIND"), 1, 1, laptop())[0].source,
            "core (MILLRACE_BIND), not applied: not this machine's topology");
}

TEST(Plan, BadRequestsAreRefused) {
  EXPECT_THROW(sched::plan("numa", 0, 1, laptop()), ValueError);
  EXPECT_THROW(sched::plan("numa", -1, 1, laptop()), ValueError);
  EXPECT_THROW(sched::plan("numa", 1, 0, laptop()), ValueError);
  EXPECT_THROW(sched::plan("0-2", 1, 1, laptop()), ValueError);
  EXPECT_THROW(sched::plan("numa", 1, 1, laptop().restricted_to({})), ValueError);
}

TEST(Plan, SingleProcessesTakePlacesInTurn) {
  const Topology machine = two_by_sixteen();
  EXPECT_EQ(plan_process("core", 0, machine).cpus, (CpuSet{0}));
  EXPECT_EQ(plan_process("core", 33, machine).cpus, (CpuSet{1}));
  EXPECT_EQ(plan_process("numa", 1, machine).node, 1);
  EXPECT_EQ(plan_process("numa", 2, machine).node, 0);
  EXPECT_EQ(plan_process("{0:4}:2:4", 3, machine).cpus, (CpuSet{4, 5, 6, 7}));
  EXPECT_EQ(plan_process("0-3", 5, machine).cpus, (CpuSet{0, 1, 2, 3}));
  EXPECT_TRUE(plan_process("none", 5, machine).cpus.empty());
}

TEST(Plan, WorkersAreGroupedByNodeWithStealOrders) {
  const Topology machine = eight_by_sixteen();
  const auto groups =
      group_by_node(sched::plan("{128:32},{0:32},{32:32},{4}", 4, 1, machine), machine);
  EXPECT_EQ(groups.nodes, (std::vector<int>{4, 0, 1}));
  EXPECT_EQ(groups.shares, (std::vector<int>{1, 2, 1}));
  EXPECT_EQ(groups.index_of_worker, (std::vector<int>{0, 1, 2, 1}));
  ASSERT_EQ(groups.steal_order.size(), 3U);
  EXPECT_EQ(groups.steal_order[0], (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(groups.steal_order[1], (std::vector<int>{1, 2, 0}));
  EXPECT_EQ(groups.steal_order[2], (std::vector<int>{2, 1, 0}));
}

TEST(Plan, UnboundWorkersAreOneGroup) {
  const auto groups = group_by_node(sched::plan("none", 3, 1, laptop()), laptop());
  EXPECT_EQ(groups.nodes, (std::vector<int>{-1}));
  EXPECT_EQ(groups.shares, (std::vector<int>{3}));
}

TEST(Plan, EveryPolicyKeepsItsPromisesOnRandomAllowedSets) {
  std::mt19937 random(3);
  const Topology machines[] = {two_by_sixteen(), eight_by_sixteen(), split_memory(),
                               cpus_without_node()};
  for (int i = 0; i < 200; ++i) {
    const Topology& machine = machines[random() % 4];
    CpuSet allowed;
    for (const int cpu : machine.cpus()) {
      if (random() % 3 == 0) allowed.push_back(cpu);
    }
    if (allowed.empty()) continue;
    const Topology some = machine.restricted_to(allowed);
    const int workers = 1 + static_cast<int>(random() % 40);
    for (const char* binding : {"compact", "spread", "numa", "l3", "core", "thread", "cores"}) {
      const auto planned_workers = sched::plan(binding, workers, 1, some);
      ASSERT_EQ(planned_workers.size(), static_cast<std::size_t>(workers));
      std::map<CpuSet, int> used;
      for (const auto& worker : planned_workers) {
        ASSERT_FALSE(worker.cpus.empty());
        ASSERT_TRUE(is_subset(worker.cpus, allowed)) << binding;
        ++used[worker.cpus];
      }
      const std::string name = binding;
      if (name == "numa" || name == "l3") continue;
      int most = 0;
      int least = workers;
      for (const auto& [cpus, count] : used) {
        most = std::max(most, count);
        least = std::min(least, count);
      }
      ASSERT_LE(most - least, 1) << binding << " wraps round evenly";
    }
  }
}

}  // namespace
}  // namespace millrace::sched
