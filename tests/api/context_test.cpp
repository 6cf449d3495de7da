// Contexts and start methods. CPython: TestStartMethod of Lib/test/_test_multiprocessing.py.
#include <gtest/gtest.h>

#include <millrace/context.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/leak_check.hpp"

namespace mp = millrace;

namespace {

class ContextTest : public mp::test::LeakCheck {
 protected:
  void TearDown() override {
    mp::set_start_method(std::nullopt, {.force = true});
    LeakCheck::TearDown();
  }
  void SetUp() override {
    LeakCheck::SetUp();
    mp::set_start_method(std::nullopt, {.force = true});
  }
};

TEST_F(ContextTest, MethodsThatExistAreListedDefaultFirst) {  // C04; test_get_all
  EXPECT_EQ(mp::get_all_start_methods(), (std::vector<std::string>{"fork", "spawn", "forkserver"}));
}

TEST_F(ContextTest, UnknownMethodIsNamed) {  // C05
  for (const char* method : {"forkServer", "thread", ""}) {
    try {
      (void)mp::get_context(method);
      ADD_FAILURE() << method;
    } catch (const mp::ValueError& e) {
      EXPECT_EQ(e.what(), "cannot find context for '" + std::string(method) +
                              "'; there are 'fork', 'spawn', 'forkserver'");
    }
    EXPECT_THROW(mp::set_start_method(method), mp::ValueError);
    EXPECT_THROW(mp::set_start_method(method, {.force = true}), mp::ValueError);
  }
  EXPECT_EQ(mp::get_start_method(mp::allow_none), std::nullopt);
}

TEST_F(ContextTest, ContextOfAContextIsItself) {  // C05; test_context
  mp::Context& fork = mp::get_context("fork");
  EXPECT_EQ(&fork.get_context(), &fork);
  EXPECT_EQ(&fork.get_context("fork"), &fork);
  EXPECT_EQ(fork.get_start_method(), "fork");
  EXPECT_EQ(&mp::get_context(), &fork);
}

TEST_F(ContextTest, MethodIsFixedByTheFirstQuestion) {  // C06; test_set_get
  EXPECT_EQ(mp::get_start_method(mp::allow_none), std::nullopt);
  EXPECT_EQ(mp::get_start_method(), "fork");
  EXPECT_EQ(mp::get_start_method(mp::allow_none), "fork");
  EXPECT_THROW(mp::set_start_method("fork"), std::runtime_error);
}

TEST_F(ContextTest, MethodIsFixedByStarting) {  // C06
  mp::Process p([] {});
  EXPECT_EQ(mp::get_start_method(mp::allow_none), std::nullopt);
  p.start();
  p.join();
  EXPECT_EQ(mp::get_start_method(mp::allow_none), "fork");
}

TEST_F(ContextTest, MethodIsSetOnceUnlessForced) {  // C07; test_set_get
  mp::set_start_method("fork");
  try {
    mp::set_start_method("fork");
    ADD_FAILURE();
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "context has already been set");
  }
  mp::set_start_method("fork", {.force = true});
  EXPECT_THROW(mp::set_start_method(std::nullopt), std::runtime_error);
  mp::set_start_method(std::nullopt, {.force = true});
  EXPECT_EQ(mp::get_start_method(mp::allow_none), std::nullopt);
}

TEST_F(ContextTest, ConcreteContextKeepsItsMethod) {  // C07
  EXPECT_THROW(mp::get_context("fork").set_start_method("fork"), mp::ValueError);
  EXPECT_THROW(mp::get_context("fork").set_start_method("fork", {.force = true}), mp::ValueError);
}

TEST_F(ContextTest, ProcessesOfAContextAreNamedAfterIt) {  // P05, C05
  mp::Context& fork = mp::get_context("fork");
  auto p = fork.Process([] {});
  EXPECT_EQ(p.name().rfind("ForkProcess-", 0), 0U);
  EXPECT_EQ(p.repr().rfind("<ForkProcess name='ForkProcess-", 0), 0U);
  auto named = fork.Process({.name = "w", .daemon = true}, [] {});
  EXPECT_EQ(named.name(), "w");
  EXPECT_TRUE(named.daemon());
  p.start();
  EXPECT_EQ(fork.active_children().size(), mp::active_children().size());
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
  mp::Process q({.context = &fork}, [] {});
  EXPECT_EQ(q.name().rfind("ForkProcess-", 0), 0U);
}

TEST_F(ContextTest, ChildReportsItsContextsMethod) {  // C07; test_nested_startmethod
  auto p = mp::get_context("fork").Process([] {
    if (mp::get_start_method(mp::allow_none) != "fork") throw mp::SystemExit(1);
  });
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ContextTest, CpuCountsAreSane) {  // M02; test_cpu_count
  EXPECT_GE(mp::cpu_count(), 1);
  EXPECT_GE(mp::usable_cpu_count(), 1);
  EXPECT_LE(mp::usable_cpu_count(), mp::cpu_count());
  EXPECT_EQ(mp::get_context("fork").cpu_count(), mp::cpu_count());
}

TEST_F(ContextTest, FreezeSupportDoesNothingInAProgramStartedByHand) {  // C09
  char name[] = "program";
  char* argv[] = {name, nullptr};
  mp::freeze_support(1, argv);
  EXPECT_EQ(mp::current_process().name(), "MainProcess");
}

}  // namespace
