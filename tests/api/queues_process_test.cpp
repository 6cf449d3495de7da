// Queues between processes: under fork and spawn, in pools, and beside processes that are killed
// (Q23-Q24, and what Python users complain about: 5 and 6). Ported from CPython's _TestQueue,
// _TestSimpleQueue and its documentation.
#include <signal.h>

#include <map>
#include <millrace/millrace.hpp>
#include <vector>

#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

class QueueProcesses : public ProcessTest, public ::testing::WithParamInterface<const char*> {
 protected:
  [[nodiscard]] mp::Context& context() const { return mp::get_context(GetParam()); }
  template <class F, class... Args>
  mp::Process started(F f, const Args&... args) const {
    mp::Process child = context().Process(f, args...);
    child.start();
    return child;
  }
  static void ended_well(mp::Process& child) {
    EXPECT_TRUE(child.join());
    EXPECT_EQ(child.exitcode(), 0);
  }
};
INSTANTIATE_TEST_SUITE_P(StartMethods, QueueProcesses, ::testing::Values("fork", "spawn"),
                         [](const auto& method) { return std::string(method.param); });

void put_range(mp::Queue<int> queue, int first, int last) {
  for (int i = first; i < last; ++i) queue.put(i);
}
void get_and_answer(mp::Queue<int> queue, mp::SimpleQueue<long> answers, int count) {
  long sum = 0;
  for (int i = 0; i < count; ++i) sum += queue.get();
  answers.put(sum);
}
void put_texts(mp::Queue<std::string> queue, int count, std::size_t bytes) {
  for (int i = 0; i < count; ++i) queue.put(std::string(bytes, static_cast<char>('a' + i % 26)));
}
void work(mp::JoinableQueue<int> queue) {
  for (;;) {
    if (queue.get() < 0) break;
    queue.task_done();
  }
  queue.task_done();
}
void hand_on(mp::Queue<mp::Queue<int>> queues) { queues.get().put(99); }

// test_fork: items put before the child began are its own to get
TEST_P(QueueProcesses, AChildGetsWhatWasPutBeforeItBegan) {
  const mp::Queue<int> queue;
  const mp::SimpleQueue<long> answers;
  for (int i = 0; i < 10; ++i) queue.put(i);
  mp::Process child = started(get_and_answer, queue, answers, 20);
  for (int i = 10; i < 20; ++i) queue.put(i);
  EXPECT_EQ(answers.get(), 190);
  ended_well(child);
  EXPECT_TRUE(queue.empty());
}

// Complaint 5: join before get; 200 kB do not fit a pipe
TEST_P(QueueProcesses, AProducerCanBeJoinedBeforeItsItemsAreRead) {
  const mp::Queue<std::string> queue;
  mp::Process child = started(put_texts, queue, 10, std::size_t{200000});
  ended_well(child);
  EXPECT_EQ(queue.qsize(), 10U);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(queue.get_nowait(), std::string(200000, static_cast<char>('a' + i)));
  }
}

TEST_P(QueueProcesses, EachProducersItemsComeInOrderQ24) {
  const mp::Queue<int> queue(16);
  constexpr int kItems = 2000;
  std::vector<mp::Process> children;
  for (int p = 0; p < 4; ++p) {
    children.push_back(started(put_range, queue, p * kItems, (p + 1) * kItems));
  }
  std::vector<int> next{0, kItems, 2 * kItems, 3 * kItems};
  for (int i = 0; i < 4 * kItems; ++i) {
    const int item = queue.get();
    ASSERT_EQ(item, next[static_cast<std::size_t>(item / kItems)]++);
  }
  for (mp::Process& child : children) ended_well(child);
}

TEST_P(QueueProcesses, JoinWaitsForWorkersQ22) {
  const mp::JoinableQueue<int> queue(4);
  std::vector<mp::Process> children;
  for (int i = 0; i < 3; ++i) children.push_back(started(work, queue));
  for (int i = 0; i < 300; ++i) queue.put(i);
  queue.join();
  EXPECT_TRUE(queue.empty());
  for (int i = 0; i < 3; ++i) queue.put(-1);
  queue.join();
  for (mp::Process& child : children) ended_well(child);
  EXPECT_THROW(queue.task_done(), mp::ValueError);
}

TEST_P(QueueProcesses, AQueueTravelsThroughAQueueQ23) {
  const mp::Queue<mp::Queue<int>> queues;
  const mp::Queue<int> inner(1);
  mp::Process child = started(hand_on, queues);
  queues.put(inner);
  EXPECT_EQ(inner.get(), 99);
  ended_well(child);
}

TEST_P(QueueProcesses, ACapturedQueueIsTheSameOneQ23) {
  const mp::Queue<int> queue;
  mp::Process child = started([queue] { queue.put(5); });
  EXPECT_EQ(queue.get(), 5);
  ended_well(child);
}

class QueueForks : public ProcessTest {};

TEST_F(QueueForks, APoolsTasksShareAQueueThatTheyAreGivenOrCapture) {
  const mp::Queue<int> queue;
  mp::Pool pool(2);
  const auto put = [queue](int i) {
    queue.put(i);
    return i;
  };
  EXPECT_EQ(pool.map(put, std::vector<int>{1, 2, 3, 4}).size(), 4U);
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += queue.get_nowait();
  EXPECT_EQ(sum, 10);
  pool.apply(put_range, queue, 0, 3);
  EXPECT_EQ(queue.qsize(), 3U);
  pool.close();
  pool.join();
}

TEST_F(QueueForks, CloseConcernsThisProcessOnlyQ10) {
  const mp::Queue<int> queue;
  mp::Process child([queue] {
    const int first = queue.get();
    queue.put(first + 1);
    queue.close();
    try {
      queue.put(1);
    } catch (const mp::ValueError&) {
      throw mp::SystemExit(7);
    }
  });
  child.start();
  queue.put(1);
  child.join();
  EXPECT_EQ(child.exitcode(), 7);
  EXPECT_EQ(queue.get(), 2);
  queue.put(3);
  queue.close();
  in_process([queue] { EXPECT_EQ(queue.get(), 3); });  // another process goes on
}

TEST_F(QueueForks, ManyProcessesMayCloseAQueue) {
  const mp::Queue<int> queue;
  const mp::Queue<int> go;
  constexpr int kCount = 20;  // more than a queue has words for
  std::vector<mp::Process> children;
  for (int i = 0; i < kCount; ++i) {
    children.emplace_back([queue, go] {
      queue.close();
      told()->fetch_add(1);
      go.get();
      try {
        queue.put(1);
      } catch (const mp::ValueError&) {
        throw mp::SystemExit(7);
      }
    });
    children.back().start();
  }
  until_told(kCount);
  for (int i = 0; i < kCount; ++i) go.put(1);
  for (mp::Process& child : children) {
    child.join();
    EXPECT_EQ(child.exitcode(), 7);
  }
  queue.put(1);
  EXPECT_EQ(queue.get(), 1);
}

// Complaint 6: a killed reader or writer leaves the queue usable
TEST_F(QueueForks, AGetterThatIsKilledWhileItWaitsTakesNothing) {
  const mp::Queue<std::string> queue;
  mp::Process child([queue] {
    told()->fetch_add(1);
    (void)queue.get();
  });
  child.start();
  until_told(1);
  child.kill();
  child.join();
  queue.put("item");
  EXPECT_EQ(queue.get(1h), "item");
}

TEST_F(QueueForks, APutterThatIsKilledWhileItWaitsPutsNothing) {
  const mp::Queue<std::string> queue(1);
  queue.put("first");
  mp::Process child([queue] {
    told()->fetch_add(1);
    queue.put("second");
  });
  child.start();
  until_told(1);
  child.kill();
  child.join();
  EXPECT_EQ(queue.get(), "first");
  EXPECT_EQ(queue.try_get(), std::nullopt);
  queue.put("third");
  EXPECT_TRUE(queue.full());
  EXPECT_EQ(queue.get(), "third");
}

TEST_F(QueueForks, WhatAProducerHasPutOutlivesIt) {
  const mp::Queue<std::vector<int>> large;
  const mp::Queue<mp::Value<int>> values;
  killed_after([large, values] {
    for (int i = 0; i < 20; ++i) {
      large.put(std::vector<int>(50000, i));
      values.put(mp::Value<int>(i));
    }
  });
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(large.get(), std::vector<int>(50000, i));
    EXPECT_EQ(values.get().get(), i);
  }
}

// A loader that ends its process: in the middle of get().
struct Deadly {
  int value = 0;
  template <class Archive>
  void save(Archive& out) const {
    out(value);
  }
  template <class Archive>
  void load(Archive& in) {
    in(value);
    if (lethal) ::raise(SIGKILL);
  }
  static inline bool lethal = false;
};

TEST_F(QueueForks, AnItemWhoseReaderDiedInGetIsDeliveredAgain) {
  const mp::Queue<std::pair<Deadly, mp::Value<int>>> queue(4);
  for (int i = 0; i < 4; ++i) queue.put({Deadly{i}, mp::Value<int>(10 * i)});
  for (int i = 0; i < 3; ++i) {
    killed_after([queue] {
      Deadly::lethal = true;
      (void)queue.get();
    });
  }
  for (int i = 0; i < 4; ++i) {
    const auto [item, value] = queue.get();
    EXPECT_EQ(item.value, i);
    EXPECT_EQ(value.get(), 10 * i);
  }
  EXPECT_EQ(queue.qsize(), 0U);
  EXPECT_TRUE(queue.try_put({Deadly{4}, mp::Value<int>(1)}));
}

// The same for one who only ever looks: nobody waits for the dead, nobody has noticed the death.
TEST_F(QueueForks, WhoPollsFindsAnItemWhoseReaderDied) {
  const mp::Queue<Deadly> queue(2);
  queue.put({1});
  queue.put({2});
  const pid_t child = ::fork();
  if (child == 0) {
    Deadly::lethal = true;
    (void)queue.get();
    ::_exit(0);
  }
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  std::vector<int> got;
  while (got.size() < 2) {
    if (const auto item = queue.try_get()) got.push_back(item->value);
  }
  EXPECT_EQ(got[0] + got[1], 3);
}

TEST_F(QueueForks, SixteenProcessesOnOneQueueLoseNothing) {
  const mp::Queue<std::pair<int, std::string>> queue(32);
  const mp::SimpleQueue<long> sums;
  constexpr int kEach = 400;
  std::vector<mp::Process> children;
  for (int p = 0; p < 8; ++p) {
    children.emplace_back([queue] {
      for (int i = 1; i <= kEach; ++i)
        queue.put({i, std::string(static_cast<std::size_t>(i), 'x')});
    });
    children.emplace_back([queue, sums] {
      long sum = 0;
      for (int i = 1; i <= kEach; ++i) {
        const auto [number, text] = queue.get();
        if (text.size() == static_cast<std::size_t>(number)) sum += number;
      }
      sums.put(sum);
    });
  }
  for (mp::Process& child : children) child.start();
  long sum = 0;
  for (int i = 0; i < 8; ++i) sum += sums.get();
  for (mp::Process& child : children) {
    child.join();
    EXPECT_EQ(child.exitcode(), 0);
  }
  EXPECT_EQ(sum, 8L * kEach * (kEach + 1) / 2);
}

TEST_F(QueueForks, CloseBesideProcessesThatGoOnEndsOnlyItsOwnCalls) {
  const mp::Queue<int> queue(2);
  std::vector<mp::Process> children;
  for (int i = 0; i < 4; ++i) {
    children.emplace_back([queue, i] {
      told()->fetch_add(1);
      for (int n = 0; n < 500; ++n) i % 2 == 0 ? queue.put(n) : static_cast<void>(queue.get());
    });
    children.emplace_back([queue] {
      std::vector<std::thread> blocked;
      std::atomic<int> refused{0};
      for (int n = 0; n < 2; ++n) {
        blocked.emplace_back([&, n] {
          try {
            for (;;) {  // an item put is one got, so nobody else waits in vain
              if (n == 0) queue.put(1);
              (void)queue.get();
              if (n == 1) queue.put(1);
            }
          } catch (const mp::ValueError&) {
            refused.fetch_add(1);
          }
        });
      }
      told()->fetch_add(1);
      until_told(8);
      queue.close();
      for (std::thread& thread : blocked) thread.join();
      if (refused.load() != 2) throw mp::SystemExit(3);
    });
  }
  for (mp::Process& child : children) child.start();
  // A closer may keep an item or take one more: somebody evens it out.
  for (bool busy = true; busy;) {
    busy = false;
    for (mp::Process& child : children) busy = !child.join(1ms) || busy;
    if (busy && queue.full()) (void)queue.try_get();
    if (busy && queue.empty()) (void)queue.try_put(0);
  }
  for (mp::Process& child : children) EXPECT_EQ(child.exitcode(), 0);
}

}  // namespace
}  // namespace millrace::test

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
