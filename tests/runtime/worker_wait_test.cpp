// Which worker a wake-up goes to.
#include <gtest/gtest.h>

#include <memory>

#include "runtime/pool/pool_shared.hpp"

namespace millrace::runtime {
namespace {

/// Three workers whose idle bits are set.
class WakeOneWorker : public testing::Test {
 protected:
  WakeOneWorker() {
    pool_->workers = 3;
    pool_->slots = slots_;
    pool_->idle[0].store(7);
    for (std::uint32_t i = 0; i < 3; ++i) {
      slots_[i].id.store(i + 1);
      slots_[i].phase.store(WorkerPhase::idle);
      slots_[i].parked.store(1);
    }
  }
  [[nodiscard]] bool sleeps(int i) const { return slots_[i].parked.load() != 0; }

  WorkerSlot slots_[3];
  std::unique_ptr<PoolShared> pool_ = std::make_unique<PoolShared>();
};

TEST_F(WakeOneWorker, TakesTheFirstThatSleeps) {
  EXPECT_TRUE(wake_one_worker(*pool_));
  EXPECT_FALSE(sleeps(0));
  EXPECT_TRUE(sleeps(1));
  EXPECT_EQ(pool_->idle[0].load(), 6U);
}

TEST_F(WakeOneWorker, PassesOverThoseThatBeginOrAreNotThere) {
  slots_[0].phase.store(WorkerPhase::starting);
  slots_[1].id.store(0);
  EXPECT_TRUE(wake_one_worker(*pool_));
  EXPECT_FALSE(sleeps(2));
  EXPECT_EQ(pool_->idle[0].load(), 3U) << "their bits stay";
  EXPECT_FALSE(wake_one_worker(*pool_));
}

TEST_F(WakeOneWorker, SaysWhenNobodySleeps) {
  pool_->idle[0].store(0);
  EXPECT_FALSE(wake_one_worker(*pool_));
}

}  // namespace
}  // namespace millrace::runtime
