// A task ring whose workers are killed at random instants, thousands of times, under all kinds of
// tasks: each is delivered once, or was held by a worker that died and is run again. Waits have no
// bound of their own, so a wake-up that is lost for good hangs (and the alarm ends it).
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <deque>
#include <new>
#include <random>
#include <vector>

#include "shm/parking.hpp"
#include "tests/shm/task_lines.hpp"
#include "tests/stress/storm.hpp"

namespace millrace::shm {
namespace {

// What all processes of a storm share.
struct Stage {
  Ring ring;
  ParkingSpot work;     // workers without work
  ParkingSpot replies;  // the producer without replies
  std::atomic<bool> stop{false};
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> delivered{0};
  std::atomic<std::uint64_t> missing{0};
  std::atomic<std::uint64_t> wrong{0};  // a torn request or reply, a second delivery
  std::atomic<std::uint64_t> retaken{0};
  stress::Deaths deaths;

  void rouse() {
    work.rouse();
    replies.rouse();
  }
};

void work(Stage& stage, std::uint32_t self) {
  const auto ready = [&] {
    return stage.ring.may_have_work() || stage.over.load(std::memory_order_acquire);
  };
  while (!stage.over.load(std::memory_order_acquire)) {
    Ring::Slot* task = stage.ring.claim(self);
    if (task == nullptr) {
      wait_until(stage.work, ready, stress::kPatient);
      continue;
    }
    const Line line = line_in(*task);
    if (line != request(line[0])) stage.wrong.fetch_add(1);
    for (std::uint64_t i = 0; i < line[0] % 64 * 32; ++i) cpu_relax();  // some take longer
    put(*task, reply(line[0]));
    // Only the dead have tasks taken away here.
    if (!Ring::finish(*task, self, TaskTag::done)) stage.wrong.fetch_add(1);
    stage.replies.notify_one();
  }
}

// The producer's private memory: which task is out in which slot, and what was delivered.
class Producer {
 public:
  explicit Producer(Stage& stage) : stage_(stage) {}

  void run() {
    for (;;) {
      bool moved = feed();
      moved |= observe_deaths();
      moved |= collect();
      if (stage_.stop.load(std::memory_order_acquire) && busy_ == 0 && again_.empty()) break;
      if (!moved) {
        wait_until(
            stage_.replies, [this] { return anything(); }, stress::kPatient);
      }
    }
    for (const std::uint8_t times : delivered_) {
      stage_.delivered += times;
      stage_.missing += times == 0;
      stage_.wrong += times > 1;
    }
    stage_.over.store(true, std::memory_order_release);
    stage_.work.notify_all();
  }

 private:
  struct Out {
    bool out = false;
    std::uint64_t number = 0;
  };

  bool feed() {
    bool any = false;
    for (std::size_t step = 0; step < Ring::kSlots; ++step, ++next_) {
      Out& out = out_[next_ % Ring::kSlots];
      if (out.out) continue;
      if (again_.empty()) {
        if (stage_.stop.load(std::memory_order_relaxed)) break;
        again_.push_back(delivered_.size());
        delivered_.push_back(0);
      }
      out = {true, again_.front()};
      again_.pop_front();
      ++busy_;
      put(stage_.ring.slot(next_), request(out.number));
      stage_.ring.publish(next_);
      stage_.work.notify_one();
      any = true;
    }
    return any;
  }

  bool collect() {
    bool any = false;
    for (std::size_t i = 0; i < Ring::kSlots; ++i) {
      Out& out = out_[i];
      Ring::Slot& slot = stage_.ring.at(i);
      const std::uint64_t state = Ring::look(slot);
      if (!out.out) continue;
      if (TaskState::tag(state) == TaskTag::done) {
        stage_.wrong += line_in(slot) != reply(out.number);
        ++delivered_[out.number];
      } else if (random_() % 256 == 0 && TaskState::tag(state) == TaskTag::ready &&
                 Ring::take_away(slot, state)) {
        again_.push_back(out.number);  // cancelled before anybody had it
      } else {
        continue;
      }
      Ring::retire(slot);
      out.out = false;
      --busy_;
      any = true;
    }
    return any;
  }

  bool observe_deaths() {
    const std::uint64_t deaths = stage_.deaths.count.load(std::memory_order_acquire);
    if (deaths == seen_deaths_) return false;
    seen_deaths_ = deaths;
    for (std::size_t i = 0; i < Ring::kSlots; ++i) {
      Ring::Slot& slot = stage_.ring.at(i);
      const std::uint64_t state = Ring::look(slot);
      if (TaskState::tag(state) != TaskTag::running) continue;
      if (!stage_.deaths.is_dead(TaskState::owner(state))) continue;
      if (!Ring::take_away(slot, state)) std::abort();  // the dead end nothing
      again_.push_back(out_[i].number);
      out_[i].out = false;
      --busy_;
      Ring::retire(slot);
      ++stage_.retaken;
    }
    return true;
  }

  bool anything() {
    if (stage_.deaths.count.load(std::memory_order_acquire) != seen_deaths_) return true;
    for (std::size_t i = 0; i < Ring::kSlots; ++i) {
      if (out_[i].out && TaskState::tag(Ring::look(stage_.ring.at(i))) == TaskTag::done)
        return true;
    }
    return stage_.stop.load(std::memory_order_acquire) && busy_ == 0;
  }

  Stage& stage_;
  std::array<Out, Ring::kSlots> out_{};
  std::deque<std::uint64_t> again_;
  std::vector<std::uint8_t> delivered_;
  std::mt19937 random_{11};
  std::uint64_t next_ = 0;
  std::uint64_t busy_ = 0;
  std::uint64_t seen_deaths_ = 0;
};

TEST(TaskRingStorm, EachTaskIsDeliveredOnceOrWasHeldByTheDead) {
  auto* stage = new (stress::shared(sizeof(Stage))) Stage;
  stress::Storm storm(
      &stage->deaths, 4,
      [stage](int role, std::uint32_t id) {
        role == 0 ? Producer(*stage).run() : work(*stage, id);
      },
      [stage] { stage->rouse(); });
  storm.spare_below(1);
  const long kills = stress::kills_wanted(1500);
  storm.rage(kills, 1);
  stage->stop.store(true, std::memory_order_release);
  stage->rouse();
  for (const int role : {0, 1, 2, 3}) storm.await(role);

  EXPECT_GT(stage->delivered.load(), static_cast<std::uint64_t>(kills));
  EXPECT_EQ(stage->missing.load(), 0U);
  EXPECT_EQ(stage->wrong.load(), 0U);
  EXPECT_GT(stage->retaken.load(), 0U);
  EXPECT_LE(stage->retaken.load(), static_cast<std::uint64_t>(kills));
  RecordProperty("delivered", static_cast<int>(stage->delivered.load()));
  RecordProperty("retaken", static_cast<int>(stage->retaken.load()));
}

}  // namespace
}  // namespace millrace::shm
