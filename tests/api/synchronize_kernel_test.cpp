// What locks and their kin ask of the kernel: nothing while nobody waits.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <millrace/millrace.hpp>

#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

// From here on any system call ends the process by SIGSYS, but for its end and the clock, which is
// one only where the kernel has no better.
void forbid_system_calls() {
  sock_filter filter[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, 0},  // the call's number
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_clock_gettime},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_exit_group},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
  };
  const sock_fprog program{5, filter};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(77);
}

// The wait status of a child in which `body` ran without the kernel. What has to be done once a
// process (its identity, lazily bound functions) is done by a first run.
template <class Body>
int without_kernel(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    forbid_system_calls();
    for (int i = 0; i < 100; ++i) body();
    ::syscall(SYS_exit_group, 0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
  }
  return status;
}

TEST_F(Synchronize, NoSystemCallWhileNobodyWaits) {
  const mp::Lock lock;
  const mp::RLock rlock;
  const mp::Semaphore sem;
  const mp::BoundedSemaphore bounded(2);
  const mp::Event event;
  const mp::Barrier barrier(1);
  const mp::Condition condition;
  const mp::Value<int> value(0);
  EXPECT_EQ(without_kernel([&] {
              const std::scoped_lock one(lock);
              const std::scoped_lock two(rlock);
              const std::scoped_lock again(rlock);
            }),
            0);
  EXPECT_EQ(without_kernel([&] {
              const std::scoped_lock one(sem);
              const std::scoped_lock two(bounded);
            }),
            0);
  EXPECT_EQ(without_kernel([&] {
              event.set();
              event.wait();
              event.clear();
              barrier.wait();
              value.set(value.get() + 1);
              const std::scoped_lock held(condition);
              condition.notify_all();
            }),
            0);
  EXPECT_EQ(WTERMSIG(without_kernel([] { ::getppid(); })), SIGSYS) << "the net has no holes";
}

}  // namespace
}  // namespace millrace::test
