// The task ring: what its operations promise one after the other.
#include "shm/task_ring.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

namespace millrace::shm {
namespace {

using Ring = BasicTaskRing<8>;
using Slot = Ring::Slot;

class TaskRing : public testing::Test {
 protected:
  void publish(std::uint64_t position) {
    Slot& slot = ring_->slot(position);
    std::memcpy(slot.bytes, &position, sizeof position);
    slot.size = sizeof position;
    ring_->publish(position);
  }
  // The position that a claim by `owner` gives, -1 when there is nothing.
  long claim(std::uint32_t owner) {
    last_ = ring_->claim(owner);
    return last_ == nullptr ? -1 : static_cast<long>(ring_->position(*last_));
  }
  static TaskTag tag_of(const Slot& slot) { return TaskState::tag(Ring::look(slot)); }

  std::unique_ptr<Ring> ring_ = std::make_unique<Ring>();
  Slot* last_ = nullptr;  // what was claimed last
};

TEST_F(TaskRing, GivesNothingWhenNothingIsPublished) {
  EXPECT_EQ(claim(1), -1);
  EXPECT_FALSE(ring_->may_have_work());
}

TEST_F(TaskRing, GivesTasksInTheirOrderWithWhatWasWritten) {
  for (std::uint64_t position = 0; position < 8; ++position) publish(position);
  for (long position = 0; position < 8; ++position) {
    EXPECT_TRUE(ring_->may_have_work());
    ASSERT_EQ(claim(1), position);
    std::uint64_t written = 0;
    std::memcpy(&written, last_->bytes, sizeof written);
    EXPECT_EQ(written, static_cast<std::uint64_t>(position));
    EXPECT_EQ(last_->size, sizeof written);
  }
  EXPECT_EQ(claim(1), -1);
  EXPECT_FALSE(ring_->may_have_work());
}

TEST_F(TaskRing, AClaimNamesItsOwner) {
  publish(0);
  ASSERT_EQ(claim(0x3ffffff), 0);
  EXPECT_EQ(TaskState::owner(Ring::look(*last_)), 0x3ffffffU);
  EXPECT_EQ(tag_of(*last_), TaskTag::running);
}

TEST_F(TaskRing, FindsATaskBehindSkippedPositions) {
  publish(0);
  ASSERT_EQ(claim(1), 0);
  publish(6);
  EXPECT_TRUE(ring_->may_have_work());
  EXPECT_EQ(claim(2), 6);
}

TEST_F(TaskRing, WalksPastATaskThatIsOutForManyLaps) {
  publish(0);
  ASSERT_EQ(claim(1), 0);
  for (long position = 1; position < 40; ++position) {
    if (position % 8 == 0) continue;  // its slot is out
    publish(static_cast<std::uint64_t>(position));
    ASSERT_EQ(claim(2), position);
    ASSERT_TRUE(Ring::finish(*last_, 2, TaskTag::done));
    Ring::retire(*last_);
  }
  EXPECT_EQ(tag_of(ring_->slot(0)), TaskTag::running);
  EXPECT_EQ(ring_->position(ring_->slot(0)), 0U);
}

TEST_F(TaskRing, ATaskThatWasTakenAwayCannotBeEnded) {
  publish(0);
  ASSERT_EQ(claim(1), 0);
  EXPECT_TRUE(Ring::take_away(*last_, Ring::look(*last_)));
  EXPECT_FALSE(Ring::finish(*last_, 1, TaskTag::done));
  EXPECT_EQ(tag_of(*last_), TaskTag::lost);
}

TEST_F(TaskRing, ATaskThatWasTakenAwayCannotBeClaimed) {
  publish(0);
  publish(1);
  EXPECT_TRUE(Ring::take_away(ring_->slot(0), Ring::look(ring_->slot(0))));
  EXPECT_EQ(claim(1), 1);
  Ring::retire(ring_->slot(0));
  EXPECT_EQ(claim(1), -1);
  publish(8);
  EXPECT_EQ(claim(1), 8);
}

TEST_F(TaskRing, ATaskThatEndedCannotBeTakenAway) {
  publish(0);
  ASSERT_EQ(claim(1), 0);
  const std::uint64_t seen = Ring::look(*last_);
  EXPECT_TRUE(Ring::finish(*last_, 1, TaskTag::failed));
  EXPECT_FALSE(Ring::take_away(*last_, seen));
  EXPECT_EQ(tag_of(*last_), TaskTag::failed);
}

TEST_F(TaskRing, OnlyItsOwnerEndsATaskAndOnlyOnce) {
  publish(0);
  ASSERT_EQ(claim(1), 0);
  EXPECT_FALSE(Ring::finish(*last_, 2, TaskTag::done));
  EXPECT_TRUE(Ring::finish(*last_, 1, TaskTag::done));
  EXPECT_FALSE(Ring::finish(*last_, 1, TaskTag::failed));
  EXPECT_EQ(tag_of(*last_), TaskTag::done);
}

// A worker that owned the slot a lap ago has no claim on its next task.
TEST_F(TaskRing, AnEarlierOwnerCannotEndALaterTask) {
  publish(0);
  ASSERT_EQ(claim(1), 0);
  EXPECT_TRUE(Ring::take_away(*last_, Ring::look(*last_)));
  Ring::retire(*last_);
  publish(8);
  Slot& slot = ring_->slot(8);
  EXPECT_FALSE(Ring::finish(slot, 1, TaskTag::done));
  ASSERT_EQ(claim(2), 8);
  EXPECT_FALSE(Ring::finish(slot, 1, TaskTag::done));
  EXPECT_TRUE(Ring::finish(slot, 2, TaskTag::done));
}

TEST(TaskState, KeepsItsPartsApart) {
  constexpr std::uint64_t kLap = (1ULL << 34) - 1;
  constexpr std::uint32_t kOwner = (1U << 26) - 2;
  const std::uint64_t word = TaskState::make(kLap, kOwner, TaskTag::lost);
  EXPECT_EQ(TaskState::lap(word), kLap);
  EXPECT_EQ(TaskState::owner(word), kOwner);
  EXPECT_EQ(TaskState::tag(word), TaskTag::lost);
}

}  // namespace
}  // namespace millrace::shm
