// mp::dummy: D01-D21, the module on threads.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <millrace/dummy.hpp>
#include <millrace/interrupt.hpp>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
namespace dummy = millrace::dummy;
using namespace std::chrono_literals;

class Dummy : public millrace::test::LeakCheck {
 protected:
  void SetUp() override {
    ::signal(SIGALRM, &millrace::test::on_hang);
    ::alarm(100);
    LeakCheck::SetUp();
  }
  void TearDown() override {
    LeakCheck::TearDown();
    ::alarm(0);
  }
};

// Process, D01-D04

TEST_F(Dummy, AProcessIsAThreadOfThisProcess) {
  int seen = 0;
  pid_t pid = 0;
  dummy::Process p(
      [&](int x, const std::string& text) {
        seen = x + static_cast<int>(text.size());
        pid = ::getpid();
      },
      40, "ab");
  EXPECT_EQ(p.exitcode(), std::nullopt);
  EXPECT_FALSE(p.is_alive());
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(seen, 42);
  EXPECT_EQ(pid, ::getpid());
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_FALSE(p.is_alive());
  EXPECT_THROW(p.start(), std::runtime_error);
}

TEST_F(Dummy, JoinHasATimeoutAndRefusesTheCallingThread) {
  const dummy::Event event;
  dummy::Process p([event] {
    EXPECT_THROW(dummy::current_process().join(), std::runtime_error);
    event.wait();
  });
  EXPECT_THROW(p.join(), std::runtime_error);
  p.start();
  EXPECT_FALSE(p.join(5ms));
  EXPECT_TRUE(p.is_alive());
  EXPECT_THROW(p.daemon(true), std::runtime_error);
  event.set();
  EXPECT_TRUE(p.join());
}

TEST_F(Dummy, AnExceptionEndsTheThreadAndIsPrinted) {
  ::testing::internal::CaptureStderr();
  dummy::Process p({.name = "unlucky"}, [] { throw std::runtime_error("out of luck"); });
  p.start();
  p.join();
  dummy::Process q([] { throw mp::SystemExit(3); });
  q.start();
  q.join();
  const std::string printed = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(printed.find("Exception in thread unlucky"), std::string::npos);
  EXPECT_NE(printed.find("out of luck"), std::string::npos);
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(q.exitcode(), 0);
}

TEST_F(Dummy, AMoveOnlyCallableWillDo) {
  auto box = std::make_unique<int>(5);
  int seen = 0;
  dummy::Process p(
      [box = std::move(box), &seen](std::unique_ptr<int> more) { seen = *box + *more; },
      std::make_unique<int>(2));
  p.start();
  p.join();
  EXPECT_EQ(seen, 7);
}

struct Counter : dummy::Process {
  explicit Counter(int n) : dummy::Process({.name = "counter"}), left(n) {}
  void run() override {
    while (left > 0) --left;
  }
  int left;
};

TEST_F(Dummy, ASubclassRuns) {
  Counter counter(1000);
  counter.start();
  counter.join();
  EXPECT_EQ(counter.left, 0);
  EXPECT_EQ(counter.name(), "counter");
}

TEST_F(Dummy, ThreadsKnowThemselvesAndTheirChildren) {
  EXPECT_EQ(dummy::current_process().name(), "MainThread");
  EXPECT_EQ(dummy::current_process().ident(), ::gettid());
  const dummy::Event event;
  dummy::Process p({.name = "child"}, [event] {
    EXPECT_EQ(dummy::current_process().name(), "child");
    EXPECT_TRUE(dummy::active_children().empty());
    event.wait();
  });
  EXPECT_TRUE(dummy::active_children().empty());
  p.start();
  const auto children = dummy::active_children();
  ASSERT_EQ(children.size(), 1U);
  EXPECT_EQ(children[0], p.handle());
  EXPECT_NE(p.repr().find("<DummyProcess(child, started "), std::string::npos);
  event.set();
  p.join();
  EXPECT_TRUE(dummy::active_children().empty());
}

TEST_F(Dummy, ANormalExitWaitsForThreadsThatAreNotDaemonic) {
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    dummy::Process([&] {
      std::this_thread::sleep_for(50ms);
      (void)!::write(pipe[1], "x", 1);
    }).start();
    dummy::Process({.daemon = true}, [] {
      for (;;) ::pause();
    }).start();
    std::exit(0);
  }
  ::close(pipe[1]);
  char byte = 0;
  EXPECT_EQ(::read(pipe[0], &byte, 1), 1);
  ::close(pipe[0]);
  int status = 1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Queues and pipes, D12-D15, D20-D21

TEST_F(Dummy, AQueueKeepsOrderAndItsLimit) {
  const dummy::Queue<std::string> queue(2);
  queue.put("a");
  queue.put("b");
  EXPECT_TRUE(queue.full());
  EXPECT_THROW(queue.put_nowait("c"), mp::queue::Full);
  EXPECT_FALSE(queue.try_put("c", 1ms));
  EXPECT_EQ(queue.get(), "a");
  EXPECT_EQ(queue.get_nowait(), "b");
  EXPECT_THROW((void)queue.get_nowait(), mp::queue::Empty);
  EXPECT_THROW((void)queue.get(1ms), mp::queue::Empty);
  EXPECT_EQ(queue.try_get(), std::nullopt);
  EXPECT_TRUE(queue.empty());
}

TEST_F(Dummy, ManyProducersAndConsumersLoseNothing) {
  const dummy::Queue<std::unique_ptr<int>> queue(16);
  std::atomic<long> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 1; i <= 1000; ++i) queue.put(std::make_unique<int>(i));
    });
    threads.emplace_back([&] {
      for (int i = 1; i <= 1000; ++i) sum += *queue.get();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(sum, 3 * 500'500);
}

TEST_F(Dummy, JoinWaitsForEveryTaskToBeDone) {
  const dummy::JoinableQueue<int> queue;
  std::atomic<int> done{0};
  queue.put(1);
  queue.put(2);
  std::thread worker([&] {
    for (int i = 0; i < 2; ++i) {
      (void)queue.get();
      ++done;
      queue.task_done();
    }
  });
  queue.join();
  EXPECT_EQ(done, 2);
  worker.join();
  EXPECT_THROW(queue.task_done(), mp::ValueError);
}

TEST_F(Dummy, ClosingAQueueEndsBlockedCalls) {
  const dummy::Queue<int> queue;
  EXPECT_THROW(queue.join_thread(), mp::AssertionError);
  std::thread getter([&] { EXPECT_THROW((void)queue.get(), mp::ValueError); });
  queue.close();
  getter.join();
  EXPECT_THROW(queue.put(1), mp::ValueError);
  queue.join_thread();
  const dummy::SimpleQueue<int> simple;
  simple.put(3);
  EXPECT_EQ(simple.get(), 3);
  simple.close();
  EXPECT_THROW((void)simple.get(), std::system_error);
}

TEST_F(Dummy, APipeHandsObjectsOver) {
  const auto [a, b] = dummy::Pipe();
  EXPECT_FALSE(b.poll());
  auto object = std::make_unique<int>(7);
  const int* const at = object.get();
  a.send(std::move(object));
  EXPECT_TRUE(b.poll(1s));
  EXPECT_EQ(b.recv<std::unique_ptr<int>>().get(), at);
  b.send("text");
  EXPECT_EQ(a.recv<std::string>(), "text");
  a.send(1);
  EXPECT_THROW((void)b.recv<double>(), mp::TypeError);
  a.send_bytes("raw");
  EXPECT_EQ(b.recv_bytes(), mp::Bytes("raw"));
}

TEST_F(Dummy, AClientReachesItsListener) {
  const dummy::connection::Listener listener;
  EXPECT_THROW((void)listener.accept(1ms), mp::TimeoutError);
  const auto address = listener.address();
  std::thread client([address] {
    const auto c = dummy::connection::Client(address);
    c.send(41);
    EXPECT_EQ(c.recv<int>(), 42);
  });
  const auto c = listener.accept();
  c.send(c.recv<int>() + 1);
  client.join();
}

// Value, Array, Pool, Manager, D16-D19

TEST_F(Dummy, ValuesAndArraysTakeTheirLock) {
  const dummy::Value<int> value(5);
  value.set(value.get() + 1);
  EXPECT_EQ(value.update([](int& x) { return ++x; }), 7);
  const std::scoped_lock guard(value.get_lock());
  EXPECT_EQ(value.get_obj(), 7);
  const dummy::Array<double> zeros(3);
  EXPECT_EQ(zeros.to_vector(), (std::vector<double>{0, 0, 0}));
  const dummy::Array<int> array({1, 2, 3, 4});
  array[0] = 10;
  array[-1] = array[0];
  EXPECT_EQ(array.to_vector(), (std::vector<int>{10, 2, 3, 10}));
  EXPECT_EQ(array.slice(1, -1), (std::vector<int>{2, 3}));
  array.slice(0, 2, std::array{7, 8});
  EXPECT_EQ(array.at(1), 8);
  EXPECT_THROW(array.slice(0, 2, std::array{7}), mp::ValueError);
  EXPECT_THROW((void)array[4], mp::IndexError);
  EXPECT_THROW((void)array.at(-5), mp::IndexError);
  EXPECT_THROW(dummy::Array<int>(-1), mp::ValueError);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      static const dummy::Value<int> counter(0);
      for (int i = 0; i < 1000; ++i) counter.update([](int& x) { ++x; });
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST_F(Dummy, PoolAndManagerAreThere) {
  dummy::Pool pool(2);
  EXPECT_EQ(pool.map([](int x) { return x * x; }, {1, 2, 3}), (std::vector<int>{1, 4, 9}));
  const dummy::Manager manager;
  const auto queue = manager.Queue<int>();
  const auto lock = manager.Lock();
  auto result = pool.apply_async([queue, lock] {
    const std::scoped_lock guard(lock);
    queue.put(9);
  });
  EXPECT_EQ(queue.get(), 9);
  result.get();
  manager.shutdown();
}

TEST_F(Dummy, SigintInterruptsABlockedCall) {  // S35
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    mp::install_sigint();
    int code = 1;
    const dummy::Queue<int> queue;
    std::thread sender([] {
      std::this_thread::sleep_for(20ms);
      ::kill(::getpid(), SIGINT);
    });
    try {
      (void)queue.get();
    } catch (const mp::KeyboardInterrupt&) {
      queue.put(1);
      code = queue.get() == 1 ? 0 : 2;
    }
    sender.join();
    ::_exit(code);
  }
  int status = 1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
