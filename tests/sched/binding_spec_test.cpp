#include "sched/binding_spec.hpp"

#include <gtest/gtest.h>

#include <millrace/errors.hpp>
#include <random>
#include <string>

#include "tests/sched/topologies.hpp"

namespace millrace::sched {
namespace {

std::string show(const std::vector<CpuSet>& sets) {
  std::string text;
  for (const CpuSet& set : sets) text += (text.empty() ? "" : " ") + format_cpu_list(set);
  return text;
}

std::string locations(const std::string& text, const Topology& topology) {
  return show(evaluate_locations(parse_binding(text), topology, topology.allowed()));
}

std::string places(const std::string& text, const Topology& topology) {
  return show(evaluate_places(parse_binding(text), topology, topology.allowed()));
}

TEST(BindingSpec, PoliciesAreReadInAnyCase) {
  EXPECT_EQ(parse_binding("none").policy, Policy::none);
  EXPECT_EQ(parse_binding("Compact").policy, Policy::compact);
  EXPECT_EQ(parse_binding("spread").policy, Policy::spread);
  EXPECT_EQ(parse_binding("NUMA").policy, Policy::numa);
  EXPECT_EQ(parse_binding("l3").policy, Policy::l3);
  EXPECT_EQ(parse_binding("core").policy, Policy::core);
  EXPECT_EQ(parse_binding(" thread\n").policy, Policy::thread);
  EXPECT_EQ(parse_binding(" thread\n").text, "thread");
}

TEST(BindingSpec, CpuListsAreRead) {
  EXPECT_EQ(parse_binding("0-3,8").cpus, (CpuSet{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_binding("0-3,8").policy, Policy::divided);
}

TEST(BindingSpec, LocationsNarrowDown) {
  const Topology machine = two_by_sixteen();
  EXPECT_EQ(locations("numa:1", machine), "16-31");
  EXPECT_EQ(locations("numa:0.core:0-3", machine), "0 1 2 3");
  EXPECT_EQ(locations("numa:1.l3:1.core:0", machine), "24");
  EXPECT_EQ(locations("package:all.core:0", machine), "0 16");
  EXPECT_EQ(locations("Socket:1.PU:14-", machine), "30 31");
  EXPECT_EQ(locations("l3:odd", machine), "8-15 24-31");
  EXPECT_EQ(locations("l3:even", machine), "0-7 16-23");
  EXPECT_EQ(locations("core:4:3", machine), "4 5 6");
  EXPECT_EQ(locations("core:4:3:10", machine), "4 14 24");
  EXPECT_EQ(locations("core:0,numa:1", machine), "0 16-31");
  EXPECT_EQ(locations("core:0 core:9", machine), "0 9");
  EXPECT_EQ(locations("hwloc:core:5", machine), "5");
  EXPECT_EQ(locations("machine", machine), "0-31");
  EXPECT_EQ(locations("numanode:1", eight_by_sixteen()), "32-63");
  EXPECT_EQ(locations("core:1", eight_by_sixteen()), "2-3");
}

TEST(BindingSpec, PlacesAreReadAsOpenMpDoes) {
  const Topology machine = two_by_sixteen();
  EXPECT_EQ(places("{0:4}:2:4", machine), "0-3 4-7");
  EXPECT_EQ(places("{0:4}:2", machine), "0-3 4-7");  // the stride defaults to the length
  EXPECT_EQ(places("{0,1,2,3},{4,5,6,7}", machine), "0-3 4-7");
  EXPECT_EQ(places("{0:4:2}", machine), "0,2,4,6");
  EXPECT_EQ(places("{3:4:-1}", machine), "0-3");
  EXPECT_EQ(places("{8:2}:3:-4", machine), "8-9 4-5 0-1");
  EXPECT_EQ(places(" { 0 : 2 } : 2 : 16 , {5} ", machine), "0-1 16-17 5");
  EXPECT_EQ(places("{0:4,!2}", machine), "0-1,3");
  EXPECT_EQ(places("{0}:4:1,!{2}", machine), "0 1 3");
}

TEST(BindingSpec, AbstractPlacesFollowTheTopology) {
  const Topology machine = eight_by_sixteen();
  EXPECT_EQ(places("threads(3)", machine), "0 1 2");
  EXPECT_EQ(places("cores(2)", machine), "0-1 2-3");
  EXPECT_EQ(places("sockets", machine), "0-127 128-255");
  EXPECT_EQ(places("numa_domains(2)", machine), "0-31 32-63");
  EXPECT_EQ(places("LL_CACHES ( 2 )", machine), "0-7 8-15");
  EXPECT_EQ(places("spread cores(1)", machine), "0-1");
  EXPECT_TRUE(parse_binding("spread cores").sparse);
  EXPECT_TRUE(parse_binding("spread {0},{8}").sparse);
  EXPECT_FALSE(parse_binding("close cores").sparse);
  EXPECT_EQ(places("cores", laptop().restricted_to({1})), "1");
}

TEST(BindingSpec, BadTextsNameTheOffendingPart) {
  for (const auto& [text, part] : {std::pair{"", "empty text"},
                                   {"nonsense", "unknown name 'nonsense'"},
                                   {"numa:x", "bad index 'x'"},
                                   {"numa:", "bad index 'the end'"},
                                   {"numa:0.kern:1", "unknown object 'kern'"},
                                   {"numa:0.core", "index missing after 'core'"},
                                   {"package", "index missing after 'package'"},
                                   {"numa:0.", "expected a name at 'the end'"},
                                   {"numa:3-1", "range runs backwards"},
                                   {"core:1:0", "a count of 0"},
                                   {"core:1:2:0", "a stride of 0"},
                                   {"core:99999", "too large a number '99999'"},
                                   {"numa:0;core:1", "unexpected text ';core:1'"},
                                   {"0-3,x", "'x'"},
                                   {"7-2", "'7-2'"},
                                   {"{0:4", "ends where '}' is missing"},
                                   {"{0:4}:2:", "expected a number at 'the end'"},
                                   {"{0:4}x", "unexpected text 'x'"},
                                   {"{}", "expected a number at '}'"},
                                   {"{0:0}", "a count of 0"},
                                   {"{2:4:-1}", "cpu out of range in '{2:4:-1'"},
                                   {"{0}:3:-1", "cpu out of range"},
                                   {"{0:2,!0:1}", "expected '}' at ':1}'"},
                                   {"{0,!0}", "empty place '{0,!0}'"},
                                   {"!{0}", "no place is left"},
                                   {"{0:60000}:60000:1", "too many places"},
                                   {"spread", ""},
                                   {"spread bogus", "unknown places 'bogus'"},
                                   {"cores(", "expected a number"},
                                   {"cores(0)", "no places"},
                                   {"cores(2", "')'"},
                                   {"cores(2)x", "unexpected text 'x'"}}) {
    try {
      parse_binding(text);
      EXPECT_STREQ(part, "") << text << " was read";
    } catch (const ValueError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("binding '"), std::string::npos) << error.what();
    }
  }
}

TEST(BindingSpec, WhatIsAbsentIsNamed) {
  const Topology machine = two_by_sixteen();
  for (const auto& [text, part] : {std::pair{"numa:2", "there is no numa:2, only 2"},
                                   {"numa:0.core:15-17", "there is no core:16, only 16"},
                                   {"0-40", "cpus 32-40 are absent or not allowed"},
                                   {"l2:0", "there is no l2:0"}}) {
    try {
      locations(text, machine);
      ADD_FAILURE() << text;
    } catch (const ValueError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(places("{0:4},{31:2}", machine), ValueError);
}

TEST(BindingSpec, WhatIsNotAllowedIsNamed) {
  const Topology half = two_by_sixteen().restricted_to(parse_cpu_list("0-19"));
  EXPECT_EQ(locations("numa:1", half), "16-19") << "a location is cut to what is allowed";
  EXPECT_THROW(locations("l3:3", half), ValueError);
  EXPECT_THROW(locations("18-21", half), ValueError);
  EXPECT_THROW(places("{18:4}", half), ValueError);
  EXPECT_THROW(locations("numa:1", split_memory()), ValueError) << "a node without cpus";
}

TEST(BindingSpec, RandomTextsAreReadOrRefused) {
  const std::vector<std::string> words = {
      "numa", ":",      ".",  "core",    "0",       "1",  "-",     "{", "}",  ",",
      "!",    "(",      ")",  "spread ", "threads", "99", "65535", " ", "l3", "all",
      "odd",  "hwloc:", "\t", "\xff",    "none",    "::", "70000", "-1"};
  const Topology machine = two_by_sixteen();
  std::mt19937 random(42);
  int read = 0;
  for (int i = 0; i < 30000; ++i) {
    std::string text;
    for (auto n = 1 + random() % 10; n > 0; --n) text += words[random() % words.size()];
    try {
      const BindingSpec spec = parse_binding(text);
      ++read;
      if (spec.policy == Policy::places) evaluate_places(spec, machine, machine.allowed());
      if (spec.policy == Policy::divided) evaluate_locations(spec, machine, machine.allowed());
    } catch (const ValueError&) {
      continue;  // the only way out
    }
  }
  EXPECT_GT(read, 50);
}

}  // namespace
}  // namespace millrace::sched
