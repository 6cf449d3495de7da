// What the tests of spawn and forkserver share: the method that a test runs under, and programs.
#pragma once

#include <gtest/gtest.h>

#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <optional>
#include <string>
#include <utility>

#include "tests/leak_check.hpp"

namespace millrace::test {

/// The start method that the running test is about; in a child, which has none, its own.
inline std::string& tested_method() {
  static std::string method;
  return method;
}

/// Its context.
inline Context& spawn() {
  return tested_method().empty() ? get_context() : get_context(tested_method());
}

/// A test that runs under each start method that makes children anew.
class SpawnTest : public LeakCheck, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    LeakCheck::SetUp();
    set_start_method(std::nullopt, {.force = true});
    tested_method() = GetParam();
  }
  void TearDown() override {
    set_start_method(std::nullopt, {.force = true});
    LeakCheck::TearDown();
  }
};

/// "spawn" and "forkserver", as values and names of the parameter.
inline auto methods() { return ::testing::Values("spawn", "forkserver"); }
inline std::string method_name(const ::testing::TestParamInfo<const char*>& info) {
  return info.param;
}

/// Runs what FORKSERVER_TEST_PROGRAM names, and gives its exit code; none: nothing is named.
std::optional<int> run_named_program();

/// True in a program that a test has told to do without freeze_support(); it has then done so.
bool behaves_badly();

/// The exit code of a process that calls f(args...).
template <class F, class... Args>
std::optional<int> run_spawned(F&& f, Args&&... args) {
  auto p = spawn().Process(std::forward<F>(f), std::forward<Args>(args)...);
  p.start();
  EXPECT_TRUE(p.join());
  return p.exitcode();
}

}  // namespace millrace::test
