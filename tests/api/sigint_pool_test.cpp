// SIGINT in calls of a pool (PYTHON.md 3, row 4): they are cancelled or can be made again, the pool
// and its workers go on.
#include <millrace/pool.hpp>
#include <vector>

#include "tests/api/pool_fixture.hpp"
#include "tests/api/sigint_support.hpp"

namespace millrace::test {
namespace {

void forever() {
  for (;;) ::pause();
}

TEST_F(SigintTest, ApplyIsCancelledAndThePoolGoesOn) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              mp::Pool pool(2);
              if (!is_interrupted([&] { pool.apply(forever); })) return 1;
              return pool.apply([] { return 5; }) == 5 ? 0 : 2;
            }).code,
            0);
}

TEST_F(SigintTest, MapIsCancelledAndThePoolGoesOn) {
  EXPECT_EQ(
      run_forked([] {
        mp::install_sigint();
        mp::Pool pool(2);
        const std::vector<int> items(1000, 1);
        for (int i = 0; i < 5; ++i) {
          if (!is_interrupted([&] { pool.map([](int) { forever(); }, items, {.chunksize = 1}); })) {
            return 1;
          }
        }
        return pool.map([](int x) { return x + 1; }, items) == std::vector<int>(1000, 2) ? 0 : 2;
      }).code,
      0);
}

TEST_F(SigintTest, ParallelForIsCancelledAndLetsGoOfItsData) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              mp::Pool pool(2);
              for (int i = 0; i < 5; ++i) {
                mp::shared_array<std::uint64_t> data(1000);
                if (!is_interrupted([&] {
                      pool.parallel_for(1000, [data](std::size_t at) {
                        for (;;) ++data[at];
                      });
                    })) {
                  return 1;
                }
                const std::vector<std::uint64_t> before(data.begin(), data.end());
                std::this_thread::sleep_for(5ms);  // would show a worker that still writes
                if (!std::equal(before.begin(), before.end(), data.begin())) return 2;
              }
              std::uint64_t sum = 0;
              for (const std::uint64_t x : pool.map([](std::uint64_t x) { return x; },
                                                    std::vector<std::uint64_t>(100, 1))) {
                sum += x;
              }
              return sum == 100 ? 0 : 3;
            }).code,
            0);
}

TEST_F(SigintTest, AnAsyncResultCanBeWaitedForAgain) {  // O15, O16
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              const Gate gate;
              mp::Pool pool(1);
              auto result = pool.apply_async(
                  [gate](int x) {
                    gate.pass();
                    return x;
                  },
                  7);
              if (!is_interrupted([&] { result.get(); })) return 1;
              if (!is_interrupted([&] { (void)result.wait(); })) return 2;
              gate.open();
              return result.get() == 7 ? 0 : 3;
            }).code,
            0);
}

TEST_F(SigintTest, ImapGoesOnBehindAnInterruption) {  // O13
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              const Gate gate;
              mp::Pool pool(1);
              auto results = pool.imap(
                  [gate](int x) {
                    gate.pass();
                    return x;
                  },
                  numbers(100));
              if (!is_interrupted([&] { (void)results.next(); })) return 1;
              gate.open();
              for (int i = 0; i < 100; ++i) {
                if (results.next() != i) return 2;
              }
              return results.next() ? 3 : 0;
            }).code,
            0);
}

TEST_F(SigintTest, JoinOfAPoolIsInterruptedAndCanBeRepeated) {  // O10-12
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              const Gate gate;
              mp::Pool pool(1);
              auto result = pool.apply_async([gate] { gate.pass(); });
              pool.close();
              if (!is_interrupted([&] { pool.join(); })) return 1;
              gate.open();
              pool.join();
              return result.ready() ? 0 : 2;
            }).code,
            0);
}

// As Ctrl-C at a terminal does: the whole group of processes gets the signal.
TEST_F(SigintTest, WorkersIgnoreTheSignal) {
  EXPECT_EQ(run_forked([] {
              ::setpgid(0, 0);
              mp::install_sigint();
              const Gate gate;
              mp::Pool pool(2);
              auto result = pool.map_async(
                  [gate](int x) {
                    gate.pass();
                    return x;
                  },
                  numbers(2));
              gate.await(2);
              ::kill(0, SIGINT);
              try {
                (void)result.wait();
                return 1;
              } catch (const mp::KeyboardInterrupt&) {  // as it should be
              }
              gate.open();
              return result.get() == numbers(2) ? 0 : 2;
            }).code,
            0);
}

// Signals at every moment of many calls: each call gives its result or is interrupted.
TEST_F(SigintTest, CallsUnderAStormOfSignalsAreRightOrInterrupted) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              mp::Pool pool(2);
              int right = 0;
              int interrupted = 0;
              const std::vector<int> items = numbers(5000);
              const std::vector<int> squares = apply_here(square, items);
              {
                const Interrupter interrupter(3ms);
                while (right < 50 || interrupted < 50) {
                  try {
                    if (pool.map(square, items, {.chunksize = 50}) != squares) return 1;
                    shared_array<int> out(items.size());
                    pool.parallel_for(items.size(), [out](std::size_t i) { out[i] = 1; });
                    for (const int x : out) {
                      if (x != 1) return 2;
                    }
                    ++right;
                  } catch (const mp::KeyboardInterrupt&) {
                    ++interrupted;
                  }
                }
              }
              return 0;
            }).code,
            0);
}

}  // namespace
}  // namespace millrace::test
