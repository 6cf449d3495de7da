// The task ring with its workers as threads: what ThreadSanitizer can see.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "tests/shm/task_lines.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint32_t kWorkers = 3;

// What producer and workers share.
struct Stage {
  Ring ring;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> torn{0};
  // Ids below the word of a worker's seat have left: they write no more. An id is {life, seat}.
  std::array<std::atomic<std::uint32_t>, kWorkers> first_alive{};

  [[nodiscard]] bool is_dead(std::uint32_t id) const {
    return id / kWorkers < first_alive[id % kWorkers].load(std::memory_order_acquire);
  }
};

// Runs what it gets. A worker that finds its task taken away ends, as its process would by SIGKILL,
// and is replaced: the seat goes on with another id.
void work(Stage& stage, std::uint32_t seat) {
  std::uint32_t life = 0;
  while (!stage.stop.load(std::memory_order_relaxed)) {
    const std::uint32_t self = life * kWorkers + seat;
    Ring::Slot* task = stage.ring.claim(self);
    if (task == nullptr) {
      std::this_thread::yield();
      continue;
    }
    const Line line = line_in(*task);
    if (line != request(line[0])) stage.torn.fetch_add(1, std::memory_order_relaxed);
    if (line[0] % 16 == 0) std::this_thread::yield();  // long tasks, also on one cpu
    const TaskTag tag = line[0] % 7 == 0 ? TaskTag::failed : TaskTag::done;
    put(*task, reply(line[0]));
    if (!Ring::finish(*task, self, tag)) {
      stage.first_alive[seat].store(++life, std::memory_order_release);
    }
  }
}

// Hands tasks out, takes some of them away again, and publishes those anew.
class Producer {
 public:
  Producer(Stage& stage, std::uint64_t tasks) : stage_(stage), tasks_(tasks), ended_(tasks) {}

  void run() {
    while (settled_ < tasks_) {
      feed();
      for (std::size_t i = 0; i < out_.size(); ++i) settle(i);
    }
  }
  [[nodiscard]] const std::vector<int>& ended() const { return ended_; }
  [[nodiscard]] std::uint64_t wrong() const { return wrong_; }
  [[nodiscard]] std::uint64_t taken_from_workers() const { return taken_; }

 private:
  enum class Ticket : std::uint8_t { free, out, rests };
  struct Out {
    Ticket ticket = Ticket::free;
    std::uint64_t number = 0;
    std::uint32_t owner = 0;  // for whose end it rests
  };

  void feed() {
    Out& out = out_[next_ % Ring::kSlots];
    const bool any = fed_ < tasks_ || !again_.empty();
    if (out.ticket == Ticket::free && any) {
      if (again_.empty()) again_.push_back(fed_++);
      out.number = again_.back();
      again_.pop_back();
      out.ticket = Ticket::out;
      put(stage_.ring.slot(next_), request(out.number));
      stage_.ring.publish(next_);
    }
    ++next_;
  }

  void settle(std::size_t index) {
    Out& out = out_[index];
    Ring::Slot& slot = stage_.ring.at(index);
    if (out.ticket == Ticket::rests && stage_.is_dead(out.owner)) free(out, slot);
    if (out.ticket != Ticket::out) return;
    const std::uint64_t state = Ring::look(slot);
    const TaskTag tag = TaskState::tag(state);
    if (tag == TaskTag::done || tag == TaskTag::failed) {
      take_reply(out, slot, tag);
    } else if (random_() % 64 == 0 && Ring::take_away(slot, state)) {
      again_.push_back(out.number);
      out.owner = TaskState::owner(state);
      out.ticket = Ticket::rests;
      if (tag == TaskTag::ready) free(out, slot);
      taken_ += tag == TaskTag::running;
    }
  }

  void take_reply(Out& out, Ring::Slot& slot, TaskTag tag) {
    wrong_ +=
        line_in(slot) != reply(out.number) || (tag == TaskTag::failed) != (out.number % 7 == 0);
    ++ended_[out.number];
    ++settled_;
    free(out, slot);
  }

  static void free(Out& out, Ring::Slot& slot) {
    Ring::retire(slot);
    out.ticket = Ticket::free;
  }

  Stage& stage_;
  std::uint64_t tasks_;
  std::vector<int> ended_;
  std::vector<std::uint64_t> again_;
  std::array<Out, Ring::kSlots> out_{};
  std::mt19937 random_{7};
  std::uint64_t fed_ = 0;
  std::uint64_t next_ = 0;
  std::uint64_t settled_ = 0;
  std::uint64_t wrong_ = 0;
  std::uint64_t taken_ = 0;
};

TEST(TaskRingRace, EachTaskEndsOnceAndItsReplyIsWhole) {
  constexpr std::uint64_t kTasks = 60000;
  const auto stage = std::make_unique<Stage>();
  std::vector<std::thread> workers;
  for (std::uint32_t seat = 0; seat < kWorkers; ++seat) {
    workers.emplace_back([&stage, seat] { work(*stage, seat); });
  }
  Producer producer(*stage, kTasks);
  producer.run();
  stage->stop.store(true);
  for (std::thread& worker : workers) worker.join();

  EXPECT_EQ(stage->torn.load(), 0U);
  EXPECT_EQ(producer.wrong(), 0U);
  EXPECT_GT(producer.taken_from_workers(), 0U);
  for (std::uint64_t number = 0; number < kTasks; ++number) {
    ASSERT_EQ(producer.ended()[number], 1) << number;
  }
}

}  // namespace
}  // namespace millrace::shm
