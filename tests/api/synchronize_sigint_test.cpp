// SIGINT in the waits of locks and their kin (S35).
#include <cstdio>
#include <millrace/millrace.hpp>

#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

bool asleep(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  std::FILE* file = std::fopen(path.c_str(), "r");
  char state = '?';
  if (file != nullptr) {
    (void)!std::fscanf(file, "%*d (%*[^)]) %c", &state);
    std::fclose(file);
  }
  return state == 'S';
}

// How a blocked call ends when SIGINT comes: 100 for KeyboardInterrupt.
template <class Call>
int interrupted(Call call) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    mp::install_sigint();
    told()->fetch_add(1);
    try {
      call();
    } catch (const mp::KeyboardInterrupt&) {
      ::_exit(100);
    } catch (...) {
      ::_exit(101);
    }
    ::_exit(0);
  }
  until_told(1);
  while (!asleep(child)) std::this_thread::yield();
  ::kill(child, SIGINT);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
  }
  told()->store(0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F(Synchronize, SigintEndsABlockedCallS35) {
  const mp::Lock lock;
  lock.acquire();
  EXPECT_EQ(interrupted([&] { lock.acquire(); }), 100);
  EXPECT_EQ(interrupted([&] { (void)lock.acquire(50s); }), 100);
  const mp::RLock rlock;
  rlock.acquire();
  EXPECT_EQ(interrupted([&] { rlock.acquire(); }), 100);
  const mp::Semaphore sem(0);
  EXPECT_EQ(interrupted([&] { sem.acquire(); }), 100);
  const mp::BoundedSemaphore bounded;
  bounded.acquire();
  EXPECT_EQ(interrupted([&] { bounded.acquire(); }), 100);
  const mp::Event event;
  EXPECT_EQ(interrupted([&] { event.wait(); }), 100);
}

TEST_F(Synchronize, SigintInABarrierBreaksItAndInAConditionGivesTheLockBackS35) {
  const mp::Barrier barrier(2);
  EXPECT_EQ(interrupted([&] { barrier.wait(); }), 100);
  EXPECT_TRUE(barrier.broken());
  const mp::Condition condition;
  EXPECT_EQ(interrupted([&] {
              const std::scoped_lock guard(condition);
              condition.wait();
            }),
            100);
  EXPECT_TRUE(condition.try_acquire()) << "released on the way out";
  condition.release();
}

}  // namespace
}  // namespace millrace::test
