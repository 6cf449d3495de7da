// Forks that are dangerous: beside other threads, and after MPI_Init. CPython: the warning of
// os.fork() since 3.12, with which test_multiprocessing_fork counts.
#include <gtest/gtest.h>

#include <cstdlib>
#include <millrace/context.hpp>
#include <millrace/logging.hpp>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <millrace/synchronize.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "tests/leak_check.hpp"

namespace mp = millrace;
using mp::test::run_program;

namespace {

// What an MPI library has; the runtime looks for these names in the program.
int g_initialized = 0;
int g_finalized = 0;

}  // namespace

extern "C" int MPI_Initialized(int* flag) {
  *flag = g_initialized;
  return 0;
}

extern "C" int MPI_Finalized(int* flag) {
  *flag = g_finalized;
  return 0;
}

namespace {

class ForkHazards : public mp::test::LeakCheck {
 protected:
  void TearDown() override {
    g_initialized = g_finalized = 0;
    LeakCheck::TearDown();
  }
};

void start_one(const char* method) {
  auto p = mp::get_context(method).Process([] {});
  p.start();
  p.join();
  if (p.exitcode() != 0) std::exit(9);
}

TEST_F(ForkHazards, ForkBesideThreadsIsWarnedOf) {  // C01
  const auto outcome = run_program([] {
    mp::log_to_stderr(mp::logging::Level::warning);
    mp::Event end;
    std::thread other([&end] { end.wait(); });
    start_one("fork");
    end.set();
    other.join();
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.err.rfind("[WARNING/MainProcess] This process (pid=", 0), 0U) << outcome.err;
  EXPECT_NE(outcome.err.find("has 1 other threads"), std::string::npos) << outcome.err;
}

TEST_F(ForkHazards, OtherMethodsAndTheLibrarysThreadsAreNot) {  // C02, C03
  const auto outcome = run_program([] {
    mp::log_to_stderr(mp::logging::Level::warning);
    start_one("fork");
    mp::Pool pool({.processes = 1, .context = &mp::get_context("fork")});
    auto result = pool.apply_async(
        {.callback = [](int) {}}, [](int x) { return x + 1; }, 1);
    if (result.get() != 2) std::exit(8);
    start_one("fork");  // beside the thread that collects results
    mp::Event end;
    std::thread other([&end] { end.wait(); });
    start_one("spawn");
    start_one("forkserver");
    end.set();
    other.join();
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(ForkHazards, ForkAfterMpiInitIsRefused) {
  g_initialized = 1;
  mp::Process p({.context = &mp::get_context("fork")}, [] {});
  try {
    p.start();
    ADD_FAILURE();
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find("MPI_Init"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("forkserver"), std::string::npos) << e.what();
  }
  EXPECT_THROW((void)mp::get_context("fork").Pool(1), std::runtime_error);
  start_one("spawn");
  start_one("forkserver");
  EXPECT_EQ(mp::get_context("spawn").Pool(1).apply([](int x) { return x; }, 3), 3);
  g_finalized = 1;
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ForkHazards, UserMayInsistOnForkAfterMpiInit) {
  g_initialized = 1;
  ::setenv("MILLRACE_FORK_AFTER_MPI", "1", 1);
  start_one("fork");
  ::setenv("MILLRACE_FORK_AFTER_MPI", "0", 1);
  EXPECT_THROW(start_one("fork"), std::runtime_error);
  ::unsetenv("MILLRACE_FORK_AFTER_MPI");
}

}  // namespace
