// CPython's tests of Barrier, over its three start methods: each case names its counterpart in
// _TestBarrier of Lib/test/_test_multiprocessing.py. Where those sleep, these wait for what the
// sleep was for.
#include <chrono>
#include <millrace/connection.hpp>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/api/ported_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

class PortedBarrier : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedBarrier, all_methods(), method_name);

constexpr int kParties = 5;

// Runs `f` in four children and here, the fifth party.
template <class... Args>
void run_parties(void (*f)(const Args&...), const Args&... args) {
  auto others = started(kParties - 1, f, args...);
  EXPECT_NO_THROW(f(args...));
  end_well(others);
}

void multipass(const mp::Barrier& barrier, const Count& before, const Count& after,
               const int& rounds) {
  const int m = barrier.parties();
  for (int i = 0; i < rounds; ++i) {
    before.release();
    if (after.get_value() != i * m) throw mp::SystemExit(1);
    barrier.wait();
    after.release();
    if (before.get_value() != (i + 1) * m) throw mp::SystemExit(2);
    barrier.wait();
  }
  if (barrier.broken()) throw mp::SystemExit(3);
}

TEST_P(PortedBarrier,
       ABarrierIsPassedInLockstep) {  // _TestBarrier.test_barrier, test_barrier_10
  for (const int rounds : {1, 10}) {
    const mp::Barrier barrier(kParties);
    run_parties(multipass, barrier, Count(0), Count(0), rounds);
    EXPECT_EQ(barrier.n_waiting(), 0);
  }
}

TEST_P(PortedBarrier, OnePartyIsNumberNought) {  // _TestBarrier.test_wait_return
  const Count noughts(0);
  run_parties(
      +[](const mp::Barrier& barrier, const Count& count) {
        if (barrier.wait() == 0) count.release();
      },
      mp::Barrier(kParties), noughts);
  EXPECT_EQ(noughts.get_value(), 1);
}

TEST_P(PortedBarrier, TheActionRunsOnce) {  // _TestBarrier.test_action
  const Count runs(0);
  run_parties(
      +[](const mp::Barrier& barrier, const Count& count) {
        barrier.wait();
        if (count.get_value() != 1) throw mp::SystemExit(1);
      },
      mp::Barrier(kParties, [runs] { runs.release(); }), runs);
  EXPECT_EQ(runs.get_value(), 1);
}

void meet_and_one_aborts(const mp::Barrier& barrier, const Count& passed, const Count& broken) {
  try {
    if (barrier.wait() == kParties / 2) {
      barrier.abort();
      return;
    }
    barrier.wait();
    passed.release();
  } catch (const mp::BrokenBarrierError&) {
    broken.release();
  }
}

TEST_P(PortedBarrier, AbortBreaksABarrier) {  // _TestBarrier.test_abort
  const mp::Barrier barrier(kParties);
  const Count passed(0);
  const Count broken(0);
  run_parties(meet_and_one_aborts, barrier, passed, broken);
  EXPECT_EQ(passed.get_value(), 0);
  EXPECT_EQ(broken.get_value(), kParties - 1);
  EXPECT_TRUE(barrier.broken());
}

void meet_and_one_resets(const mp::Barrier& barrier, const Count& passed, const Count& broken,
                         const Count& again) {
  if (barrier.wait() == kParties / 2) {
    while (barrier.n_waiting() < kParties - 1) std::this_thread::yield();
    barrier.reset();
  } else {
    try {
      barrier.wait();
      passed.release();
    } catch (const mp::BrokenBarrierError&) {
      broken.release();
    }
  }
  barrier.wait();
  again.release();
}

TEST_P(PortedBarrier, ResetFreesThoseWhoWait) {  // _TestBarrier.test_reset
  const Count passed(0);
  const Count broken(0);
  const Count again(0);
  run_parties(meet_and_one_resets, mp::Barrier(kParties), passed, broken, again);
  EXPECT_EQ(passed.get_value(), 0);
  EXPECT_EQ(broken.get_value(), kParties - 1);
  EXPECT_EQ(again.get_value(), kParties);
}

TEST_P(PortedBarrier, ABrokenBarrierIsReset) {  // _TestBarrier.test_abort_and_reset
  const Count passed(0);
  const Count broken(0);
  const Count again(0);
  run_parties(
      +[](const mp::Barrier& barrier, const mp::Barrier& second, const Count& through,
          const Count& ended, const Count& more) {
        meet_and_one_aborts(barrier, through, ended);
        if (second.wait() == kParties / 2) barrier.reset();
        second.wait();
        barrier.wait();
        more.release();
      },
      mp::Barrier(kParties), mp::Barrier(kParties), passed, broken, again);
  EXPECT_EQ(passed.get_value(), 0);
  EXPECT_EQ(broken.get_value(), kParties - 1);
  EXPECT_EQ(again.get_value(), kParties);
}

// One party comes only when the others have given up.
void meet_and_one_is_late(const mp::Barrier& barrier, const Count& broken, const int& timeout) {
  if (barrier.wait(24h) == kParties / 2) {
    while (!barrier.broken()) std::this_thread::yield();
  }
  try {
    timeout > 0 ? barrier.wait(std::chrono::milliseconds(timeout)) : barrier.wait();
  } catch (const mp::BrokenBarrierError&) {
    broken.release();
  }
}

// _TestBarrier.test_timeout, test_default_timeout
TEST_P(PortedBarrier, ATimeoutBreaksABarrierForAll) {
  const Count broken(0);
  run_parties(meet_and_one_is_late, mp::Barrier(kParties), broken, 20);
  EXPECT_EQ(broken.get_value(), kParties);
  run_parties(meet_and_one_is_late, mp::Barrier(kParties, {}, 20ms), broken, 0);
  EXPECT_EQ(broken.get_value(), 2 * kParties);
}

TEST_P(PortedBarrier, OnePartyPassesAlone) {  // _TestBarrier.test_single_thread
  const mp::Barrier barrier(1);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(barrier.wait(), 0);
  EXPECT_EQ(run_spawned([barrier] { barrier.wait(); }), 0);
}

TEST_P(PortedBarrier, ManyRoundsStayInStep) {  // _TestBarrier.test_thousand
  constexpr int kRounds = 200;
  auto [reader, writer] = mp::Pipe({.duplex = false});
  auto all = started(
      kParties,
      [](const mp::Barrier& barrier, const mp::Connection& out, const mp::Lock& lock) {
        for (int i = 0; i < kRounds; ++i) {
          barrier.wait();
          const std::scoped_lock guard(lock);
          out.send(i);
        }
      },
      mp::Barrier(kParties), writer, mp::Lock());
  int wrong = 0;
  for (int i = 0; i < kRounds * kParties; ++i) wrong += reader.recv<int>() == i / kParties ? 0 : 1;
  EXPECT_EQ(wrong, 0);
  end_well(all);
}

}  // namespace
}  // namespace millrace::test
