// What the tests of spawn share: results in the arena, that travel as handles, and programs.
#pragma once

#include <gtest/gtest.h>

#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <optional>
#include <string>
#include <utility>

#include "tests/leak_check.hpp"

namespace millrace::test {

class SpawnTest : public LeakCheck {
 protected:
  void SetUp() override {
    LeakCheck::SetUp();
    set_start_method(std::nullopt, {.force = true});
  }
  void TearDown() override {
    set_start_method(std::nullopt, {.force = true});
    LeakCheck::TearDown();
  }
};

/// True in a program that a test has told to do without freeze_support(); it has then done so.
bool behaves_badly();

inline Context& spawn() { return get_context("spawn"); }

/// The exit code of a spawned process that calls f(args...).
template <class F, class... Args>
std::optional<int> run_spawned(F&& f, Args&&... args) {
  auto p = spawn().Process(std::forward<F>(f), std::forward<Args>(args)...);
  p.start();
  EXPECT_TRUE(p.join());
  return p.exitcode();
}

}  // namespace millrace::test
