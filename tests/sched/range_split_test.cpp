#include "sched/range_split.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace millrace::sched {
namespace {

RangeSplit split_of(std::uint64_t chunks, const std::vector<std::uint16_t>& shares) {
  RangeSplit split;
  split.assign(chunks, shares);
  return split;
}

// Every chunk lies in exactly one grab, in order, and place() finds its word.
void expect_sound(const RangeSplit& split) {
  std::uint64_t next = 0;
  for (std::uint32_t line = 0; line < split.lines(); ++line) {
    const Grab grab = split.grab_of_line(line);
    ASSERT_EQ(grab.first, next);
    ASSERT_EQ(grab.line, line);
    ASSERT_GE(grab.size, 1U);
    ASSERT_LE(grab.size, kWordsPerLine);
    for (std::uint32_t i = 0; i < grab.size; ++i) {
      const WordPlace place = split.place(grab.first + i);
      ASSERT_EQ(place.line, line);
      ASSERT_EQ(place.word, i);
    }
    next += grab.size;
  }
  ASSERT_EQ(next, split.chunks());
}

TEST(RangeSplit, EveryChunkHasOneWordForManySizesAndShares) {
  const std::vector<std::vector<std::uint16_t>> all_shares = {
      {1}, {2}, {16, 16}, {1, 3, 0, 5}, {0, 0}, {64, 1}, std::vector<std::uint16_t>(64, 2)};
  for (const auto& shares : all_shares) {
    for (const unsigned chunks : {0U, 1U, 7U, 8U, 9U, 63U, 64U, 100U, 129U, 1000U, 4097U, 30011U}) {
      SCOPED_TRACE(std::to_string(chunks) + " chunks, nodes " + std::to_string(shares.size()));
      const RangeSplit split = split_of(chunks, shares);
      expect_sound(split);
      std::uint32_t workers = 0;
      for (const auto share : shares) workers += share;
      EXPECT_LE(split.lines(),
                RangeSplit::max_lines(chunks, static_cast<std::uint32_t>(shares.size()), workers));
      EXPECT_LE(split.lines(), RangeSplit::max_lines(30011, 64, std::max(workers, 128U)));
    }
  }
}

TEST(RangeSplit, NodesGetChunksInProportionToTheirWorkers) {
  const RangeSplit split = split_of(1000, std::vector<std::uint16_t>{1, 3, 0, 6});
  EXPECT_EQ(split.node(0).chunks(), 100U);
  EXPECT_EQ(split.node(1).chunks(), 300U);
  EXPECT_EQ(split.node(2).chunks(), 0U);
  EXPECT_EQ(split.node(3).chunks(), 600U);
  EXPECT_EQ(split.node(3).first(), 400U);
}

TEST(RangeSplit, WithoutWorkersTheFirstNodeGetsAll) {
  const RangeSplit split = split_of(50, std::vector<std::uint16_t>{0, 0});
  EXPECT_EQ(split.node(0).chunks(), 50U);
}

TEST(RangeSplit, GrabsShrinkTowardsTheEndAndFewChunksGoOneByOne) {
  const RangeSplit large = split_of(10000, std::vector<std::uint16_t>{2});
  std::uint32_t size = kWordsPerLine;
  std::uint32_t ones = 0;
  for (std::uint32_t line = 0; line < large.lines(); ++line) {
    const std::uint32_t next = large.grab_of_line(line).size;
    EXPECT_LE(next, size);
    size = next;
    ones += next == 1;
  }
  EXPECT_EQ(large.grab_of_line(0).size, 8U);
  EXPECT_GE(ones, 32U);  // 16 for each of two workers
  EXPECT_TRUE(large.has_shared_lines());
  EXPECT_FALSE(split_of(32, std::vector<std::uint16_t>{2}).has_shared_lines());
}

TEST(RangeSplit, TheLargestJobDoesNotOverflow) {
  const RangeSplit split = split_of(kMaxRangeChunks, std::vector<std::uint16_t>{65535, 1});
  EXPECT_EQ(split.node(0).chunks() + std::uint64_t{split.node(1).chunks()}, kMaxRangeChunks);
  const Grab last = split.grab_of_line(split.lines() - 1);
  EXPECT_EQ(last.first + last.size, kMaxRangeChunks);
  const WordPlace place = split.place(kMaxRangeChunks - 1);
  EXPECT_EQ(place.line, split.lines() - 1);
}

}  // namespace
}  // namespace millrace::sched
