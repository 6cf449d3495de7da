// Pool: processes that end. Tasks that end their worker, forks of the pool's owner, programs that
// exit with a pool, workers that cannot start. PYTHON.md O01, O02, and CPython's
// TestPoolNotLeakOnFailure.
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <millrace/arena.hpp>
#include <millrace/errors.hpp>
#include <millrace/pool.hpp>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "shm/reaper.hpp"
#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using millrace::test::apply_here;
using millrace::test::numbers;
using millrace::test::PoolTest;
using millrace::test::run_program;
using millrace::test::square;

class PoolLoss : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolLoss);

template <class Call>
mp::WorkerLost loss_of(Call call) {
  try {
    call();
  } catch (const mp::WorkerLost& lost) {
    return lost;
  }
  ADD_FAILURE() << "no WorkerLost";
  return mp::WorkerLost(0, 0, false, 0, 0);
}

// also those that one worker got together with the chunk that it died in
TEST_F(PoolTest, StatsCountWhatADeadWorkerHadEnded) {
  mp::Pool pool(2);
  const auto count = [&pool] {
    std::uint64_t tasks = 0;
    for (const auto& worker : pool.stats()) tasks += worker.tasks;
    return tasks;
  };
  std::uint64_t expected = 0;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 3; ++i) pool.parallel_for(3, [](std::size_t) {});
    expected += 9;
    EXPECT_EQ(loss_of([&] {
                pool.parallel_for(3, [](std::size_t i) {
                  if (i == 2) ::raise(SIGKILL);
                });
              }).first(),
              2U);
    expected += 2;
    while (count() < expected) ::usleep(100);  // a worker counts after it has replied
    ASSERT_EQ(count(), expected);
  }
}

// beyond: Python's pool loses such a task and hangs
TEST_P(PoolLoss, ATaskThatEndsItsWorkerIsWorkerLost) {
  mp::Pool pool(workers());
  EXPECT_EQ(loss_of([&] { pool.apply([] { throw mp::SystemExit(3); }); }).exitcode(), 3);
  EXPECT_EQ(loss_of([&] { pool.apply([] { std::exit(4); }); }).exitcode(), 4);
  EXPECT_EQ(loss_of([&] { pool.apply([] { ::_exit(5); }); }).exitcode(), 5);
  EXPECT_EQ(loss_of([&] { pool.apply([] { ::raise(SIGKILL); }); }).exitcode(), -SIGKILL);
  EXPECT_EQ(loss_of([&] { pool.apply([] { ::abort(); }); }).exitcode(), -SIGABRT);
  const auto lost = loss_of([&] {
    pool.map(
        [](int x) {
          if (x == 5) ::_exit(7);
          return x;
        },
        numbers(12), 3);
  });
  EXPECT_EQ(lost.exitcode(), 7);
  EXPECT_EQ(lost.first(), 3U);
  EXPECT_EQ(lost.last(), 5U);
  EXPECT_GT(lost.pid(), 0);
  EXPECT_FALSE(lost.oom());
  const auto range = loss_of([&] {
    pool.parallel_for(10, 110,
                      [](std::size_t i) {
                        if (i == 50) ::_exit(8);
                      },
                      {.chunksize = 4});
  });
  EXPECT_EQ(range.exitcode(), 8);
  EXPECT_EQ(range.first(), 50U);
  EXPECT_EQ(range.last(), 53U);
  const auto in_imap = loss_of([&] {
    for (const int x : pool.imap(
             [](int i) {
               if (i == 2) throw mp::SystemExit(6);
               return i;
             },
             numbers(9)))
      (void)x;
  });
  EXPECT_EQ(in_imap.exitcode(), 6);
  EXPECT_EQ(in_imap.first(), 2U);
  EXPECT_EQ(pool.map(square, numbers(50), 1), apply_here(square, numbers(50)));
}

// of several chunks that were one worker's the one it ran is lost, the others run once each
TEST_P(PoolLoss, OfAFewChunksOneIsLostWithItsWorker) {
  mp::Pool pool(workers());
  const auto chunks = static_cast<std::size_t>(2 * workers() - 1);
  const mp::shared_array<int> hits(2 * chunks);
  for (std::size_t bad = 0; bad < chunks; ++bad) {
    for (int i = 0; i < 20; ++i) {
      pool.parallel_for(2 * chunks, [hits](std::size_t k) { hits[k] = 0; }, {.chunksize = 2});
    }
    const auto lost = loss_of([&] {
      pool.parallel_for(2 * chunks,
                        [hits, bad](std::size_t i) {
                          ++hits[i];
                          if (i == 2 * bad + 1) ::_exit(8);
                        },
                        {.chunksize = 2});
    });
    EXPECT_EQ(lost.exitcode(), 8);
    EXPECT_EQ(lost.first(), 2 * bad);
    EXPECT_EQ(lost.last(), 2 * bad + 1);
    EXPECT_EQ(std::ranges::count(hits, 1), static_cast<std::ptrdiff_t>(2 * chunks)) << bad;
  }
}

// O20: what ends a task ends nothing else, and the error names item, worker and signal
TEST_P(PoolLoss, TheErrorNamesItemWorkerAndSignal) {
  mp::Pool pool(workers());
  const auto overflow = [](int x) {
    struct Endless {
      static int deeper(int depth) {  // NOLINT(misc-no-recursion): that is the point
        volatile char frame[4096];
        frame[0] = static_cast<char>(depth);
        return depth < 0 ? 0 : deeper(depth + 1) + frame[0];
      }
    };
    return x == 17 ? Endless::deeper(0) : x;
  };
  const auto all = pool.map(overflow, numbers(40), {.chunksize = 5, .on_error = mp::collect});
  for (int i = 0; i < 40; ++i) {
    const auto& one = all[static_cast<std::size_t>(i)];
    EXPECT_EQ(static_cast<bool>(one), i / 5 != 3) << i;
    if (!one) {
      EXPECT_EQ(one.signal(), SIGSEGV);
    }
  }
  const auto lost = loss_of([&] { pool.map(overflow, numbers(40), 5); });
  const std::string text = lost.what();
  EXPECT_NE(text.find("worker " + std::to_string(lost.pid())), std::string::npos) << text;
  EXPECT_NE(text.find("SIGSEGV"), std::string::npos) << text;
  EXPECT_NE(text.find("15 to 19"), std::string::npos) << text;
  EXPECT_EQ(pool.map(square, numbers(9)), apply_here(square, numbers(9)));
}

// memory that is refused is the task's own error, not its worker's end
TEST_P(PoolLoss, ATaskThatRunsOutOfMemoryGetsBadAlloc) {
  mp::Pool pool(workers());
  const auto greedy = [](int x) {
    struct Limited {
      Limited() { set(std::size_t{1} << 30); }  // the arena alone is larger: no more is given
      ~Limited() { set(RLIM_INFINITY); }
      static void set(rlim_t bytes) {
        const rlimit limit{bytes, RLIM_INFINITY};
        ::setrlimit(RLIMIT_AS, &limit);
      }
    } limited;
    std::vector<std::string> all;
    while (x == 3) all.emplace_back(std::size_t{1} << 24, 'x');
    return x;
  };
  const auto all = pool.map(greedy, numbers(8), {.chunksize = 1, .on_error = mp::collect});
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(static_cast<bool>(all[static_cast<std::size_t>(i)]), i != 3);
  EXPECT_EQ(all[3].signal(), 0);
  EXPECT_THROW(std::rethrow_exception(all[3].error()), std::bad_alloc);
}

// a reply that its worker did not outlive is still there when it is asked for
TEST_F(PoolTest, ARepliesMemoryIsKeptUntilItIsRead) {
  mp::Pool pool(1);
  const mp::shared_array<int> pid(1);
  const auto die_second = [pid](int i) {
    pid[0] = ::getpid();
    if (i == 1) ::raise(SIGKILL);
    return std::string(200'000, 'x');
  };
  auto results = pool.imap(die_second, numbers(2));
  const auto other = run_program([&] {
    std::atomic_ref<int> worker(pid[0]);
    while (worker.load() == 0 || ::access(("/proc/" + std::to_string(worker)).c_str(), F_OK) == 0) {
      ::usleep(200);
    }
    millrace::shm::reap_all_dead();  // as a process does that finds the arena or the table full
    for (int i = 0; i < 20; ++i) {
      const mp::shared_array<char> filler(200'000);
      std::ranges::fill(filler, 'y');
    }
  });
  EXPECT_EQ(other.exitcode, 0) << other.err;
  EXPECT_EQ(results.next(), std::string(200'000, 'x'));
  EXPECT_THROW((void)results.next(), mp::WorkerLost);
}

// the rest of the job completes
TEST_P(PoolLoss, ALostWorkerTakesOnlyItsChunkAlong) {
  mp::Pool pool(workers());
  const auto all = pool.map(
      [](int x) {
        if (x == 31) ::raise(SIGSEGV);
        return x;
      },
      numbers(100), {.chunksize = 10, .on_error = mp::collect});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(static_cast<bool>(all[static_cast<std::size_t>(i)]), i / 10 != 3) << i;
  }
  EXPECT_EQ(all[35].signal(), SIGSEGV);
}

// fork: the child's copy of a pool is not usable, and says so
TEST_P(PoolLoss, AForkedChildGetsForkedError) {
  mp::Pool pool(workers());
  EXPECT_EQ(pool.apply(square, 2), 4);
  auto result = pool.apply_async(square, 3);
  auto results = pool.imap(square, numbers(3));
  const auto spans = millrace::test::arena_spans();
  const auto program = run_program([&] {
    int refused = 0;
    const auto expect = [&refused](auto call) {
      try {
        call();
      } catch (const mp::ForkedError&) {
        ++refused;
      }
    };
    expect([&] { pool.apply(square, 1); });
    expect([&] { pool.map(square, {1}); });
    expect([&] { (void)result.get(); });
    expect([&] { (void)result.ready(); });
    expect([&] { (void)results.next(); });
    expect([&] { pool.parallel_for(3, [](std::size_t) {}); });
    expect([&] { pool.close(); });
    expect([&] { pool.join(); });
    expect([&] { (void)pool.stats(); });
    pool.terminate();
    (void)pool.repr();
    { const auto gone = std::move(results); }
    { const mp::Pool taken(std::move(pool)); }
    mp::Pool own(1);
    if (own.apply(square, 5) != 25) refused = 100;
    std::exit(refused);
  });
  EXPECT_EQ(program.exitcode, 9) << program.err;
  EXPECT_EQ(millrace::test::arena_spans(), spans);
  EXPECT_EQ(result.get(), 9);
  EXPECT_EQ(results.next(), 0);
  EXPECT_EQ(pool.map(square, numbers(100), 1), apply_here(square, numbers(100)));
}

// a process that ends without ending its pools leaves no worker behind
TEST_F(PoolTest, AProgramThatExitsWithAPoolEndsItsWorkers) {
  const auto program = run_program([] {
    static mp::Pool global(2);
    auto* leaked = new mp::Pool(2);
    (void)leaked->apply_async([] { ::sleep(1000); });
    std::printf("%d", global.apply(square, 3));
  });
  EXPECT_EQ(program.exitcode, 0) << program.err;
  EXPECT_EQ(program.out, "9");
}

// an initializer that throws: an error instead of a hang; TestPoolNotLeakOnFailure
TEST_P(PoolLoss, AnInitializerThatThrowsIsAnError) {
  const auto program = run_program([] {
    mp::Pool pool(workers(), [] { throw std::runtime_error("bad start"); });
    try {
      pool.map(square, {1, 2, 3});
    } catch (const mp::ProcessError& error) {
      std::printf("%s", error.what());
    }
    try {
      pool.apply(square, 1);
    } catch (const mp::ProcessError&) {
      std::printf("+");
    }
    pool.close();
    pool.join();
  });
  EXPECT_EQ(program.exitcode, 0);
  EXPECT_NE(program.out.find("initializer"), std::string::npos) << program.out;
  EXPECT_EQ(program.out.back(), '+');
  EXPECT_NE(program.err.find("bad start"), std::string::npos);
}

// an initializer that ends its process: as one that throws
TEST_P(PoolLoss, AnInitializerThatDiesIsAnErrorThatSaysHow) {
  mp::Pool pool(workers(), [] { ::raise(SIGKILL); });
  try {
    (void)pool.map(square, {1, 2, 3});
    ADD_FAILURE() << "a pool without workers has worked";
  } catch (const mp::ProcessError& error) {
    EXPECT_NE(std::string(error.what()).find("signal 9"), std::string::npos) << error.what();
  }
  EXPECT_THROW(pool.apply(square, 1), mp::ProcessError);
}

// the system refuses processes: an error that names the request, and nothing is left
TEST_F(PoolTest, WhenTheSystemRefusesProcessesAnErrorSaysSo) {
  const auto program = run_program([] {
    (void)::setuid(12345);  // root is exempt from the limit
    const rlimit limit{2, 2};
    ::setrlimit(RLIMIT_NPROC, &limit);
    try {
      mp::Pool pool(8);
      std::printf("made");
    } catch (const std::system_error& error) {
      std::printf("%d", error.code().value());
    }
  });
  EXPECT_EQ(program.out, std::to_string(EAGAIN)) << program.err;
}

}  // namespace
