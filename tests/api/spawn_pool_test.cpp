// Pools whose zygote does not begin as a copy of the parent. The pool's own tests run under spawn
// and forkserver as well (CMakeLists.txt); here is what differs from fork. CPython: the pools of
// TestStartMethod, and _TestPool with these types.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <millrace/affinity.hpp>
#include <millrace/context.hpp>
#include <millrace/pool.hpp>
#include <millrace/synchronize.hpp>
#include <string>
#include <vector>

#include "tests/api/spawn_support.hpp"

namespace mp = millrace;
using mp::test::run_spawned;
using mp::test::spawn;

namespace {

class SpawnPoolTest : public mp::test::SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, SpawnPoolTest, mp::test::methods(), mp::test::method_name);

// In the parent's memory only.
int g_set_by_main = 0;

TEST_P(SpawnPoolTest, PoolsWorkersBeginAnew) {  // C05; test_context's pools
  g_set_by_main = 5;
  mp::set_start_method(GetParam());
  mp::Pool plain(1);
  EXPECT_EQ(plain.apply([](int x) { return x + g_set_by_main; }, 1), 1);
  EXPECT_EQ(plain.apply([] { return mp::get_start_method(); }), GetParam());
  auto forks = mp::get_context("fork").Pool(1);
  EXPECT_EQ(forks.apply([](int x) { return x + g_set_by_main; }, 1), 6);
  EXPECT_EQ(forks.apply([] { return mp::get_start_method(); }), "fork");
  auto named = spawn().Pool(1);
  const std::string kind = GetParam() == std::string("spawn") ? "Spawn" : "ForkServer";
  EXPECT_EQ(named.apply([] { return mp::current_process().name(); }).rfind(kind + "PoolWorker-", 0),
            0U);
  EXPECT_EQ(named.apply([] { return mp::current_process().authkey(); }),
            mp::current_process().authkey());
  EXPECT_EQ(named.apply([] { return *mp::parent_process()->pid(); }), ::getpid());
}

int g_set_by_initializer = 0;
mp::Lock g_lock_of_initializer;

TEST_P(SpawnPoolTest, InitializerIsSentToThePool) {
  mp::Lock lock;
  auto pool = spawn().Pool(
      2,
      [](const mp::Lock& l, const std::vector<int>& numbers) {
        g_lock_of_initializer = l;
        for (const int n : numbers) g_set_by_initializer += n;
      },
      lock, std::vector<int>{1, 2, 39});
  EXPECT_EQ(pool.map([](int x) { return x + g_set_by_initializer; }, {0, 1, 2, 3}),
            (std::vector<int>{42, 43, 44, 45}));
  lock.acquire();
  EXPECT_FALSE(pool.apply([] { return g_lock_of_initializer.try_acquire(); }));
  lock.release();
  EXPECT_EQ(g_set_by_initializer, 0);
  int here = 0;
  int* address = &here;
  EXPECT_THROW((void)spawn().Pool(1, [address] { *address = 1; }), mp::TypeError);
}

TEST_P(SpawnPoolTest, PoolInsideAChild) {  // beyond: workers may have pools
  EXPECT_EQ(run_spawned([] {
              mp::Pool pool(2);
              const auto squares = pool.map([](int x) { return x * x; }, {1, 2, 3});
              const int nested = pool.apply([] {
                mp::Pool inner(1);
                return inner.apply([](int x) { return x + 1; }, 9);
              });
              throw mp::SystemExit(squares[2] + nested);
            }),
            19);
}

// beyond: hwloc takes seconds on a large node
TEST_P(SpawnPoolTest, ChildrenAndWorkersAreHandedTheTopology) {
  const auto packages = [] { return mp::affinity::topology().packages(); };
  const int here = packages();
  // What a process would find that read the machine itself.
  ASSERT_EQ(::setenv("HWLOC_SYNTHETIC", "pack:77 core:1 pu:1", 1), 0);
  EXPECT_EQ(run_spawned([packages] { throw mp::SystemExit(packages()); }), here);
  auto pool = spawn().Pool(2);
  EXPECT_EQ(pool.map([packages](int) { return packages(); }, {1, 2}, 1),
            (std::vector<int>{here, here}));
  ::unsetenv("HWLOC_SYNTHETIC");
}

}  // namespace
