// CPython's tests of processes, over its three start methods: each case names its counterpart in
// _TestProcess, _TestSubclassingProcess, TestStartMethod, TestStdinBadfiledescriptor, TestCloseFds
// and TestForkAwareThreadLock of Lib/test/_test_multiprocessing.py. More of them: process*_test.cpp
// and spawn*_test.cpp; TestNoForkBomb: spawn_exit_test.cpp and forkserver_test.cpp.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <millrace/millrace.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/ported_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

class PortedProcess : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedProcess, all_methods(), method_name);

void tell_and_recurse(const mp::Connection& to, const std::string& id) {
  to.send(id);
  if (id.size() == 2) return;
  for (const char* next : {"0", "1"}) {
    auto child = started(1, tell_and_recurse, to, id + next);
    if (!child[0].join() || child[0].exitcode() != 0) throw mp::SystemExit(1);
  }
}

TEST_P(PortedProcess, ChildrenHaveChildrenInTurn) {  // _TestProcess.test_recursion
  auto [reader, writer] = mp::Pipe({.duplex = false});
  tell_and_recurse(writer, "");
  for (const char* id : {"", "0", "00", "01", "1", "10", "11"}) {
    EXPECT_EQ(reader.recv<std::string>(), id);
  }
  EXPECT_FALSE(reader.poll());
}

TEST_P(PortedProcess, ArgumentsArriveAsTheyAre) {  // _TestProcess.test_args_argument
  const mp::Queue<std::string> text(1);
  const mp::Queue<std::vector<int>> list(1);
  auto all = started(
      1,
      [](const mp::Queue<std::string>& t, const mp::Queue<std::vector<int>>& l,
         const std::string& a, const std::vector<int>& b) {
        t.put(a);
        l.put(b);
      },
      text, list, std::string("str"), std::vector<int>{1});
  EXPECT_EQ(text.get(), "str");
  EXPECT_EQ(list.get(), std::vector<int>{1});
  end_well(all);
}

// _TestProcess.test_process_mainthread_native_id, and TestStartMethod.check_context
TEST_P(PortedProcess, AChildsMainThreadIsItsOwn) {
  const mp::Value<int> thread(0);
  EXPECT_EQ(run_spawned(
                [](const mp::Value<int>& to, const std::string& method) {
                  to.set(::gettid());
                  if (mp::get_start_method() != method) throw mp::SystemExit(1);
                },
                thread, std::string(GetParam())),
            0);
  EXPECT_GT(thread.get(), 0);
  EXPECT_NE(thread.get(), ::gettid());
}

TEST_P(PortedProcess, ManyProcessesEndAndAreTerminated) {  // _TestProcess.test_many_processes
  const int n = GetParam() == std::string("spawn") ? 5 : 40;
  auto all = started(n, [] {});
  end_well(all);
  const mp::Semaphore never(0);
  all = started(
      n, [](const mp::Semaphore& s) { s.acquire(); }, never);
  for (auto& p : all) p.terminate();
  for (auto& p : all) EXPECT_TRUE(p.join());
  for (auto& p : all) EXPECT_EQ(p.exitcode(), -SIGTERM);
}

int open_descriptors() {
  int open = 0;
  for (int fd = 0; fd < 1024; ++fd) open += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return open;
}

// _TestProcess.test_child_fd_inflation; under fork they inherit all
TEST_P(PortedProcess, DescriptorsDoNotGrowWithTheProcessesThatRun) {
  if (GetParam() == std::string("fork")) return;
  const mp::Queue<int> counts;
  const mp::Event end;
  auto all = started(
      5,
      [](const mp::Queue<int>& to, const mp::Event& e) {
        to.put(open_descriptors());
        e.wait();
      },
      counts, end);
  const int first = counts.get();
  for (int i = 1; i < 5; ++i) EXPECT_EQ(counts.get(), first);
  end.set();
  end_well(all);
}

// TestForkAwareThreadLock.test_lock: what a process takes with it does not grow from generation to
// generation
void nest(const mp::Queue<int>& counts, int depth) {
  counts.put(open_descriptors());
  if (depth == 1) return;
  auto child = started(1, nest, counts, depth - 1);
  if (!child[0].join() || child[0].exitcode() != 0) throw mp::SystemExit(1);
}

TEST_P(PortedProcess, GenerationsDoNotGrow) {
  const mp::Queue<int> counts;
  EXPECT_EQ(run_spawned(nest, counts, 5), 0);
  std::vector<int> all;
  for (int i = 0; i < 5; ++i) all.push_back(counts.get());
  // Under fork each has one more, its parent's.
  const int more = GetParam() == std::string("fork") ? 1 : 0;
  for (std::size_t i = 2; i < all.size(); ++i) EXPECT_LE(all[i], all[i - 1] + more) << i;
}

// TestCloseFds.test_closefd: of a socket whose number no new process has
TEST_P(PortedProcess, OnlyForkInheritsASocket) {
  const int low = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const int high = ::fcntl(low, F_DUPFD, 50);
  ASSERT_GE(high, 50);
  ::close(low);
  const int expected = GetParam() == std::string("fork") ? 0 : EBADF;
  EXPECT_EQ(
      run_spawned([](int fd) { throw mp::SystemExit(::fcntl(fd, F_GETFD) < 0 ? errno : 0); }, high),
      expected);
  ::close(high);
}

// TestStdinBadfiledescriptor.test_queue_in_process, test_pool_in_process
TEST_P(PortedProcess, QueuesAndPoolsServeInsideAChild) {
  EXPECT_EQ(run_spawned([] {
              const mp::Queue<int> queue;
              auto child = started(
                  1, [](const mp::Queue<int>& q) { q.put(1); }, queue);
              if (queue.get() != 1 || !child[0].join()) throw mp::SystemExit(1);
            }),
            0);
  EXPECT_EQ(run_spawned([] {
              mp::Pool pool(4);
              const std::vector<int> numbers{1, 2, 3, 4, 5, 6, 7};
              const auto squares = pool.map([](int x) { return x * x; }, numbers);
              pool.close();
              pool.join();
              if (squares != std::vector<int>{1, 4, 9, 16, 25, 36, 49}) throw mp::SystemExit(1);
            }),
            0);
}

// TestStartMethod.test_nested_startmethod: a child hands its arguments on
TEST_P(PortedProcess, AChildHandsItsQueueOn) {
  const mp::Queue<int> queue;
  EXPECT_EQ(run_spawned(
                [](const mp::Queue<int>& q) {
                  q.put(2);
                  auto child = started(
                      1, [](const mp::Queue<int>& mine) { mine.put(1); }, q);
                  if (!child[0].join() || child[0].exitcode() != 0) throw mp::SystemExit(1);
                },
                queue),
            0);
  EXPECT_EQ(queue.get() + queue.get(), 3);
  EXPECT_TRUE(queue.empty());
}

// TestStartMethod.test_mixed_startmethod; beyond Python a queue of any context serves any child
TEST_P(PortedProcess, QueuesOfAnyContextGoToAnyChild) {
  for (const char* method : {"fork", "spawn", "forkserver"}) {
    const auto queue = mp::get_context(method).Queue<int>();
    EXPECT_EQ(run_spawned([](const mp::Queue<int>& q) { q.put(5); }, queue), 0) << method;
    EXPECT_EQ(queue.get(), 5) << method;
  }
}

struct UpperCaser : mp::Process {
  UpperCaser() : UpperCaser(mp::Pipe()) {}
  explicit UpperCaser(decltype(mp::Pipe()) ends)
      : mp::Process({.daemon = true, .context = &spawn()}),
        parent(ends.first),
        child(ends.second) {}
  void run() override {
    parent.close();
    for (;;) {
      auto text = child.recv<std::string>();
      if (text.empty()) break;
      for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      child.send(text);
    }
    child.close();
  }
  std::string submit(const std::string& text) const {
    parent.send(text);
    return parent.recv<std::string>();
  }
  void stop() const {
    parent.send(std::string());
    parent.close();
    child.close();
  }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(parent, child);
  }
  mp::Connection parent;
  mp::Connection child;
};
MILLRACE_PROCESS(UpperCaser);

TEST_P(PortedProcess, ASubclassAnswersByItsMembers) {  // _TestSubclassingProcess.test_subclassing
  UpperCaser process;
  process.start();
  EXPECT_EQ(process.submit("hello"), "HELLO");
  EXPECT_EQ(process.submit("world"), "WORLD");
  process.stop();
  EXPECT_TRUE(process.join());
  EXPECT_EQ(process.exitcode(), 0);
}

// _TestSubclassingProcess.test_stderr_flush
TEST_P(PortedProcess, ABufferedStderrIsWrittenWhole) {
  const auto outcome = run_program([] {
    (void)run_spawned([] {
      static char buffer[1 << 16];
      (void)std::setvbuf(stderr, buffer, _IOFBF, sizeof buffer);
      std::fprintf(stderr, "before;");
      throw std::domain_error("1/0");
    });
  });
  EXPECT_NE(outcome.err.find("before;"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("std::domain_error: 1/0\n"), std::string::npos) << outcome.err;
}

// _TestSubclassingProcess.test_sys_exit
TEST_P(PortedProcess, SystemExitSetsTheCode) {
  const auto outcome = run_program([] {
    std::printf("%d", run_spawned([] { throw mp::SystemExit("ignore this"); }).value_or(-1));
  });
  EXPECT_EQ(outcome.out, "1");
  EXPECT_EQ(outcome.err, "ignore this\n");
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(true); }), 1);
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(false); }), 0);
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(8); }), 8);
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(); }), 0);
}

// _TestProcess.test_parent_process, test_parent_process_attributes: of a parent that is terminated
TEST_P(PortedProcess, AGrandchildLearnsOfItsParentsEnd) {
  auto [reader, writer] = mp::Pipe({.duplex = false});
  auto child = started(
      1,
      [](const mp::Connection& to) {
        auto grandchild = started(
            1,
            [](const mp::Connection& tell) {
              const auto parent = mp::parent_process();
              tell.send(parent->pid() == ::getppid() || mp::get_start_method() == "forkserver");
              tell.send(parent->is_alive());
              parent->join();
              tell.send(parent->is_alive());
            },
            to);
        for (;;) ::pause();
      },
      writer);
  writer.close();
  EXPECT_TRUE(reader.recv<bool>());
  EXPECT_TRUE(reader.recv<bool>());
  child[0].terminate();
  child[0].join();
  EXPECT_EQ(child[0].exitcode(), -SIGTERM);
  EXPECT_FALSE(reader.recv<bool>());
  // What the parent sent its child with is gone as well, although it never looked at that again.
  EXPECT_THROW((void)reader.recv(), mp::EOFError);
}

// _TestProcess.test_wait_for_threads: for those of dummy, which are Python's threads
TEST_P(PortedProcess, AChildWaitsForItsThreads) {
  const mp::Event set;
  EXPECT_EQ(run_spawned(
                [](const mp::Event& e) {
                  mp::dummy::Process([e] {
                    std::this_thread::sleep_for(std::chrono::milliseconds(20));
                    e.set();
                  }).start();
                },
                set),
            0);
  EXPECT_TRUE(set.is_set());
}

// _TestProcess.test_error_on_stdio_flush_1, _2: streams that its parent or the child has closed
TEST_P(PortedProcess, ClosedStreamsDoNotChangeTheCode) {
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    for (const bool by_parent : {true, false}) {
      const auto outcome = run_program([=] {
        if (by_parent) ::close(stream);
        const auto code = run_spawned(
            [](int fd) {
              if (fd >= 0) ::close(fd);
              std::printf("into nothing");
              std::fprintf(stderr, "into nothing");
              throw mp::SystemExit(4);
            },
            by_parent ? -1 : stream);
        std::exit(code == 4 ? 0 : 1);
      });
      EXPECT_EQ(outcome.exitcode, 0) << stream << by_parent;
    }
  }
}

TEST_P(PortedProcess, OurOwnPathIsAnExecutable) {  // _TestProcess.test_set_executable
  // Not what /proc/self/exe says, which in a chroot is the path outside.
  mp::set_executable(std::filesystem::absolute(program_invocation_name));
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(6); }), 6);
  mp::set_executable("");
}

TEST_P(PortedProcess, AContextKeepsItsMethod) {  // TestStartMethod.test_context, test_set_get
  mp::Context& context = mp::get_context(GetParam());
  EXPECT_EQ(&context.get_context(), &context);
  EXPECT_EQ(context.get_start_method(), GetParam());
  EXPECT_THROW(context.set_start_method("spawn"), mp::ValueError);
  EXPECT_THROW(context.set_start_method(std::nullopt), mp::ValueError);
  mp::set_start_method(GetParam(), {.force = true});
  EXPECT_EQ(mp::get_start_method(), GetParam());
  EXPECT_EQ(&mp::get_context(), &context);
  mp::Process child(
      [](const std::string& method) {
        if (mp::get_start_method() != method) throw mp::SystemExit(1);
      },
      std::string(GetParam()));
  child.start();
  EXPECT_TRUE(child.join());
  EXPECT_EQ(child.exitcode(), 0);
}

// _TestFinalize.test_thread_safety
TEST(PortedFinalize, FinalizersOfManyThreadsRunOnceEach) {
  std::atomic<int> runs{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&runs, t] {
      for (int i = 0; i < 2000; ++i) {
        mp::Finalize one([&runs] { ++runs; }, {.exitpriority = (i + t) % 100});
        mp::Finalize other([&runs] { ++runs; });
        if (i % 3 == 0) one();
        if (i % 5 == 0) other.cancel();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(runs.load(), 4 * (2000 + 1600));
}

}  // namespace
}  // namespace millrace::test
