// What a call and a pool can be told: PYTHON.md O01 (initializer, maxtasksperchild), and what is
// beyond Python: timeout, retries, collect, cancel, priority, progress, bindings, stats.
// CPython's _TestPoolWorkerLifetime.
#include <algorithm>
#include <millrace/affinity.hpp>
#include <millrace/context.hpp>
#include <millrace/pool.hpp>
#include <set>
#include <thread>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::add;
using millrace::test::apply_here;
using millrace::test::Gate;
using millrace::test::numbers;
using millrace::test::PoolTest;
using millrace::test::square;

class PoolOptions : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolOptions);

int fail_on_three(int x) {
  if (x == 3) throw mp::KeyError("three");
  return x;
}
pid_t own_pid(int) { return ::getpid(); }

// O01, _TestPool.test_make_pool
TEST_F(PoolTest, OptionsOutOfRangeAreValueErrors) {
  EXPECT_THROW(mp::Pool(0), mp::ValueError);
  EXPECT_THROW(mp::Pool(-1), mp::ValueError);
  EXPECT_THROW(mp::Pool(std::int64_t{1} << 40), mp::ValueError);
  EXPECT_THROW(mp::Pool({.processes = 0}), mp::ValueError);
  EXPECT_THROW(mp::Pool({.processes = 1, .maxtasksperchild = 0}), mp::ValueError);
  EXPECT_THROW(mp::Pool({.processes = 1, .maxtasksperchild = -1}), mp::ValueError);
  EXPECT_THROW(mp::Pool({.processes = 1, .cores_per_worker = 0}), mp::ValueError);
  EXPECT_THROW(mp::Pool({.processes = 1, .bind = "nonsense"}), mp::ValueError);
}

int g_told = 0;
void tell(int value) { g_told = value; }

// O01: each worker, replacements too, runs the initializer first; TestInitializers
TEST_P(PoolOptions, EveryWorkerRunsTheInitializerFirst) {
  mp::Pool pool(workers(), tell, 7);
  EXPECT_EQ(pool.map([](int) { return g_told; }, numbers(50), 1), std::vector<int>(50, 7));
  EXPECT_EQ(g_told, 0);
  mp::Pool brief(
      {.processes = workers(), .maxtasksperchild = 1},
      [](const std::string& text) { g_told = static_cast<int>(text.size()); }, "four");
  EXPECT_EQ(brief.map([](int) { return g_told; }, numbers(20), 1), std::vector<int>(20, 4));
}

// O01, _TestPoolWorkerLifetime.test_pool_worker_lifetime: workers are replaced after so many chunks
TEST_P(PoolOptions, WorkersAreReplacedAfterTheirTasks) {
  mp::Pool pool({.processes = workers(), .maxtasksperchild = 3});
  std::vector<pid_t> pids;
  for (const pid_t pid : pool.map(own_pid, numbers(60), 1)) pids.push_back(pid);
  for (const pid_t pid : std::set(pids.begin(), pids.end())) {
    EXPECT_LE(std::ranges::count(pids, pid), 3);
  }
  EXPECT_EQ(pool.map(square, numbers(300), 5), apply_here(square, numbers(300)));
  std::vector<int> all;
  for (const int x : pool.imap(square, numbers(100))) all.push_back(x);
  EXPECT_EQ(all, apply_here(square, numbers(100)));
  const mp::shared_array<int> hits(100);
  for (int i = 0; i < 5; ++i) {
    pool.parallel_for(100, [hits](std::size_t k) { ++hits[k]; }, {.chunksize = 1});
  }
  EXPECT_EQ(std::ranges::count(hits, 5), 100);
  pool.close();
  pool.join();
}

// beyond: a task that takes too long is ended, the rest goes on
TEST_P(PoolOptions, TimeoutEndsATaskAndNothingElse) {
  mp::Pool pool(workers());
  const Gate never;
  const auto stuck_on_two = [never](int x) {
    if (x == 2) never.pass();
    return x;
  };
  EXPECT_THROW(pool.apply({.timeout = 30ms}, stuck_on_two, 2), mp::TimeoutError);
  EXPECT_EQ(pool.apply({.timeout = 1min}, stuck_on_two, 1), 1);
  EXPECT_THROW(pool.map(stuck_on_two, numbers(6), {.chunksize = 1, .timeout = 30ms}),
               mp::TimeoutError);
  auto late = pool.apply_async({.timeout = 30ms}, stuck_on_two, 2);
  EXPECT_THROW(late.get(), mp::TimeoutError);
  auto results = pool.imap(stuck_on_two, numbers(5), {.timeout = 30ms});
  for (int i = 0; i < 5; ++i) {
    if (i == 2) {
      EXPECT_THROW((void)results.next(), mp::TimeoutError);
    } else {
      EXPECT_EQ(results.next(), i);
    }
  }
  EXPECT_THROW(pool.parallel_for(8,
                                 [never](std::size_t i) {
                                   if (i == 2) never.pass();
                                 },
                                 {.chunksize = 1, .timeout = 30ms}),
               mp::TimeoutError);
  EXPECT_THROW(pool.parallel_for(64,
                                 [never](std::size_t i) {
                                   if (i == 2) never.pass();
                                 },
                                 {.chunksize = 1, .timeout = 30ms}),
               mp::TimeoutError);
  EXPECT_EQ(pool.map(square, numbers(100), 1), apply_here(square, numbers(100)));
}

// beyond: a task whose worker died runs again, so many times
TEST_P(PoolOptions, RetriesRunATaskAgainAfterItsWorkerDied) {
  mp::Pool pool(workers());
  const Gate runs;
  const auto die_twice = [runs](int x) {
    if (x == 5) {
      runs.arrive();
      if (runs.arrived() <= 2) ::_exit(9);
    }
    return std::string(static_cast<std::size_t>(100 * x), 'x');
  };
  EXPECT_EQ(pool.map(die_twice, numbers(10), {.chunksize = 2, .retries = 2}),
            apply_here([](int x) { return std::string(static_cast<std::size_t>(100 * x), 'x'); },
                       numbers(10)));
  EXPECT_EQ(runs.arrived(), 3);
  const Gate more;
  const auto die_once = [more](int x) {
    more.arrive();
    if (more.arrived() == 1) ::_exit(9);
    return x;
  };
  EXPECT_EQ(pool.apply({.retries = 1}, die_once, 4), 4);
  const Gate always;
  const auto die = [always](int) {
    always.arrive();
    ::_exit(4);
  };
  EXPECT_THROW(pool.apply({.retries = 2}, die, 4), mp::WorkerLost);
  EXPECT_EQ(always.arrived(), 3);
  // an error is no death: it is not tried again
  const Gate thrown;
  EXPECT_THROW(pool.apply({.retries = 5},
                          [thrown] {
                            thrown.arrive();
                            throw mp::KeyError("k");
                          }),
               mp::KeyError);
  EXPECT_EQ(thrown.arrived(), 1);
  const mp::shared_array<int> hits(64);
  const Gate ranges;
  pool.parallel_for(64,
                    [hits, ranges](std::size_t i) {
                      if (i == 7) {
                        ranges.arrive();
                        if (ranges.arrived() == 1) ::_exit(9);
                      }
                      ++hits[i];
                    },
                    {.chunksize = 1, .retries = 1});
  EXPECT_EQ(std::ranges::count(hits, 1), 64);
}

// beyond: every item runs and says how it went
TEST_P(PoolOptions, CollectGivesAnOutcomeForEveryItem) {
  mp::Pool pool(workers());
  for (const int chunk : {1, 4, 10}) {
    const auto all =
        pool.map(fail_on_three, numbers(8), {.chunksize = chunk, .on_error = mp::collect});
    ASSERT_EQ(all.size(), 8U);
    for (int i = 0; i < 8; ++i) {
      const mp::Outcome<int>& one = all[static_cast<std::size_t>(i)];
      EXPECT_EQ(static_cast<bool>(one), i != 3);
      EXPECT_NE(one.pid(), 0);
      EXPECT_NE(one.pid(), ::getpid());
      EXPECT_GE(one.cpu(), 0);
      EXPECT_GE(one.duration(), 0ns);
      if (i == 3) {
        EXPECT_THROW((void)one.value(), mp::KeyError);
        EXPECT_NE(mp::remote_traceback(one.error()), "");
      } else {
        EXPECT_EQ(one.value(), i);
        EXPECT_FALSE(one.error());
      }
    }
  }
  auto later = pool.map_async(fail_on_three, numbers(5), {.on_error = mp::collect});
  EXPECT_EQ(std::ranges::count_if(later.get(), [](const auto& o) { return !o; }), 1);
  int good = 0;
  for (const auto& one : pool.imap(fail_on_three, numbers(5), {.on_error = mp::collect}))
    good += one ? 1 : 0;
  EXPECT_EQ(good, 4);
  EXPECT_EQ(pool.starmap(add, {{1, 2}}, {.on_error = mp::collect})[0].value(), 3);
  EXPECT_EQ(pool.map([](const std::string&) {}, {"a"}, {.on_error = mp::collect}).size(), 1U);
}

TEST_P(PoolOptions, CollectNamesTheSignalThatEndedAWorker) {
  mp::Pool pool(workers());
  const auto all = pool.map(
      [](int x) {
        if (x == 1) ::abort();
        return x;
      },
      numbers(4), {.chunksize = 1, .on_error = mp::collect});
  EXPECT_EQ(all[1].signal(), SIGABRT);
  EXPECT_FALSE(all[1].oom());
  EXPECT_NE(all[1].pid(), 0);
  EXPECT_THROW((void)all[1].value(), mp::WorkerLost);
  EXPECT_EQ(all[0].value() + all[2].value() + all[3].value(), 5);
}

// beyond: cancel
TEST_P(PoolOptions, CancelDropsWhatHasNotBegunAndEndsWhatRuns) {
  mp::Pool pool(workers());
  const Gate gate;
  auto running = pool.apply_async([](const Gate& g) { g.pass(); }, gate);
  gate.await(1);
  const Gate counted;
  auto later = pool.map_async(
      [gate, counted](int) {
        gate.pass();
        counted.arrive();
      },
      numbers(50), 1);
  EXPECT_TRUE(later.cancel());
  EXPECT_THROW(later.get(), mp::ProcessError);
  EXPECT_FALSE(later.cancel());
  EXPECT_TRUE(running.cancel());
  EXPECT_THROW(running.get(), mp::ProcessError);
  EXPECT_FALSE(running.successful());
  EXPECT_EQ(pool.map(square, numbers(100), 1), apply_here(square, numbers(100)));
  EXPECT_EQ(counted.arrived(), 0);
  auto done = pool.apply_async(square, 2);
  done.wait();
  EXPECT_FALSE(done.cancel());
  EXPECT_EQ(done.get(), 4);
}

// beyond: of what waits, the highest priority goes first
TEST_F(PoolTest, HigherPriorityGoesFirst) {
  mp::Pool pool(1);
  const mp::shared_array<int> order(1200);
  const Gate turn;
  const auto note = [order, turn](int x) {
    turn.arrive();
    order[static_cast<std::size_t>(turn.arrived())] = x;
  };
  const Gate gate;
  auto held = pool.apply_async([](const Gate& g) { g.pass(); }, gate);
  auto low = pool.map_async(note, std::vector<int>(1000, 1), {.chunksize = 1, .priority = -1});
  auto high = pool.map_async(note, std::vector<int>(10, 2), {.chunksize = 1, .priority = 5});
  gate.open();
  held.get();
  high.get();
  low.get();
  const auto first = std::ranges::find(order, 2) - order.begin();
  EXPECT_LT(first, 600);  // only what had been handed out already goes before it
}

// beyond: progress, ending with everything
TEST_P(PoolOptions, ProgressEndsWithEverythingDone) {
  mp::Pool pool(workers());
  mp::Progress last;
  int calls = 0;
  const auto sink = [&](const mp::Progress& now) {
    EXPECT_GE(now.done, last.done);
    last = now;
    ++calls;
  };
  const auto check = [&](std::uint64_t total) {
    EXPECT_GE(calls, 1);
    EXPECT_EQ(last.done, total);
    EXPECT_EQ(last.total, total);
    EXPECT_GT(last.elapsed.count(), 0);
    last = {};
    calls = 0;
  };
  pool.map(square, numbers(100), {.chunksize = 1, .progress = sink});
  check(100);
  pool.map([](const std::string& s) { return s; }, {"a", "b"}, {.progress = sink});
  check(2);
  pool.map_async(square, numbers(50), {.progress = sink}).get();
  check(50);
  pool.parallel_for(200, [](std::size_t) { ::usleep(2000); }, {.chunksize = 1, .progress = sink});
  EXPECT_GE(calls, 2);  // also on the way
  check(200);
  pool.parallel_for(3, [](std::size_t) {}, {.progress = sink});
  check(3);
  EXPECT_EQ(pool.reduce(square, add, 0, numbers(10), {.progress = sink}), 285);
  check(10);
  std::vector<int> out(10);
  pool.map_into(square, numbers(10), out, {.progress = sink});
  check(10);
  for (const int x : pool.imap(square, numbers(30), {.progress = sink})) (void)x;
  EXPECT_EQ(last.done, 30U);
  pool.map(square, numbers(10), {.progress = [](const mp::Progress&) { throw 1; }});
}

// beyond: where workers run, and what they did
TEST_P(PoolOptions, BindingsAreReadBackFromTheWorkers) {
  mp::Pool pool(workers());
  const auto pids = pool.map(own_pid, numbers(200), 1);
  const auto bindings = pool.bindings();
  ASSERT_EQ(bindings.size(), static_cast<std::size_t>(workers()));
  std::set<pid_t> known;
  for (const auto& worker : bindings) {
    known.insert(worker.pid);
    EXPECT_FALSE(worker.cpus.empty());
    EXPECT_FALSE(worker.source.empty());
  }
  EXPECT_EQ(known.size(), bindings.size());
  for (const pid_t pid : pids) EXPECT_TRUE(known.contains(pid));
  mp::Pool unbound({.processes = 1, .bind = "none"});
  EXPECT_GE(unbound.bindings()[0].cpus.size(), 1U);
  mp::Pool by_core({.processes = 1, .bind = "core"});
  EXPECT_EQ(by_core.apply([] {
    cpu_set_t set;
    ::sched_getaffinity(0, sizeof set, &set);
    return CPU_COUNT(&set);
  }),
            static_cast<int>(by_core.bindings()[0].cpus.size()));
}

TEST_P(PoolOptions, StatsCountTasksTimeAndBytes) {
  mp::Pool pool(workers());
  pool.map(square, numbers(100), 1);
  pool.map([](const std::string& s) { return s; },
           std::vector<std::string>(3, std::string(1000, 'x')));
  pool.parallel_for(50, [](std::size_t) {}, {.chunksize = 1});
  std::uint64_t tasks = 0;
  std::uint64_t bytes = 0;
  std::uint64_t taken = 0;
  double seconds = 0;
  for (const auto& worker : pool.stats()) {
    EXPECT_NE(worker.pid, 0);
    tasks += worker.tasks;
    bytes += worker.bytes;
    seconds += worker.busy.count() + worker.idle.count();
    for (const auto steals : worker.steals_by_distance) taken += steals;
  }
  EXPECT_EQ(tasks, 153U);
  EXPECT_GE(bytes, 6000U);
  EXPECT_GT(seconds, 0);
  EXPECT_GE(taken, 103U);
}

// fork is the only start method: a pool of its context
TEST_P(PoolOptions, AContextMayBeNamed) {
  mp::Pool pool({.processes = workers(), .context = &mp::get_context("fork")});
  EXPECT_EQ(pool.apply(square, 3), 9);
}

}  // namespace
