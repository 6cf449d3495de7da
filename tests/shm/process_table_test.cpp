#include "shm/process_table.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>
#include <set>
#include <thread>
#include <vector>

#include "shm/liveness.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::shm {
namespace {

using test::in_child;
using test::start_child;
using test::wait_for;

TEST(ProcessTable, GivesThisProcessOneIdForAllThreads) {
  std::vector<std::thread> threads;
  std::vector<ProcessId> ids(4);
  for (std::size_t i = 0; i < ids.size(); ++i) threads.emplace_back([&, i] { ids[i] = self(); });
  for (auto& t : threads) t.join();
  for (const ProcessId id : ids) EXPECT_EQ(id, self());
  EXPECT_NE(self(), 0U);
  EXPECT_EQ(ProcessTable::instance().pid(self()), ::getpid());
  EXPECT_TRUE(ProcessTable::instance().check_alive(self()));
}

TEST(ProcessTable, GivesAForkedChildAnIdOfItsOwn) {
  const ProcessId parent = self();
  EXPECT_EQ(in_child([&] { return self() == parent ? 1 : 0; }), 0);
}

TEST(ProcessTable, ChildAdoptsTheReservedId) {
  ProcessTable& table = ProcessTable::instance();
  const ProcessId id = table.reserve();
  EXPECT_FALSE(table.is_dead(id));
  EXPECT_EQ(table.pid(id), 0);
  const pid_t child = start_child([&] {
    table.adopt(id);
    return self() == id && table.pid(id) == ::getpid() ? 7 : 1;
  });
  const int status = wait_for(child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(table.pid(id), child);
  table.mark_dead(id, status);
  EXPECT_TRUE(table.is_dead(id));
  EXPECT_EQ(table.status(id), status);
  reap(id);
  EXPECT_TRUE(table.is_dead(id));
  EXPECT_EQ(table.status(id), status) << "a status outlives the reaping";
}

TEST(ProcessTable, ChildAdoptsLaterAtItsFirstUse) {
  ProcessTable& table = ProcessTable::instance();
  const ProcessId id = table.reserve();
  const pid_t child = start_child([&] {
    table.adopt_later(id);
    if (table.pid(id) != 0) return 1;
    const int grandchild = in_child([&] { return self() == id ? 1 : 0; });
    std::vector<ProcessId> ids(4);
    std::vector<std::thread> threads;
    for (ProcessId& each : ids) threads.emplace_back([&each] { each = self(); });
    for (auto& each : threads) each.join();
    for (const ProcessId each : ids) {
      if (each != id) return 2;
    }
    return grandchild == 0 && self() == id && table.pid(id) == ::getpid() ? 7 : 3;
  });
  const int status = wait_for(child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(table.pid(id), child);
  table.entrust(id, ::getpid());  // too late to mean anything
  EXPECT_FALSE(table.check_alive(id));
  reap(id);
}

TEST(ProcessTable, ChildAdoptsWhileItsParentEntrusts) {
  ProcessTable& table = ProcessTable::instance();
  void* const page =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  auto& step = *new (page) std::atomic<int>(0);
  const auto await = [&step](int value) {
    for (int looks = 0; step != value; ++looks) {
      if (looks > 10000) ::sched_yield();
    }
  };
  for (int round = 0; round < 1000; ++round) {
    step = 0;
    const ProcessId id = table.reserve();
    const pid_t child = start_child([&] {
      table.adopt_later(id);
      if (table.pid(id) != 0) return 1;  // it has the page now
      step = 1;
      await(2);
      return self() == id && table.pid(id) == ::getpid() ? 7 : 3;
    });
    await(1);
    step = 2;
    for (int wait = round * 7; wait > 0; --wait) (void)step.load();  // the moments differ
    table.entrust(id, child);
    ASSERT_EQ(WEXITSTATUS(wait_for(child)), 7) << round;
    EXPECT_FALSE(table.check_alive(id));
    reap(id);
  }
  ::munmap(page, 4096);
}

TEST(ProcessTable, EntrustedReservationLastsAsLongAsTheChild) {
  ProcessTable& table = ProcessTable::instance();
  int ids[2];
  int go[2];
  ASSERT_EQ(::pipe(ids), 0);
  ASSERT_EQ(::pipe(go), 0);
  // A parent that ends, and a child that has not used the library by then.
  EXPECT_EQ(in_child([&] {
              const ProcessId id = table.reserve();
              const pid_t child = start_child([&] {
                char byte = 0;
                ::close(go[1]);
                return ::read(go[0], &byte, 1) == 0 ? 0 : 1;
              });
              table.entrust(id, child);
              const std::uint64_t both[] = {id, static_cast<std::uint64_t>(child)};
              return ::write(ids[1], both, sizeof both) == sizeof both ? 0 : 1;
            }),
            0);
  std::uint64_t both[2] = {};
  ASSERT_EQ(::read(ids[0], both, sizeof both), static_cast<ssize_t>(sizeof both));
  const auto id = static_cast<ProcessId>(both[0]);
  EXPECT_TRUE(table.check_alive(id));
  EXPECT_TRUE(table.is_present(id));
  EXPECT_EQ(table.pid(id), 0);
  const int end = static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(both[1]), 0U));
  ::close(go[1]);
  if (end >= 0) {
    pollfd ended{end, POLLIN, 0};
    ::poll(&ended, 1, -1);
    ::close(end);
  }
  EXPECT_FALSE(table.check_alive(id));
  EXPECT_EQ(table.status(id), kUnknownStatus) << "nobody can tell whose pid it was";
  reap(id);
  for (const int fd : {ids[0], ids[1], go[0]}) ::close(fd);
}

TEST(ProcessTable, CountsEachDeathBeforeItIsSeen) {
  ProcessTable& table = ProcessTable::instance();
  const ProcessId id = table.reserve();
  const auto before = table.deaths().load();
  table.mark_dead(id, kUnknownStatus);
  EXPECT_TRUE(table.is_dead(id));
  EXPECT_EQ(table.deaths().load(), before + 1);
  table.mark_dead(id, kUnknownStatus);
  EXPECT_EQ(table.deaths().load(), before + 1);
  EXPECT_EQ(table.status(id), kUnknownStatus);
  table.mark_dead(id, 9);  // learnt later
  EXPECT_EQ(table.status(id), 9);
  EXPECT_EQ(table.deaths().load(), before + 1);
  reap(id);
}

TEST(ProcessTable, ReusesAnIndexWithAnotherGenerationOnly) {
  ProcessTable& table = ProcessTable::instance();
  std::set<ProcessId> ids;
  for (int i = 0; i < 3000; ++i) {
    const ProcessId id = table.reserve();
    EXPECT_TRUE(ids.insert(id).second);
    EXPECT_NE(id, 0U);
    EXPECT_LE(id, kProcessIdMask);
    table.mark_dead(id, 0);
    reap(id);
  }
  for (const ProcessId id : ids) EXPECT_TRUE(table.is_dead(id));
}

TEST(ProcessTable, CancelledReservationIsNoDeath) {
  ProcessTable& table = ProcessTable::instance();
  const auto before = table.deaths().load();
  table.cancel(table.reserve());
  EXPECT_EQ(table.deaths().load(), before);
}

TEST(ProcessTable, RevokedReservationCannotBeAdopted) {
  ProcessTable& table = ProcessTable::instance();
  const std::uint64_t deaths = table.deaths().load(std::memory_order_acquire);
  const ProcessId id = table.reserve();
  EXPECT_TRUE(table.revoke(id));
  EXPECT_TRUE(table.is_dead(id));
  EXPECT_GT(table.deaths().load(std::memory_order_acquire), deaths);
  EXPECT_FALSE(table.revoke(id));
  const ProcessId mine = self();
  table.adopt(id);
  EXPECT_EQ(self(), mine);
  reap(id);
  EXPECT_FALSE(table.revoke(mine));  // adopted: it lives
  EXPECT_FALSE(table.is_dead(mine));
}

TEST(ProcessTable, LearnsOfAKilledProcessFromTheKernel) {
  ProcessTable& table = ProcessTable::instance();
  const ProcessId id = table.reserve();
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = start_child([&] {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    table.adopt(id);
    (void)!::write(ready[1], "x", 1);
    for (;;) ::pause();
    return 0;
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_TRUE(table.check_alive(id));
  ASSERT_TRUE(send_signal(child, SIGSTOP));
  EXPECT_TRUE(table.check_alive(id)) << "stopped is not dead";
  ASSERT_TRUE(send_signal(child, SIGKILL));
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(table.check_alive(id)) << "a zombie is dead";
  EXPECT_TRUE(table.is_dead(id));
  wait_for(child);
  reap(id);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(ProcessTable, GivesUpAReservationWhoseMakerDied) {
  ProcessTable& table = ProcessTable::instance();
  int ids[2];
  ASSERT_EQ(::pipe(ids), 0);
  EXPECT_EQ(in_child([&] {
              const ProcessId id = table.reserve();
              return ::write(ids[1], &id, sizeof id) == sizeof id ? 0 : 1;
            }),
            0);
  ProcessId id = 0;
  ASSERT_EQ(::read(ids[0], &id, sizeof id), static_cast<ssize_t>(sizeof id));
  EXPECT_FALSE(table.check_alive(id));
  reap(id);
  ::close(ids[0]);
  ::close(ids[1]);
}

TEST(ProcessTable, ReapsTheDeadWhenItIsFull) {
  ProcessTable& table = ProcessTable::instance();
  EXPECT_EQ(in_child([&] {
              // Reservations of a process that has ended fill the table up.
              while (in_child([&] {
                       for (int i = 0; i < 1500; ++i) (void)table.reserve();
                       return 0;
                     }) == 0 &&
                     table.high() < kMaxProcesses) {
              }
              for (int i = 0; i < 1000; ++i) (void)table.reserve();
              return 0;
            }),
            0);
  reap_all_dead();
}

TEST(ProcessTable, RefusesThe4097thLivingProcess) {
  ProcessTable& table = ProcessTable::instance();
  std::vector<ProcessId> ids;
  try {
    for (std::size_t i = 0; i <= kMaxProcesses; ++i) ids.push_back(table.reserve());
    ADD_FAILURE() << "more entries than there are";
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), EAGAIN);
  }
  for (const ProcessId id : ids) table.cancel(id);
  table.cancel(table.reserve());
}

TEST(ProcessTable, SurvivesTheReapersDeath) {
  ProcessTable& table = ProcessTable::instance();
  const ProcessId dead = table.reserve();
  table.mark_dead(dead, 0);
  EXPECT_EQ(in_child([&] { return table.begin_reaping(dead) ? 0 : 1; }), 0);
  EXPECT_TRUE(table.in_use(dead & (kMaxProcesses - 1)));
  reap(dead);
  EXPECT_FALSE(table.in_use(dead & (kMaxProcesses - 1)));
  reap_all_dead();
}

// Whoever is to read a dead process's messages reaps it; when that one is gone, anybody does.
TEST(ProcessTable, LeavesTheDeadToTheirHeirWhileItLives) {
  ProcessTable& table = ProcessTable::instance();
  const auto in_use = [&](ProcessId id) { return table.in_use(id & (kMaxProcesses - 1)); };
  const ProcessId heir = table.reserve();
  const ProcessId dead = table.reserve();
  table.set_heir(dead, heir);
  table.mark_dead(dead, 0);
  reap_all_dead();
  EXPECT_TRUE(in_use(dead));
  EXPECT_EQ(in_child([&] { return (reap_all_dead(), in_use(dead)) ? 0 : 1; }), 0);
  table.mark_dead(heir, 0);
  reap_all_dead();
  EXPECT_FALSE(in_use(heir));
  EXPECT_FALSE(table.awaits_heir(dead));
  reap_all_dead();  // the heir's entry may come after
  EXPECT_FALSE(in_use(dead));
}

TEST(Liveness, KnowsAProcessByItsStartTime) {
  const std::uint64_t started = start_time_of(0);
  EXPECT_NE(started, 0U);
  EXPECT_EQ(started, start_time_of(::getpid()));
  EXPECT_LE(started, start_clock_now());
  const pid_t child = start_child([] {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
    return 0;
  });
  const std::uint64_t start = start_time_of(child);
  EXPECT_FALSE(process_gone(child, start));
  EXPECT_FALSE(process_gone(child, start_clock_now())) << "it was there at that time";
  EXPECT_TRUE(process_gone(child, start - 1)) << "the pid serves another process";
  ASSERT_TRUE(send_signal(child, SIGKILL));
  wait_for(child);
  EXPECT_TRUE(process_gone(0, 0));
  EXPECT_TRUE(process_gone(-1, 0));
}

TEST(Liveness, ProcessWhoseMainThreadEndedIsAlive) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = start_child([&] {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const pid_t leader = ::getpid();
    std::thread([&, leader] {
      char path[64];
      std::snprintf(path, sizeof path, "/proc/%d/stat", leader);
      char text[256] = {};
      while (std::strstr(text, ") Z") == nullptr) {
        std::FILE* stat = std::fopen(path, "r");
        if (stat == nullptr || std::fgets(text, sizeof text, stat) == nullptr) std::abort();
        std::fclose(stat);
      }
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);  // this thread only, and without unwinding as pthread_exit() does
    return 0;
  });
  ::close(ready[1]);
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_FALSE(process_gone(child, start_time_of(child)));
  ASSERT_TRUE(send_signal(child, SIGKILL));
  wait_for(child);
  EXPECT_TRUE(process_gone(child, 0));
  ::close(ready[0]);
}

TEST(Signals, RefuseWhatIsNoProcessOfOthers) {
  for (const pid_t pid : {0, -1, 1, -17, ::getpid()}) {
    EXPECT_FALSE(send_signal(pid, 0)) << pid;
    EXPECT_EQ(errno, EINVAL);
  }
  EXPECT_FALSE(send_signal_fd(-1, 0));
  EXPECT_EQ(errno, EINVAL);
}

TEST(Signals, ReachAChild) {
  const pid_t child = start_child([] {
    for (;;) ::pause();
    return 0;
  });
  EXPECT_TRUE(send_signal(child, 0));
  EXPECT_TRUE(send_signal(child, SIGKILL));
  EXPECT_EQ(WTERMSIG(wait_for(child)), SIGKILL);
  EXPECT_FALSE(send_signal(child, 0));
  EXPECT_EQ(errno, ESRCH);
}

}  // namespace
}  // namespace millrace::shm
