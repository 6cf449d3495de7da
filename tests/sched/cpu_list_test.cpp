#include "sched/cpu_list.hpp"

#include <gtest/gtest.h>

#include <millrace/errors.hpp>
#include <string>

namespace millrace::sched {
namespace {

TEST(CpuList, ListsAreReadAndWritten) {
  EXPECT_EQ(parse_cpu_list("0-3,8"), (CpuSet{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("8,0-3,2"), (CpuSet{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("0-8:4"), (CpuSet{0, 4, 8}));
  EXPECT_EQ(format_cpu_list({0, 1, 2, 3, 8}), "0-3,8");
  EXPECT_EQ(format_cpu_list({5, 7, 8}), "5,7-8");
  EXPECT_EQ(format_cpu_list({}), "");
}

TEST(CpuList, BadListsNameTheBadItem) {
  for (const auto& [text, part] : {std::pair{"", "''"},
                                   {"1,", "''"},
                                   {"1,x", "'x'"},
                                   {"1, 2", "' 2'"},
                                   {"5-3", "'5-3'"},
                                   {"-3", "'-3'"},
                                   {"3-", "'3-'"},
                                   {"0-4:0", "'0-4:0'"},
                                   {"4:2", "'4:2'"},
                                   {"0-4:", "'0-4:'"},
                                   {"99999999999", "'99999999999'"},
                                   {"70000", "'70000'"}}) {
    try {
      parse_cpu_list(text);
      ADD_FAILURE() << text << " was read";
    } catch (const ValueError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

TEST(CpuList, MasksAreRead) {
  EXPECT_EQ(parse_cpu_mask("0x5"), (CpuSet{0, 2}));
  EXPECT_EQ(parse_cpu_mask("F0"), (CpuSet{4, 5, 6, 7}));
  EXPECT_EQ(parse_cpu_mask("1,00000001"), (CpuSet{0, 32}));
  EXPECT_THROW(parse_cpu_mask(""), ValueError);
  EXPECT_THROW(parse_cpu_mask("0x"), ValueError);
  EXPECT_THROW(parse_cpu_mask("0xg"), ValueError);
  EXPECT_THROW(parse_cpu_mask(std::string(20000, 'f')), ValueError);
}

TEST(CpuList, SetsAreCombined) {
  const CpuSet a{0, 1, 2};
  const CpuSet b{2, 3};
  EXPECT_EQ(cpu_union(a, b), (CpuSet{0, 1, 2, 3}));
  EXPECT_EQ(cpu_intersection(a, b), (CpuSet{2}));
  EXPECT_EQ(cpu_difference(a, b), (CpuSet{0, 1}));
  EXPECT_TRUE(is_subset({1}, a));
  EXPECT_FALSE(is_subset(b, a));
}

TEST(CpuList, ThisProcessMayRunSomewhere) {
  EXPECT_FALSE(process_affinity().empty());
  EXPECT_FALSE(thread_affinity().empty());
}

}  // namespace
}  // namespace millrace::sched
