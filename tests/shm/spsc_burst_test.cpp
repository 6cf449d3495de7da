// Many messages of one length in one call: SpscRing's try_push_all() and try_pop_all().
#include <algorithm>

#include "tests/shm/spsc_fixture.hpp"

namespace millrace::shm {
namespace {

using SpscBurst = SpscRingTest;

TEST_F(SpscBurst, BurstsOfEveryLengthMixWithSingleMessages) {
  for (std::size_t bytes = 0; bytes <= 70; ++bytes) {
    for (unsigned count = 0; count <= 9; ++count) {
      const auto data = pattern(bytes * count, count);
      ASSERT_TRUE(push_value(producer, static_cast<std::uint16_t>(count)));
      const std::size_t pushed = producer.try_push_all(data.data(), bytes, count);
      ASSERT_LE(pushed, count);
      if (bytes <= 8) {
        ASSERT_EQ(pushed, count) << bytes;  // four lines
      }
      std::uint16_t first = 0;
      ASSERT_EQ(consumer.try_pop(&first, 2), 2);
      ASSERT_EQ(first, count);
      std::vector<std::uint8_t> seen(bytes * count + 1);
      ASSERT_EQ(consumer.try_pop_all(seen.data(), bytes, count), pushed) << bytes << ' ' << count;
      ASSERT_TRUE(std::equal(seen.begin(), seen.begin() + long(bytes * pushed), data.begin()));
      ASSERT_FALSE(consumer.try_peek());
    }
  }
}

TEST_F(SpscBurst, ABurstStopsWhereTheRingIsFullAndGoesOn) {
  std::uint64_t values[100];
  std::iota(std::begin(values), std::end(values), 0);
  EXPECT_EQ(producer.try_push_all(values, 8, 100), 28U);  // four lines of seven
  EXPECT_EQ(producer.try_push_all(values + 28, 8, 72), 0U);
  std::uint64_t seen[100];
  EXPECT_EQ(consumer.try_pop_all(seen, 8, 10), 10U);  // a line, and three of the next
  EXPECT_EQ(consumer.try_pop_all(seen + 10, 8, 90), 18U);
  EXPECT_EQ(consumer.try_pop_all(seen + 28, 8, 72), 0U);
  EXPECT_EQ(producer.try_push_all(values + 28, 8, 5), 5U);
  EXPECT_EQ(consumer.try_pop_all(seen + 28, 8, 72), 5U);
  EXPECT_TRUE(std::equal(seen, seen + 33, values));
}

TEST_F(SpscBurst, ABurstEndsBeforeAMessageOfAnotherLength) {
  const std::uint64_t values[] = {1, 2, 3};
  ASSERT_EQ(producer.try_push_all(values, 8, 3), 3U);
  ASSERT_TRUE(push_value(producer, std::uint32_t{4}));
  std::uint64_t seen[4];
  EXPECT_EQ(consumer.try_pop_all(seen, 4, 4), 0U);
  EXPECT_EQ(consumer.try_pop_all(seen, 8, 4), 3U);
  EXPECT_EQ(consumer.try_pop_all(seen, 8, 4), 0U);
  EXPECT_EQ(consumer.try_pop_all(seen, 4, 4), 1U);
}

TEST_F(SpscBurst, ABurstOfLaterIsSeenLineByLine) {
  const std::uint64_t values[9] = {};
  ASSERT_EQ(producer.try_push_all(values, 8, 9, Publish::later), 9U);
  std::uint64_t seen[9];
  EXPECT_EQ(consumer.try_pop_all(seen, 8, 9), 7U);
  producer.flush();
  EXPECT_EQ(consumer.try_pop_all(seen, 8, 9), 2U);
}

}  // namespace
}  // namespace millrace::shm
