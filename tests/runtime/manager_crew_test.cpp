// The threads of a manager's server: who gets his turn, and when there is one more of them.
// **beyond** Python.
#include "runtime/managers/manager_crew.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <utility>

#include "tests/runtime/gate.hpp"

namespace millrace::test {
namespace {

using runtime::ManagerCrew;

// Without connections: tasks are numbers.
struct Tasks {
  static ManagerCrew::Task number(std::size_t i) {
    static std::array<char, 256> places;  // of which only the addresses are used
    return {std::shared_ptr<void>(), reinterpret_cast<runtime::ManagerTalk*>(&places.at(i))};
  }
};

TEST(ManagerCrewTest, ATaskWithMuchToDoLetsOthersHaveTheirTurns) {
  const auto busy = Tasks::number(0);
  const auto greedy = Tasks::number(1);
  const auto quiet = Tasks::number(2);
  Gate gate;
  std::atomic<bool> greedy_began{false};
  std::atomic<bool> over{false};
  ManagerCrew crew([&](const ManagerCrew::Task& task) {
    if (task == greedy) {
      greedy_began.store(true);
      return !over.load();
    }
    if (task == quiet) over.store(true);
    if (task == busy) gate.pass();
    return false;
  });
  for (std::size_t i = 1; i < ManagerCrew::kAtWork; ++i) crew.give(busy);
  gate.await(static_cast<int>(ManagerCrew::kAtWork) - 1);
  crew.give(greedy);  // has the last thread, and wants turns until the other one has had its own
  while (!greedy_began.load()) std::this_thread::yield();
  crew.give(quiet);
  while (!over.load()) std::this_thread::yield();
  gate.open();
  crew.dismiss();
}

TEST(ManagerCrewTest, AQueueThatDoesNotMoveGetsAThread) {
  Gate gate;
  ManagerCrew crew([&](const ManagerCrew::Task&) {
    gate.pass();
    return false;
  });
  constexpr int kMore = 3;
  for (std::size_t i = 0; i < ManagerCrew::kAtWork + kMore; ++i) crew.give(Tasks::number(i));
  gate.await(static_cast<int>(ManagerCrew::kAtWork));
  while (crew.crowded()) crew.look();
  gate.await(static_cast<int>(ManagerCrew::kAtWork) + kMore);
  gate.open();
  crew.dismiss();
}

TEST(ManagerCrewTest, WhoStandsAsideMakesRoom) {
  constexpr std::size_t kFirst = ManagerCrew::kAtWork;
  Gate begun;
  Gate aside;
  std::atomic<ManagerCrew*> self{nullptr};
  ManagerCrew crew([&](const ManagerCrew::Task& task) {
    if (task < Tasks::number(kFirst)) {
      begun.pass();
      self.load()->stand_aside(true);
      aside.pass();
      self.load()->stand_aside(false);
    }
    return false;
  });
  self.store(&crew);
  for (std::size_t i = 0; i < kFirst; ++i) crew.give(Tasks::number(i));
  begun.await(static_cast<int>(kFirst));
  crew.give(Tasks::number(kFirst));
  EXPECT_TRUE(crew.crowded()) << "all threads are at work";
  begun.open();
  aside.await(static_cast<int>(kFirst));
  EXPECT_FALSE(crew.crowded()) << "though nobody looked";
  aside.open();
  crew.dismiss();
}

TEST(ManagerCrewTest, AThreadThatStaysKeepsNothingOfWhatItDid) {
  const auto busy = Tasks::number(0);
  auto owner = std::make_shared<int>(0);
  const std::weak_ptr<int> alive = owner;
  auto* const first = reinterpret_cast<runtime::ManagerTalk*>(owner.get());
  const auto last = Tasks::number(1);
  Gate gate;
  Gate held;
  bool gone = false;
  ManagerCrew crew([&](const ManagerCrew::Task& task) {
    if (task == busy) gate.pass();
    if (task.get() == first) held.pass();
    if (task == last) gone = alive.expired();
    return false;
  });
  for (std::size_t i = 1; i < ManagerCrew::kAtWork; ++i) crew.give(busy);
  crew.give({std::move(owner), first});
  held.await(1);
  gate.await(static_cast<int>(ManagerCrew::kAtWork) - 1);
  crew.give(last);  // for the thread that has the first one: no other is free
  held.open();
  while (crew.crowded()) std::this_thread::yield();
  gate.open();
  crew.dismiss();
  EXPECT_TRUE(gone);
}

}  // namespace
}  // namespace millrace::test
