#include "shm/parking.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

namespace millrace::shm {
namespace {

using namespace std::chrono_literals;
using Clock = Timeout::Clock;

TEST(Futex, WaitReturnsAtOnceWhenTheWordDiffers) {
  const std::atomic<std::uint32_t> word{1};
  EXPECT_EQ(futex_wait(word, 2), EAGAIN);
}

TEST(Futex, WaitEndsAtItsDeadline) {
  const std::atomic<std::uint32_t> word{1};
  const auto deadline = Clock::now() + 5ms;
  EXPECT_EQ(futex_wait(word, 1, deadline), ETIMEDOUT);
  EXPECT_GE(Clock::now(), deadline);
  EXPECT_EQ(futex_wait(word, 1, Clock::time_point::min()), ETIMEDOUT);
}

TEST(Futex, WakeFindsNobody) {
  std::atomic<std::uint32_t> word{1};
  EXPECT_EQ(futex_wake(word, 1), 0);
}

TEST(Futex, LeavesErrnoAlone) {
  const std::atomic<std::uint32_t> word{1};
  errno = 4711;
  futex_wait(word, 2);
  EXPECT_EQ(errno, 4711);
}

TEST(Ticks, RunAboutAsFastAsTheClock) {
  const auto rate = ticks_per_us();
  const auto clock = Clock::now();
  const auto start = ticks();
  while (Clock::now() - clock < 20ms) {
  }
  const auto us = static_cast<double>(ticks() - start) / static_cast<double>(rate);
  EXPECT_GT(us, 15e3);
}

TEST(ParkingSpot, ZeroedMemoryIsASpotNobodySleepsOn) {
  ParkingSpot spot;
  std::uint32_t word = 1;
  std::memcpy(&word, &spot, sizeof word);
  EXPECT_EQ(word, 0U);
  EXPECT_FALSE(spot.maybe_asleep());
}

TEST(ParkingSpot, AWakeAfterPrepareEndsTheWait) {
  ParkingSpot spot;
  const auto key = spot.prepare();
  spot.notify_one();
  EXPECT_EQ(spot.wait(key, Clock::time_point::max()), EAGAIN);
  const auto again = spot.prepare();
  spot.notify_all();
  EXPECT_EQ(spot.wait(again, Clock::time_point::max()), EAGAIN);
}

TEST(ParkingSpot, AWakeThatFindsNobodyTakesTheBitAway) {
  ParkingSpot spot;
  spot.prepare();  // and left: the condition was true
  EXPECT_TRUE(spot.maybe_asleep());
  spot.notify_one();
  EXPECT_FALSE(spot.maybe_asleep());
}

TEST(ParkingSpot, RouseEndsAWaitThatNobodyElseKnowsOf) {
  ParkingSpot spot;
  const auto key = spot.prepare();
  spot.rouse();
  EXPECT_EQ(spot.wait(key, Clock::time_point::max()), EAGAIN);
}

TEST(WaitUntil, ReturnsWhatIsTrueAlreadyWithoutLookingAtTheClock) {
  ParkingSpot spot;
  EXPECT_TRUE(wait_until(
      spot, [] { return true; }, {}, Clock::time_point::min()));
}

TEST(WaitUntil, GivesUpAtTheDeadline) {
  ParkingSpot spot;
  const auto deadline = Clock::now() + 5ms;
  EXPECT_FALSE(wait_until(
      spot, [] { return false; }, {}, deadline));
  EXPECT_GE(Clock::now(), deadline);
}

TEST(WaitUntil, LooksAgainAfterEachSliceThoughNobodyWakesIt) {
  ParkingSpot spot;
  int looks = 0;
  WaitPolicy policy;
  policy.slice = 1ms;
  EXPECT_TRUE(wait_until(
      spot, [&] { return ++looks > 12; }, policy));
}

TEST(WaitUntil, AsksAfterTheOthersWhenASlicePassesInVain) {
  ParkingSpot spot;
  int asked = 0;
  WaitPolicy policy;
  policy.slice = 1ms;
  policy.argument = &asked;
  policy.on_long_wait = [](void* argument) { ++*static_cast<int*>(argument); };
  EXPECT_TRUE(wait_until(
      spot, [&] { return asked == 3; }, policy));
}

TEST(WaitUntil, LetsTheExceptionOfTheQuestionThrough) {
  ParkingSpot spot;
  WaitPolicy policy;
  policy.slice = 1ms;
  policy.on_long_wait = [](void*) { throw std::runtime_error("gone"); };
  EXPECT_THROW(wait_until(
                   spot, [] { return false; }, policy),
               std::runtime_error);
}

// A ping-pong in which every message finds the other side on its way to sleep: the place where
// wake-ups get lost. Without slices a lost one hangs (and the watchdog of ctest ends it).
TEST(WaitUntil, LosesNoWakeUpBetweenTwoThreads) {
  constexpr std::uint32_t kRounds = 20000;
  struct Side {
    alignas(64) std::atomic<std::uint32_t> value{0};
    alignas(64) ParkingSpot spot;
  } there, back;
  const auto serve = [](Side& out, Side& in, bool first, std::uint32_t spin) {
    WaitPolicy policy;
    policy.slice = std::chrono::hours{1};
    policy.yields = 0;
    for (std::uint32_t i = 1; i <= kRounds; ++i) {
      const auto arrived = [&] { return in.value.load(std::memory_order_acquire) == i; };
      const auto send = [&] {
        out.value.store(i, std::memory_order_release);
        out.spot.notify_one();
      };
      policy.spin = std::chrono::nanoseconds{i * spin % 5000};
      if (first) send();
      ASSERT_TRUE(wait_until(in.spot, arrived, policy));
      if (!first) send();
    }
  };
  std::thread other([&] { serve(back, there, false, 7); });
  serve(there, back, true, 13);
  other.join();
}

// Tokens for one waiter each: one notify_one per token must suffice.
TEST(WaitUntil, WakesOneOfManyForEachToken) {
  constexpr int kWaiters = 4;
  constexpr int kTokens = 8000;
  alignas(64) std::atomic<int> tokens{0};
  alignas(64) ParkingSpot spot;
  std::atomic<int> taken{0};
  const auto take = [&] {
    int seen = tokens.load(std::memory_order_acquire);
    while (seen > 0) {
      if (tokens.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  };
  std::vector<std::thread> waiters;
  for (int i = 0; i < kWaiters; ++i) {
    waiters.emplace_back([&] {
      WaitPolicy policy;
      policy.slice = std::chrono::hours{1};
      policy.yields = 0;
      for (int k = 0; k < kTokens / kWaiters; ++k) {
        ASSERT_TRUE(wait_until(spot, take, policy));
        taken.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  const auto give = [&] {
    for (int k = 0; k < kTokens / 2; ++k) {
      tokens.fetch_add(1, std::memory_order_release);
      spot.notify_one();
    }
  };
  std::thread other(give);
  give();
  other.join();
  for (auto& waiter : waiters) waiter.join();
  EXPECT_EQ(taken.load(), kTokens);
}

TEST(WaitUntil, NotifyAllWakesEverybody) {
  constexpr int kWaiters = 4;
  constexpr std::uint32_t kRounds = 300;
  std::atomic<std::uint32_t> round{0};
  std::atomic<std::uint32_t> arrived{0};
  ParkingSpot spot;
  WaitPolicy policy;
  policy.slice = std::chrono::hours{1};
  std::vector<std::thread> waiters;
  for (int i = 0; i < kWaiters; ++i) {
    waiters.emplace_back([&] {
      for (std::uint32_t r = 1; r <= kRounds; ++r) {
        wait_until(
            spot, [&] { return round.load(std::memory_order_acquire) >= r; }, policy);
        arrived.fetch_add(1, std::memory_order_release);
      }
    });
  }
  for (std::uint32_t r = 1; r <= kRounds; ++r) {
    round.store(r, std::memory_order_release);
    spot.notify_all();
    while (arrived.load(std::memory_order_acquire) < r * kWaiters) sched_yield();
  }
  for (auto& waiter : waiters) waiter.join();
}

}  // namespace
}  // namespace millrace::shm
