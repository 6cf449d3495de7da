#include "runtime/process/child.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <millrace/errors.hpp>
#include <stdexcept>

#include "runtime/base/affinity_mask.hpp"
#include "shm/process_table.hpp"
#include "tests/leak_check.hpp"

namespace mp = millrace;
namespace shm = millrace::shm;
using namespace millrace::runtime;

namespace {

class ChildTest : public mp::test::LeakCheck {};

// Forks, runs `body` in the child, and returns its exit code.
template <class Body>
int in_child(Body body) {
  const shm::ProcessId id = shm::ProcessTable::instance().reserve();
  const pid_t pid = fork_process(id);
  if (pid == 0) ::_exit(body(id));
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  shm::ProcessTable::instance().mark_dead(id, status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F(ChildTest, AdoptsItsId) {
  EXPECT_EQ(in_child([](shm::ProcessId id) { return shm::self() == id ? 0 : 1; }), 0);
}

TEST_F(ChildTest, MaskIsWideInTheChildAndKeptInTheParent) {
  const AffinityMask all = AffinityMask::initial();
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  const AffinityMask narrow = AffinityMask::of_this_thread();
  const int code = in_child([&](shm::ProcessId) {
    const bool wide = AffinityMask::of_this_thread() == all;
    restore_affinity();
    return wide && AffinityMask::of_this_thread() == narrow ? 0 : 1;
  });
  EXPECT_EQ(AffinityMask::of_this_thread(), narrow);
  EXPECT_EQ(code, 0);
  EXPECT_TRUE(all.apply());
}

TEST_F(ChildTest, EndingSignalsAreNotBlockedAndOthersStayAsTheyWere) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &all, &before), 0);
  const int code = in_child([](shm::ProcessId) {
    sigset_t now;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &now);
    return ::sigismember(&now, SIGTERM) == 0 && ::sigismember(&now, SIGUSR1) == 1 ? 0 : 1;
  });
  sigset_t after;
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, &after), 0);
  EXPECT_EQ(::sigismember(&after, SIGTERM), 1);
  EXPECT_EQ(code, 0);
}

int guarded(void (*body)(void*)) { return run_guarded(body, nullptr); }

TEST_F(ChildTest, GuardTurnsWhatIsThrownIntoAnExitCode) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(guarded([](void*) {}), 0);
  EXPECT_EQ(guarded([](void*) { throw mp::SystemExit(5); }), 5);
  EXPECT_EQ(guarded([](void*) { throw mp::SystemExit("text"); }), 1);
  EXPECT_EQ(guarded([](void*) { throw mp::SystemExit(""); }), 1);
  EXPECT_EQ(guarded([](void*) { throw std::runtime_error("why"); }), 1);
  EXPECT_EQ(guarded([](void*) { throw 3; }), 1);
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.rfind("text\n\nProcess MainProcess:\n", 0), 0U) << text;
  EXPECT_NE(text.find("std::runtime_error: why\n"), std::string::npos);
  EXPECT_NE(text.find("int: 3\n"), std::string::npos);
}

TEST_F(ChildTest, ChildOfAPoolHasTheNameAndParentItIsGiven) {
  const ParentIdentity here = as_parent();
  const int code = in_child([&](shm::ProcessId) {
    become_process("ForkPoolWorker-1", false, here);
    const auto parent = mp::parent_process();
    mp::Process nested([] {});
    return process_name() == "ForkPoolWorker-1" && parent->pid() == here.pid &&
                   parent->name() == "MainProcess" && parent->is_alive() &&
                   mp::current_process().name() == "ForkPoolWorker-1"
               ? 0
               : 1;
  });
  EXPECT_EQ(code, 0);
}

}  // namespace
