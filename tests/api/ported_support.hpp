// What the ported tests share: children of the start method that the test runs under.
#pragma once

#include <millrace/errors.hpp>
#include <millrace/managers.hpp>
#include <millrace/synchronize.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "tests/api/spawn_support.hpp"
#include "tests/leak_check.hpp"

namespace millrace::test {

inline auto all_methods() { return ::testing::Values("fork", "spawn", "forkserver"); }

/// A counter: as long as the list that CPython's tests append to.
using Count = Semaphore;

/// `n` children that run f(args...).
template <class F, class... Args>
std::vector<Process> started(int n, F f, const Args&... args) {
  std::vector<Process> all;
  for (int i = 0; i < n; ++i) {
    all.push_back(spawn().Process(f, args...));
    all.back().start();
  }
  return all;
}

/// Waits for them; each must have ended with 0.
inline void end_well(std::vector<Process>& all) {
  for (auto& p : all) EXPECT_TRUE(p.join());
  for (auto& p : all) EXPECT_EQ(p.exitcode(), 0);
}

/// In a child: ends it with 1.
inline void require(bool holds) {
  if (!holds) throw SystemExit(1);
}

/// A manager for each case.
class WithManager : public LeakCheck {
 protected:
  void SetUp() override {
    LeakCheck::SetUp();
    manager.emplace(Manager());
  }
  void TearDown() override {
    manager.reset();
    LeakCheck::TearDown();
  }

  std::optional<SyncManager> manager;
};

}  // namespace millrace::test
