#include "sched/homes.hpp"

#include <gtest/gtest.h>

#include "tests/sched/topologies.hpp"

namespace {

using millrace::sched::home_cpus;
using millrace::sched::PlannedWorker;
using millrace::sched::Topology;

std::vector<PlannedWorker> workers_on(const std::vector<std::vector<int>>& sets) {
  std::vector<PlannedWorker> workers;
  for (const auto& cpus : sets) workers.push_back({cpus, -1, ""});
  return workers;
}

TEST(Homes, DifferWhileThereAreCpus) {
  const auto topology = Topology::from_synthetic("pack:1 [numa] core:4 pu:1");
  EXPECT_EQ(home_cpus(workers_on({{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}}), topology),
            (std::vector<int>{0, 1, 2}));
}

TEST(Homes, TakeFirstHardwareThreadsFirst) {
  const auto topology = Topology::from_synthetic("pack:1 [numa] core:2 pu:2");
  EXPECT_EQ(
      home_cpus(workers_on({{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}}), topology),
      (std::vector<int>{0, 2, 1, 3}));
}

TEST(Homes, LieInsideEachBinding) {
  const auto topology = Topology::from_synthetic("pack:2 [numa] core:2 pu:1");
  EXPECT_EQ(home_cpus(workers_on({{2, 3}, {0}, {0, 1}, {2, 3}}), topology),
            (std::vector<int>{2, 0, 1, 3}));
}

TEST(Homes, AreSharedEvenlyAmongTooManyWorkers) {
  const auto topology = Topology::from_synthetic("pack:1 [numa] core:2 pu:1");
  EXPECT_EQ(home_cpus(workers_on({{0, 1}, {0, 1}, {0, 1}, {0, 1}}), topology),
            (std::vector<int>{0, 1, 0, 1}));
}

TEST(Homes, AreNoneForAnUnboundWorker) {
  const auto topology = Topology::from_synthetic("pack:1 [numa] core:2 pu:1");
  EXPECT_EQ(home_cpus(workers_on({{}}), topology), (std::vector<int>{-1}));
}

}  // namespace
