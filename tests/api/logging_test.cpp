// The logger. CPython: _TestLogging and _TestLoggingProcessName of _test_multiprocessing.py.
#include <gtest/gtest.h>

#include <millrace/logging.hpp>
#include <string>

#include "tests/leak_check.hpp"

namespace mp = millrace;
using mp::logging::Level;
using mp::test::run_program;

namespace {

class LoggingTest : public mp::test::LeakCheck {};

TEST_F(LoggingTest, LoggerHasNoHandlerAtFirst) {  // W01; test_enable_logging
  EXPECT_EQ(mp::get_logger().level(), Level::notset);
  const auto outcome = run_program([] {
    auto& log = mp::get_logger();
    log.subwarning("nobody hears");
    log.warning("by the handler of last resort");
    log.set_level(Level::debug);
    log.info("nobody hears");
    log.set_level(Level::error);
    log.warning("nobody hears");
    log.critical("nor has it a format");
  });
  EXPECT_EQ(outcome.err, "by the handler of last resort\nnor has it a format\n");
}

TEST_F(LoggingTest, LinesShowLevelAndProcess) {  // W02
  const auto outcome = run_program([] {
    auto& log = mp::log_to_stderr(Level::notset);
    EXPECT_EQ(&log, &mp::get_logger());
    log.set_level(Level::subdebug);
    log.subdebug("a");
    log.debug("b");
    log.info("c");
    log.log(Level::subwarning, "d");
    log.warning("e");
    log.error("f {} %s");
    log.critical("g");
    log.log(static_cast<Level>(35), "h");
    ::_exit(0);
  });
  EXPECT_EQ(outcome.err,
            "[SUBDEBUG/MainProcess] a\n[DEBUG/MainProcess] b\n[INFO/MainProcess] c\n"
            "[SUBWARNING/MainProcess] d\n[WARNING/MainProcess] e\n[ERROR/MainProcess] f {} %s\n"
            "[CRITICAL/MainProcess] g\n[Level 35/MainProcess] h\n");
}

TEST_F(LoggingTest, LevelHidesWhatIsBelow) {  // W01; test_level
  const auto outcome = run_program([] {
    auto& log = mp::log_to_stderr(Level::error);
    log.warning("hidden");
    log.error("shown");
    log.set_level(Level::notset);
    log.info("hidden");
    log.warning("shown too");
    ::_exit(0);
  });
  EXPECT_EQ(outcome.err, "[ERROR/MainProcess] shown\n[WARNING/MainProcess] shown too\n");
}

TEST_F(LoggingTest, SecondCallDoesNotDoubleLines) {  // W02
  const auto outcome = run_program([] {
    mp::log_to_stderr(Level::info);
    mp::log_to_stderr();
    EXPECT_EQ(mp::get_logger().level(), Level::info);
    mp::get_logger().info("once");
    ::_exit(0);
  });
  EXPECT_EQ(outcome.err, "[INFO/MainProcess] once\n");
}

TEST_F(LoggingTest, ChildrenInheritLevelAndHandler) {  // W03, W04; test_level
  const auto outcome = run_program([] {
    mp::log_to_stderr(Level::info);
    mp::Process p({.name = "w"}, [] { mp::get_logger().info("hello"); });
    p.start();
    p.join();
    ::_exit(0);
  });
  EXPECT_EQ(outcome.err,
            "[INFO/w] child process calling self.run()\n[INFO/w] hello\n"
            "[INFO/w] process shutting down\n[INFO/w] process exiting with exitcode 0\n");
}

TEST_F(LoggingTest, LevelsHavePythonsNumbersAndNames) {  // W03
  EXPECT_EQ(static_cast<int>(Level::subdebug), 5);
  EXPECT_EQ(static_cast<int>(Level::debug), 10);
  EXPECT_EQ(static_cast<int>(Level::info), 20);
  EXPECT_EQ(static_cast<int>(Level::subwarning), 25);
  EXPECT_EQ(static_cast<int>(Level::warning), 30);
  EXPECT_EQ(static_cast<int>(Level::error), 40);
  EXPECT_EQ(static_cast<int>(Level::critical), 50);
  EXPECT_EQ(mp::logging::name(Level::subwarning), "SUBWARNING");
  EXPECT_EQ(mp::logging::name(static_cast<Level>(35)), "Level 35");
}

}  // namespace
