// Queue, JoinableQueue and SimpleQueue within one process (Q02-Q23): the calls, their errors, what
// may be an item. Ported from CPython's _TestQueue and _TestSimpleQueue.
#include <millrace/millrace.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "tests/api/process_support.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

namespace millrace::test {
namespace {

static_assert(sizeof(mp::Queue<int>) == sizeof(void*));
static_assert(mp::Serializable<mp::Queue<int>> && mp::Serializable<mp::SimpleQueue<int>> &&
              mp::Serializable<mp::JoinableQueue<std::string>>);
template <class Q>
concept WaitsForANumber = requires(const Q& queue) {
  queue.get(1);
};
static_assert(!WaitsForANumber<mp::Queue<int>>);

class Queues : public ProcessTest {};

// test_put
TEST_F(Queues, ABoundedQueueIsFullWhenItHoldsSoManyQ02Q05Q06) {
  const mp::Queue<int> queue(6);
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.full());
  for (int i = 1; i <= 6; ++i) {
    EXPECT_FALSE(queue.full());
    queue.put(i, i % 2 == 0 ? mp::Timeout() : mp::Timeout(1s));
    EXPECT_EQ(queue.qsize(), static_cast<std::size_t>(i));
  }
  EXPECT_FALSE(queue.empty());
  EXPECT_TRUE(queue.full());
  EXPECT_THROW(queue.put_nowait(7), mp::queue::Full);
  EXPECT_THROW(queue.put(7, 0s), mp::queue::Full);
  EXPECT_THROW(queue.put(7, -1s), mp::queue::Full);
  EXPECT_FALSE(queue.try_put(7));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(queue.put(7, 20ms), mp::queue::Full);
  EXPECT_FALSE(queue.try_put(7, 20ms));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 40ms);
  for (int i = 1; i <= 6; ++i) EXPECT_EQ(queue.get(), i);
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.full());
}

// test_get
TEST_F(Queues, AnEmptyQueueGivesNothingQ08) {
  const mp::Queue<int> queue;
  EXPECT_THROW(queue.get_nowait(), mp::queue::Empty);
  EXPECT_THROW(queue.get(0s), mp::queue::Empty);
  EXPECT_THROW(queue.get(-1s), mp::queue::Empty);
  EXPECT_EQ(queue.try_get(), std::nullopt);
  queue.put(1);
  queue.put_nowait(2);
  queue.put(3, 1s);
  EXPECT_EQ(queue.get(), 1);
  EXPECT_EQ(queue.get(1s), 2);
  EXPECT_EQ(queue.try_get(1s), 3);
  EXPECT_TRUE(queue.empty());
}

// test_timeout
TEST_F(Queues, GetWaitsAsLongAsItIsToldQ08) {
  const mp::Queue<int> queue;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(queue.get(200ms), mp::queue::Empty);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 200ms);
}

// test_qsize
TEST_F(Queues, QsizeIsExactQ03) {
  const mp::Queue<int> queue;
  EXPECT_EQ(queue.qsize(), 0U);
  for (std::size_t i = 1; i <= 5000; ++i) {
    queue.put(1);
    ASSERT_EQ(queue.qsize(), i);
  }
  for (std::size_t i = 5000; i-- > 0;) {
    queue.get();
    ASSERT_EQ(queue.qsize(), i);
  }
  EXPECT_FALSE(queue.full());
}

TEST_F(Queues, MaxsizeOfZeroAndBelowIsNoLimitQ02) {
  for (const int maxsize : {0, -1, -7}) {
    const mp::Queue<int> queue(maxsize);
    for (int i = 0; i < 100000; ++i) queue.put_nowait(i);
    EXPECT_FALSE(queue.full());
    for (int i = 0; i < 100000; ++i) ASSERT_EQ(queue.get_nowait(), i);
  }
}

TEST_F(Queues, AVeryLargeMaxsizeTakesNoMemoryUntilItIsUsedQ02) {
  const mp::Queue<int> queue(1 << 22);
  for (int i = 0; i < 1000; ++i) queue.put(i);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(queue.get(), i);
  const mp::Queue<int> most(2147483647);  // Python's SEM_VALUE_MAX
  most.put(1);
  EXPECT_EQ(most.qsize(), 1U);
  EXPECT_FALSE(most.full());
}

// test_task_done
TEST_F(Queues, TaskDoneCountsItemsQ20Q22) {
  const mp::JoinableQueue<int> queue(10);
  queue.join();
  EXPECT_THROW(queue.task_done(), mp::ValueError);
  for (int i = 0; i < 4; ++i) queue.put(i);
  for (int i = 0; i < 4; ++i) {
    queue.get();
    queue.task_done();
  }
  queue.join();
  EXPECT_THROW(queue.task_done(), mp::ValueError);
  queue.put(1);
  queue.task_done();  // before it was got, as Python allows
  queue.join();
}

TEST_F(Queues, JoinWaitsForTheLastTaskQ22) {
  const mp::JoinableQueue<std::string> queue;
  for (int i = 0; i < 3; ++i) queue.put("job");
  std::atomic<int> done{0};
  std::thread worker([&] {
    for (int i = 0; i < 3; ++i) {
      queue.get();
      ++done;
      queue.task_done();
    }
  });
  queue.join();
  EXPECT_EQ(done.load(), 3);
  worker.join();
}

// test_closed_queue_put_get_exceptions
TEST_F(Queues, AClosedQueueRefusesPutAndGetQ10) {
  const mp::Queue<int> queue;
  const mp::JoinableQueue<int> joinable(1);
  queue.put(1);
  queue.close();
  joinable.close();
  queue.close();
  EXPECT_THROW(queue.put(1), mp::ValueError);
  EXPECT_THROW(queue.get(), mp::ValueError);
  EXPECT_THROW((void)queue.try_put(1), mp::ValueError);
  EXPECT_THROW((void)queue.try_get(), mp::ValueError);
  EXPECT_THROW(joinable.put(1), mp::ValueError);
  EXPECT_THROW(joinable.get(), mp::ValueError);
  const mp::Queue<int> copy(queue);
  EXPECT_THROW(copy.put_nowait(1), mp::ValueError);
  try {
    queue.get();
    FAIL();
  } catch (const mp::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("is closed"), std::string::npos);
  }
}

TEST_F(Queues, JoinThreadNeedsCloseQ11Q12) {
  const mp::Queue<int> queue;
  EXPECT_THROW(queue.join_thread(), mp::AssertionError);
  queue.cancel_join_thread();
  EXPECT_THROW(queue.join_thread(), mp::AssertionError);
  queue.close();
  queue.join_thread();
  queue.join_thread();
}

TEST_F(Queues, CloseEndsBlockedCallsOfThisProcessQ10) {
  const mp::Queue<int> empty;
  const mp::Queue<int> full(1);
  const mp::SimpleQueue<int> simple;
  full.put(1);
  std::atomic<int> refused{0};
  std::vector<std::thread> blocked;
  for (int i = 0; i < 3; ++i) {
    blocked.emplace_back([&] {
      EXPECT_THROW(empty.get(), mp::ValueError);
      ++refused;
    });
    blocked.emplace_back([&] {
      EXPECT_THROW(full.put(2), mp::ValueError);
      ++refused;
    });
    blocked.emplace_back([&] {
      EXPECT_THROW(simple.get(), std::system_error);
      ++refused;
    });
  }
  empty.close();
  full.close();
  simple.close();
  for (std::thread& thread : blocked) thread.join();
  EXPECT_EQ(refused.load(), 9);
}

// _TestSimpleQueue.test_empty, test_close
TEST_F(Queues, SimpleQueueIsAQueueWithoutLimitsQ15Q19) {
  const mp::SimpleQueue<std::string> queue;
  EXPECT_TRUE(queue.empty());
  for (int i = 0; i < 2000; ++i) queue.put(std::string(100, 'x'));  // more than a pipe holds
  queue.put("last");
  EXPECT_FALSE(queue.empty());
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(queue.get().size(), 100U);
  EXPECT_EQ(queue.get(), "last");
  EXPECT_TRUE(queue.empty());
  queue.close();
  queue.close();
  for (const auto& call : {+[](const mp::SimpleQueue<std::string>& q) { q.put("x"); },
                           +[](const mp::SimpleQueue<std::string>& q) { (void)q.get(); },
                           +[](const mp::SimpleQueue<std::string>& q) { (void)q.empty(); }}) {
    try {
      call(queue);
      ADD_FAILURE();
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), EBADF);
      EXPECT_NE(std::string(error.what()).find("handle is closed"), std::string::npos);
    }
  }
}

TEST_F(Queues, HandlesAreTheSameOrNotAndHaveATextQ24) {
  const mp::Queue<int> one;
  const mp::Queue<int> two;
  const mp::Queue<int> copy(one);
  EXPECT_TRUE(one == copy);
  EXPECT_FALSE(one == two);
  std::ostringstream text;
  text << one << mp::JoinableQueue<int>() << mp::SimpleQueue<int>();
  EXPECT_EQ(text.str().find("<multiprocessing.queues.Queue object at 0x"), 0U);
  EXPECT_NE(text.str().find("<multiprocessing.queues.JoinableQueue object at 0x"),
            std::string::npos);
  EXPECT_NE(text.str().find("<multiprocessing.queues.SimpleQueue object at 0x"), std::string::npos);
  mp::Queue<int> moved(one);
  const mp::Queue<int> target(std::move(moved));
  EXPECT_THROW(moved.put(1), mp::ValueError);  // NOLINT(bugprone-use-after-move): what it says
  EXPECT_TRUE(target == one);
}

TEST_F(Queues, ContextsMakeQueuesQ02) {
  const mp::Context& context = mp::get_context("spawn");
  auto queue = context.Queue<int>(1);
  queue.put(1);
  EXPECT_TRUE(queue.full());
  auto objects = context.Queue();
  objects.put("x");
  auto joinable = context.JoinableQueue<int>();
  joinable.put(1);
  joinable.task_done();
  joinable.join();
  auto simple = context.SimpleQueue<std::string>();
  simple.put("x");
  EXPECT_EQ(simple.get(), "x");
}

TEST_F(Queues, ManyThreadsOnOneQueueLoseNothing) {
  const mp::Queue<int> queue(8);
  constexpr int kThreads = 4;
  constexpr int kItems = 3000;
  std::atomic<long> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 1; i <= kItems; ++i) queue.put(i);
    });
    threads.emplace_back([&] {
      for (int i = 1; i <= kItems; ++i) sum += queue.get();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum.load(), long{kThreads} * kItems * (kItems + 1) / 2);
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace millrace::test
