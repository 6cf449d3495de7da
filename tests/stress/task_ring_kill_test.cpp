// Workers of a task ring, ended at every instruction of what they do while the producer and the
// other workers go on.
#include <gtest/gtest.h>

#include <array>
#include <new>

#include "tests/shm/task_lines.hpp"
#include "tests/stress/step_kill.hpp"
#include "tests/stress/storm.hpp"

namespace millrace::shm {
namespace {

bool run(Ring::Slot& task, std::uint32_t self) {
  put(task, reply(line_in(task)[0]));
  return Ring::finish(task, self, TaskTag::done);
}

constexpr std::uint32_t kVictim = 7;
constexpr std::uint32_t kOther = 9;

// The producer's side in one place: which numbers are out, at which positions.
class TaskRingKill : public testing::Test {
 protected:
  static constexpr std::uint64_t kTasks = 5;

  // A ring in the middle of its life: slot 1 is out for good, so that workers walk over it.
  void reset() {
    ring_ = new (memory_) Ring;
    next_ = 0;
    publish(1000);
    publish(1001);
    (void)run(*ring_->claim(kOther), kOther);
    (void)ring_->claim(kOther);
    Ring::retire(ring_->slot(0));
    delivered_.fill(0);
    taken_ = 0;
    while (next_ % Ring::kSlots != 0) ++next_;
    for (std::uint64_t number = 0; number < kTasks; ++number) publish(number);
  }
  // At the next position whose slot is not out.
  void publish(std::uint64_t number) {
    while (TaskState::tag(Ring::look(ring_->slot(next_))) != TaskTag::free) ++next_;
    put(ring_->slot(next_), request(number));
    ring_->publish(next_++);
  }
  // Another worker runs whatever it can get.
  bool others_run() {
    while (Ring::Slot* task = ring_->claim(kOther)) {
      if (!run(*task, kOther)) return false;
    }
    return true;
  }
  // The producer collects replies; how many slots are left with the victim, -1: a wrong reply.
  int collect() {
    int left = 0;
    for (std::size_t i = 0; i < Ring::kSlots; ++i) {
      Ring::Slot& slot = ring_->at(i);
      const TaskTag tag = TaskState::tag(Ring::look(slot));
      if (tag == TaskTag::done) {
        const Line line = line_in(slot);
        std::uint64_t number = 0;
        while (number < kMost && line != reply(number)) ++number;
        if (number == kMost) return -1;
        ++delivered_[number];
        Ring::retire(slot);
      } else if (tag == TaskTag::ready) {
        return -1;  // the others were kept from it
      } else if (tag == TaskTag::running && TaskState::owner(Ring::look(slot)) == kVictim) {
        ++left;
      }
    }
    return left;
  }
  // What becomes of the victim's task after its death: taken away and run once more.
  bool take_away_and_repeat() {
    for (std::size_t i = 0; i < Ring::kSlots; ++i) {
      Ring::Slot& slot = ring_->at(i);
      const std::uint64_t state = Ring::look(slot);
      if (TaskState::tag(state) != TaskTag::running || TaskState::owner(state) != kVictim) continue;
      if (!Ring::take_away(slot, state) || ++taken_ > 1) return false;
      Ring::retire(slot);
      for (std::uint64_t number = 0; number < kTasks; ++number) {
        if (delivered_[number] == 0) publish(number);
      }
    }
    return others_run() && collect() == 0;
  }
  bool each_delivered_once() const {
    for (std::uint64_t number = 0; number < kTasks; ++number) {
      if (delivered_[number] != 1) return false;
    }
    return true;
  }
  static void expect_unbroken(const stress::StepKillResult& result) {
    EXPECT_EQ(result.broken, 0);
    EXPECT_GE(result.kills, 20);
    EXPECT_GT(result.instructions, 0) << "the operation did not come to its end";
    RecordProperty("kills", static_cast<int>(result.kills));
  }

  static constexpr std::uint64_t kMost = 64;
  void* memory_ = stress::shared(sizeof(Ring));
  Ring* ring_ = nullptr;
  std::uint64_t next_ = 0;
  std::array<int, kMost> delivered_{};
  int taken_ = 0;
};

// While it stands still all other tasks are run, and a lap of new ones over its slot.
TEST_F(TaskRingKill, WorkerThatClaimsAndEndsATask) {
  int left = 0;
  const auto result = stress::step_kill({
      .setup = [this] { reset(); },
      .operation =
          [this] {
            if (Ring::Slot* task = ring_->claim(kVictim)) (void)run(*task, kVictim);
          },
      .frozen =
          [this, &left](long) {
            if (!others_run() || (left = collect()) < 0) return false;
            for (std::uint64_t number = kTasks; number < kTasks + 12; ++number) {
              publish(number);
              if (!others_run() || collect() != left || delivered_[number] != 1) return false;
            }
            return true;
          },
      .check =
          [this, &left](long, bool finished) {
            return take_away_and_repeat() && taken_ == left && !(finished && left != 0) &&
                   each_delivered_once() && ring_->claim(kOther) == nullptr;
          },
  });
  expect_unbroken(result);
}

// A deadline or a cancel: the producer takes the task away while its worker stands still somewhere,
// uses the slot again only after its death, and the worker has never ended it.
TEST_F(TaskRingKill, WorkerWhoseTaskIsTakenAway) {
  bool was_taken = false;
  const auto result = stress::step_kill({
      .setup = [this] { reset(); },
      .operation =
          [this] {
            if (Ring::Slot* task = ring_->claim(kVictim)) (void)run(*task, kVictim);
          },
      .frozen =
          [this, &was_taken](long) {
            Ring::Slot& slot = ring_->slot(2 * Ring::kSlots);  // the oldest task
            const std::uint64_t state = Ring::look(slot);
            was_taken = TaskState::tag(state) == TaskTag::running && Ring::take_away(slot, state);
            return others_run();
          },
      .check =
          [this, &was_taken](long, bool finished) {
            if (collect() != 0 || (finished && was_taken)) return false;
            Ring::Slot& slot = ring_->slot(2 * Ring::kSlots);
            const bool lost = TaskState::tag(Ring::look(slot)) == TaskTag::lost;
            if (lost != was_taken) return false;
            if (lost) {
              Ring::retire(slot);
              publish(0);
            }
            return others_run() && collect() == 0 && each_delivered_once();
          },
  });
  expect_unbroken(result);
}

// A worker that only looks, as one does before it sleeps, leaves nothing behind.
TEST_F(TaskRingKill, WorkerThatLooksForWork) {
  const auto result = stress::step_kill({
      .setup =
          [this] {
            reset();
            (void)others_run();
          },
      .operation =
          [this] {
            (void)ring_->may_have_work();
            (void)ring_->claim(kVictim);
          },
      .frozen =
          [this](long) {
            publish(kTasks);
            return ring_->may_have_work() && others_run() && collect() == 0;
          },
      .check = [this](long, bool) { return each_delivered_once() && delivered_[kTasks] == 1; },
  });
  expect_unbroken(result);
}

}  // namespace
}  // namespace millrace::shm
