#include "sched/topology.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <millrace/errors.hpp>
#include <string>

#include "tests/sched/topologies.hpp"

namespace millrace::sched {
namespace {

TEST(Topology, ThisMachineHasCpusThatThisProcessMayUse) {
  const Topology here = Topology::load();
  EXPECT_TRUE(here.is_thissystem());
  EXPECT_FALSE(here.cores().empty());
  EXPECT_FALSE(here.nodes().empty());
  EXPECT_EQ(here.current_allowed(), cpu_intersection(process_affinity(), here.allowed()));
  EXPECT_TRUE(is_subset(here.current_allowed(), here.cpus()));
  CpuSet in_cores;
  for (const CpuSet& core : here.cores()) in_cores.insert(in_cores.end(), core.begin(), core.end());
  EXPECT_EQ(in_cores.size(), here.cpus().size()) << "every cpu is in exactly one core";
  EXPECT_EQ(make_cpu_set(in_cores), here.cpus());
}

TEST(Topology, SurvivesTheTripThroughXml) {
  const Topology here = Topology::load();
  const Topology copy = Topology::from_xml(here.export_xml(), Origin::this_system);
  EXPECT_TRUE(copy.is_thissystem());
  EXPECT_EQ(copy.cores(), here.cores());
  EXPECT_EQ(copy.allowed(), here.allowed());
  EXPECT_EQ(copy.nodes().size(), here.nodes().size());
  EXPECT_FALSE(Topology::from_xml(here.export_xml()).is_thissystem());
}

TEST(Topology, SyntheticMachinesAreCounted) {
  const Topology big = eight_by_sixteen();
  EXPECT_FALSE(big.is_thissystem());
  EXPECT_EQ(big.packages().size(), 2U);
  EXPECT_EQ(big.nodes().size(), 8U);
  EXPECT_EQ(big.l3_groups().size(), 32U);
  EXPECT_EQ(big.cores().size(), 128U);
  EXPECT_EQ(big.pus().size(), 256U);
  EXPECT_EQ(big.node_of_cpu(0), 0);
  EXPECT_EQ(big.node_of_cpu(255), 7);
  EXPECT_EQ(big.node_of_cpu(256), -1);
  EXPECT_EQ(big.node_of_cpu(-1), -1);
  EXPECT_EQ(big.node_of({0, 31}), 0);
  EXPECT_EQ(big.node_of({31, 32}), -1);
  EXPECT_EQ(big.node_of({}), -1);
}

TEST(Topology, WithoutL3NodesStandInForGroups) {
  EXPECT_EQ(Topology::from_synthetic("numa:2 core:4 pu:1").l3_groups().size(), 2U);
}

TEST(Topology, WithoutCoresEveryCpuIsOne) {
  EXPECT_EQ(Topology::from_synthetic("numa:2 pu:3").cores().size(), 6U);
}

TEST(Topology, DistancesAreTheMachinesOwnElseTenAndTwenty) {
  const Topology plain = two_by_sixteen();
  EXPECT_EQ(plain.distance(0, 0), 10);
  EXPECT_EQ(plain.distance(0, 1), 20);
  const Topology measured = Topology::from_xml(two_nodes_xml());
  EXPECT_EQ(measured.distance(0, 0), 10);
  EXPECT_EQ(measured.distance(0, 1), 31);
  EXPECT_EQ(measured.distance(1, 0), 32);
  EXPECT_GT(measured.distance(0, 5), 32) << "an absent node is far";
}

TEST(Topology, StealOrderBeginsAtHomeThenThePackageThenUpwards) {
  const Topology big = eight_by_sixteen();
  EXPECT_EQ(big.steal_order(0), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(big.steal_order(5), (std::vector<int>{5, 6, 7, 4, 0, 1, 2, 3}));
  EXPECT_EQ(big.steal_order(-1).size(), 8U);
}

TEST(Topology, StealOrderFollowsDistances) {
  // A ring of four: opposite nodes are farther than neighbours.
  std::string xml = Topology::from_synthetic("numa:4 core:2 pu:1").export_xml();
  replace(xml, "  <support name=\"discovery.pu\"/>",
          "  <distances2 type=\"NUMANode\" nbobjs=\"4\" kind=\"5\" indexing=\"os\">"
          "<indexes length=\"8\">0 1 2 3 </indexes>"
          "<u64values length=\"48\">10 16 22 16 16 10 16 22 22 16 10 16 16 22 16 10 </u64values>"
          "</distances2>\n  <support name=\"discovery.pu\"/>");
  const Topology ring = Topology::from_xml(xml);
  EXPECT_EQ(ring.steal_order(1), (std::vector<int>{1, 2, 0, 3}));
}

TEST(Topology, MemoryIsFoundWhereANodeHasNone) {
  const Topology split = split_memory();
  EXPECT_EQ(split.nodes()[0].cpus, (CpuSet{0, 1}));
  EXPECT_TRUE(split.nodes()[1].cpus.empty());
  EXPECT_EQ(split.node_of_cpu(2), 2);
  EXPECT_EQ(split.memory_node(0), 1);
  EXPECT_EQ(split.memory_node(2), 3);
  EXPECT_EQ(split.memory_node(1), 1);
  EXPECT_EQ(two_by_sixteen().memory_node(1), 1);
}

TEST(Topology, CpusMayBelongToNoNode) {
  const Topology odd = cpus_without_node();
  EXPECT_EQ(odd.nodes().size(), 1U);
  EXPECT_EQ(odd.node_of_cpu(1), 0);
  EXPECT_EQ(odd.node_of_cpu(3), -1);
  EXPECT_EQ(odd.cores().size(), 4U);
}

TEST(Topology, RestrictionNarrowsWhatIsAllowed) {
  const Topology some = laptop().restricted_to({1, 5});
  EXPECT_EQ(some.allowed(), (CpuSet{1}));
  EXPECT_EQ(some.current_allowed(), (CpuSet{1}));
  EXPECT_EQ(some.cores().size(), 2U);
}

TEST(Topology, SettingsNameAFileOrASyntheticMachine) {
  const std::string path = testing::TempDir() + "millrace_topology.xml";
  std::ofstream(path) << two_nodes_xml();
  const Topology read = Topology::from_setting(path);
  EXPECT_EQ(read.nodes().size(), 2U);
  EXPECT_FALSE(read.is_thissystem());
  std::remove(path.c_str());
  EXPECT_EQ(Topology::from_setting("synthetic:core:3 pu:1").cores().size(), 3U);
}

TEST(Topology, BadSettingsAreNamed) {
  for (const std::string setting :
       {"/nonexistent/topology.xml", "synthetic:", "synthetic:pack:zwei", "synthetic", "/", ""}) {
    try {
      Topology::from_setting(setting);
      ADD_FAILURE() << "'" << setting << "' was read";
    } catch (const ValueError& error) {
      EXPECT_EQ(std::string(error.what()).find("MILLRACE_TOPOLOGY: "), 0U) << error.what();
    }
  }
  EXPECT_THROW(Topology::from_xml("<topology"), ValueError);
  EXPECT_THROW(Topology::from_xml(""), ValueError);
}

TEST(Topology, TheSystemTopologyIsReadOnce) {
  EXPECT_EQ(&Topology::system(), &Topology::system());
  EXPECT_EQ(&Topology::system(), Topology::known());
}

std::string g_relayed;  // what the relay of these tests has to give
std::string g_offered;  // and what it got
constexpr Topology::Relay kRelay{
    [] { return g_relayed; }, [](const Topology& read) noexcept { g_offered = read.export_xml(); }};

// Ends a process that has read nothing before, with 0 if `is` holds of what it has read now.
template <class Condition>
[[noreturn]] void read_by_relay(const std::string& given, Condition is) {
  g_relayed = given;
  Topology::set_relay(kRelay);
  std::_Exit(Topology::known() == nullptr && is(Topology::system()) ? 0 : 1);
}

TEST(TopologyDeathTest, ARelayIsAskedFirstAndGetsWhatHadToBeRead) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // executed anew
  const auto ended_well = testing::ExitedWithCode(0);
  EXPECT_EXIT(read_by_relay(two_nodes_xml(),
                            [](const Topology& got) {
                              return got.is_thissystem() && got.nodes().size() == 2 &&
                                     g_offered.empty();
                            }),
              ended_well, "");
  for (const char* none : {"", "<topology"}) {
    EXPECT_EXIT(read_by_relay(none,
                              [](const Topology& got) {
                                return got.cpus() == Topology::load().cpus() &&
                                       g_offered == got.export_xml();
                              }),
                ended_well, "");
  }
}

}  // namespace
}  // namespace millrace::sched
