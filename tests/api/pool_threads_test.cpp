// One pool and several threads, several pools, pools inside the workers of pools.
#include <functional>
#include <memory>
#include <millrace/arena.hpp>
#include <millrace/errors.hpp>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <optional>
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

class PoolThreads : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolThreads);

// every kind of call at once
TEST_P(PoolThreads, EveryCallWorksFromSeveralThreadsAtOnce) {
  mp::Pool pool(workers());
  const auto items = numbers(500);
  const auto squares = apply_here(square, items);
  std::atomic<int> right{0};
  const std::vector<std::function<bool()>> calls{
      [&] { return pool.map(square, items, 5) == squares; },
      [&] { return pool.apply(add, 2, 3) == 5; },
      [&] {
        std::vector<int> all;
        for (const int x : pool.imap(square, items, 3)) all.push_back(x);
        return all == squares;
      },
      [&] {
        const mp::shared_array<int> out(500);
        pool.parallel_for(500, [out](std::size_t i) { out[i] = square(static_cast<int>(i)); });
        return std::vector<int>(out.begin(), out.end()) == squares;
      },
      [&] { return pool.reduce(square, add, 0, items) == 41541750; },
      [&] { return pool.map_async(square, items).get() == squares; }};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < calls.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 20; ++i) right += calls[(t + i) % calls.size()]() ? 1 : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 20 * static_cast<int>(calls.size()));
}

// a thread's results come while another waits for something that takes long
TEST_F(PoolTest, AResultIsNotHeldUpByAnotherThreadsWait) {
  mp::Pool pool(2);
  const Gate gate;
  std::thread waiting([&] {
    EXPECT_EQ(pool.apply(
                  [](const Gate& g) {
                    g.pass();
                    return 1;
                  },
                  gate),
              1);
  });
  gate.await(1);
  int sum = 0;
  for (const int x : pool.imap(square, numbers(300), {.window = 2})) sum += x;
  EXPECT_EQ(sum, 8955050);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(pool.apply(square, i), i * i);
  EXPECT_EQ(pool.map(square, numbers(300), 1), apply_here(square, numbers(300)));
  gate.open();  // only now can the other thread go on
  waiting.join();
}

TEST_P(PoolThreads, APoolWorksInThreadsOtherThanItsMaker) {
  std::unique_ptr<mp::Pool> pool;
  std::thread([&] { pool = std::make_unique<mp::Pool>(workers()); }).join();
  EXPECT_EQ(pool->map(square, numbers(10)), apply_here(square, numbers(10)));
  std::thread([&] { EXPECT_EQ(pool->apply(square, 3), 9); }).join();
  EXPECT_EQ(pool->apply(square, 4), 16);  // the workers outlive the thread that made them
  std::thread([&] { pool.reset(); }).join();
}

// a result may be waited for by several threads, not only the one that asked
TEST_P(PoolThreads, SeveralThreadsWaitForOneResult) {
  mp::Pool pool(workers());
  const Gate gate;
  auto result = pool.apply_async(
      [](const Gate& g) {
        g.pass();
        return 5;
      },
      gate);
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) threads.emplace_back([&] { right += result.get(); });
  gate.await(1);
  gate.open();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 15);
}

TEST_P(PoolThreads, ClosedByOneThreadWhileOthersWait) {
  mp::Pool pool(workers());
  const Gate gate;
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      const auto all = pool.map(
          [gate](int x) {
            gate.pass();
            return x;
          },
          numbers(20), 1);
      right += all == numbers(20) ? 1 : 0;
    });
  }
  gate.await(1);
  while (pool.repr().find("RUN") == std::string::npos) std::this_thread::yield();
  std::thread joiner;
  std::thread opener([&] { gate.open(); });
  opener.join();
  for (auto& thread : threads) thread.join();
  pool.close();
  joiner = std::thread([&] { pool.join(); });
  pool.join();
  joiner.join();
  EXPECT_EQ(right, 3);
}

// terminated by one thread: those that wait in others get PoolTerminated
TEST_P(PoolThreads, TerminatedByOneThreadWhileOthersWait) {
  mp::Pool pool(workers());
  const Gate gate;
  const auto hold = [gate](int x) {
    gate.pass();
    return x;
  };
  std::atomic<int> terminated{0};
  const std::vector<std::function<void()>> calls{
      [&] { pool.map(hold, numbers(50), 1); }, [&] { pool.apply(hold, 1); },
      [&] {
        for (const int x : pool.imap(hold, numbers(50))) (void)x;
      },
      [&] { pool.parallel_for(50, [gate](std::size_t) { gate.pass(); }, {.chunksize = 1}); },
      [&] { pool.map_async(hold, numbers(5)).get(); }};
  std::vector<std::thread> threads;
  for (const auto& call : calls) {
    threads.emplace_back([&] {
      try {
        call();
      } catch (const mp::PoolTerminated&) {
        ++terminated;
      } catch (const mp::ValueError&) {  // it had not begun
        ++terminated;
      }
    });
  }
  gate.await(workers());
  std::thread other([&] { pool.terminate(); });
  pool.terminate();
  other.join();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(terminated, static_cast<int>(calls.size()));
}

TEST_F(PoolTest, SeveralPoolsLiveSideBySide) {
  mp::Pool one(1);
  mp::Pool two(2);
  auto later = one.map_async(square, numbers(100), 1);
  EXPECT_EQ(two.map(square, numbers(100), 1), apply_here(square, numbers(100)));
  one.close();
  EXPECT_EQ(two.apply(square, 2), 4);
  one.join();
  EXPECT_EQ(later.get(), apply_here(square, numbers(100)));
  std::optional<mp::Pool> three(std::in_place, 2);
  EXPECT_EQ(three->apply(square, 3), 9);
  two.terminate();
  EXPECT_EQ(three->apply(square, 3), 9);
}

int sum_in_a_pool_of_its_own(int n) {
  mp::Pool inner(2);
  int sum = 0;
  for (const int x : inner.map(square, numbers(n))) sum += x;
  return sum;
}

// beyond Python, where a worker, being daemonic, may have no children
TEST_F(PoolTest, WorkersMayHavePoolsOfTheirOwn) {
  mp::Pool pool(2);
  EXPECT_EQ(pool.apply(sum_in_a_pool_of_its_own, 4), 14);
  EXPECT_EQ(pool.map(sum_in_a_pool_of_its_own, {1, 2, 3, 4}), (std::vector<int>{0, 1, 5, 14}));
  const auto nested = [](int n) {
    mp::Pool inner(1);
    return inner.apply(sum_in_a_pool_of_its_own, n);
  };
  EXPECT_EQ(pool.apply(nested, 3), 5);
}

// and their processes too
TEST_F(PoolTest, WorkersMayHaveProcessesThatHaveChildren) {
  mp::Pool pool(2);
  const mp::shared_array<int> reached(1);
  const auto start_two = [reached] {
    mp::Process child([reached] {
      mp::Process grandchild([reached] {
        mp::Pool own(1);
        reached[0] = own.apply(square, 6);
      });
      grandchild.start();
      grandchild.join();
      throw mp::SystemExit(grandchild.exitcode().value_or(100));
    });
    child.start();
    child.join();
    return child.exitcode();
  };
  EXPECT_EQ(pool.apply(start_two), 0);
  EXPECT_EQ(reached[0], 36);
}

// "daemonic processes are not allowed to have children"
TEST_F(PoolTest, ADaemonMayHaveNoPool) {
  mp::Process daemon({.daemon = true}, [] {
    try {
      const mp::Pool pool(1);
    } catch (const mp::AssertionError&) {
      throw mp::SystemExit(7);
    }
  });
  daemon.start();
  daemon.join();
  EXPECT_EQ(daemon.exitcode(), 7);
}

// the input of one imap may be the output of another of the same pool
TEST_P(PoolThreads, ImapsCanBeChained) {
  mp::Pool pool(workers());
  const auto items = numbers(200);
  const auto twice = apply_here(square, apply_here([](int x) { return x % 50; }, items));
  std::vector<int> all;
  for (const int x : pool.imap(square, pool.imap([](int x) { return x % 50; }, items))) {
    all.push_back(x);
  }
  EXPECT_EQ(all, twice);
  auto inner = pool.imap([](int x) { return x % 50; }, items, 3);
  EXPECT_EQ(pool.map(square, inner), twice);
  {
    auto dropped = pool.imap(square, pool.imap(square, items));  // half read, both of them
    EXPECT_TRUE(dropped.next());
  }
  auto left = pool.imap(square, pool.imap(square, items));
  EXPECT_TRUE(left.next());
  pool.terminate();
}

// an input may itself use the pool
TEST_P(PoolThreads, AGeneratorMayUseThePool) {
  mp::Pool pool(workers());
  auto source = numbers(30) | std::views::transform([&](int i) { return pool.apply(add, i, 1); });
  std::vector<int> all;
  for (const int x : pool.imap(square, source)) all.push_back(x);
  EXPECT_EQ(all, apply_here([](int i) { return square(i + 1); }, numbers(30)));
}

}  // namespace
