// Parents that start processes by spawn and by the fork server, killed at random instants, with
// their children, or the server: nothing waits for ever for those who are gone, nobody outlives
// them, and nothing that was on its way to a child is left.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <millrace/arena.hpp>
#include <millrace/connection.hpp>
#include <millrace/context.hpp>
#include <millrace/fd.hpp>
#include <millrace/process.hpp>
#include <millrace/queues.hpp>
#include <millrace/synchronize.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "tests/api/forkserver_support.hpp"
#include "tests/leak_check.hpp"
#include "tests/stress/storm.hpp"

namespace mp = millrace;
using mp::test::kill_server;
using mp::test::server_pid;
using std::chrono::seconds;

namespace {

// A watchdog: false when `done`, which waits for a second at most, is not after a minute. By turns,
// so that one in which this process was stopped counts as one.
template <class Done>
bool comes(Done done) {
  for (int i = 0; i < 60; ++i) {
    if (done()) return true;
  }
  return false;
}

// The children that the kernel knows of a process that has one thread.
std::vector<pid_t> children_of(pid_t parent) {
  const std::string pid = std::to_string(parent);
  std::ifstream in("/proc/" + pid + "/task/" + pid + "/children");
  std::vector<pid_t> children;
  for (pid_t one = 0; in >> one;) children.push_back(one);
  return children;
}

enum class Victim { parent, child, both, server, server_and_parent };

// What goes to a child, in every way there is.
struct Cargo {
  mp::Connection end;
  mp::Queue<int> queue;
  mp::shared_array<int> array;
  mp::Event event;
};

void child_body(const Cargo& cargo) {
  cargo.array[0] = 1;
  cargo.queue.put(1);
  cargo.event.set();
  cargo.end.send(cargo.array[0]);
}

// A process of the storm: starts two children and waits for them.
void parent_body(const std::string& method, const Cargo& cargo, mp::Fd& descriptor) {
  mp::Context& context = mp::get_context(method);
  auto captures = context.Process([cargo] { child_body(cargo); });
  auto arguments = context.Process(
      {.daemon = true},
      [](const mp::Connection& end, const mp::Queue<int>& queue, const mp::shared_array<int>& array,
         const mp::Event& event, const mp::Fd&) {
        child_body({end, queue, array, event});
      },
      cargo.end, cargo.queue, cargo.array, cargo.event, std::move(descriptor));
  captures.start();
  arguments.start();
  captures.join();
  arguments.join();
}

struct Usage {
  std::size_t blocks = 0;
  std::size_t span_bytes = 0;
  std::size_t processes = 0;
};

Usage usage() {
  mp::shm::reap_all_dead();
  const mp::shm::ArenaUsage arena = mp::shm::Arena::instance().usage();
  Usage now{arena.small_blocks, arena.span_bytes - arena.slab_bytes, 0};
  const mp::shm::ProcessTable& table = mp::shm::ProcessTable::instance();
  for (std::size_t i = 0; i < table.high(); ++i) now.processes += table.in_use(i) ? 1 : 0;
  return now;
}

class SpawnKills : public mp::test::LeakCheck {
 protected:
  void SetUp() override {
    (void)mp::runtime::ForkServerNote::instance();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // who has lost its parent is this process's to wait for
    LeakCheck::SetUp();
    std::printf("seed %u\n", seed_);
  }
  void TearDown() override {
    end_others();
    ::prctl(PR_SET_CHILD_SUBREAPER, 0);
    LeakCheck::TearDown();
  }

  useconds_t up_to(useconds_t most) {
    return std::uniform_int_distribution<useconds_t>(0, most)(random_);
  }

  // False: somebody hangs.
  bool round(const std::string& method, std::optional<Victim> victim) {
    auto [mine, theirs] = mp::Pipe({.duplex = false});
    std::array<int, 2> kernel_pipe{};
    if (::pipe2(kernel_pipe.data(), O_CLOEXEC) != 0) std::abort();
    mp::Fd reader(kernel_pipe[0]);
    mp::Fd writer(kernel_pipe[1]);
    const auto before = std::chrono::steady_clock::now();
    mp::Process parent;
    {
      const Cargo cargo{theirs, mp::Queue<int>(), mp::shared_array<int>(100), {}};
      parent = mp::get_context("fork").Process([&] { parent_body(method, cargo, writer); });
      parent.start();
      theirs.close();
      writer.reset();
    }
    if (victim) kill_at_random(*victim, parent.pid().value());
    if (!comes([&] { return parent.join(seconds(1)); })) return report("the parent");
    if (!ends(mine)) return report("the pipe");
    if (!others_end()) return report("a process");
    mp::shm::reap_all_dead();
    pollfd end{reader.get(), POLLIN, 0};
    if (::poll(&end, 1, 0) != 1) ++lost_descriptors_;
    const auto took = std::chrono::steady_clock::now() - before;
    if (!victim) usual_ = std::chrono::duration_cast<std::chrono::microseconds>(took);
    parent.close();
    return true;
  }

  void storm(const std::string& method, const std::vector<Victim>& victims, long usual) {
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(round(method, {}));  // what is made once is made
    end_others();
    const Usage before = usage();
    const long rounds = mp::stress::kills_wanted(usual);
    for (long i = 0; i < rounds; ++i) {
      const Victim victim = victims[static_cast<std::size_t>(i) % victims.size()];
      ASSERT_TRUE(round(method, victim)) << "round " << i;
      if (i % 16 != 15) continue;
      end_others();
      const Usage now = usage();
      ASSERT_EQ(now.blocks, before.blocks) << "round " << i;
      ASSERT_EQ(now.span_bytes, before.span_bytes) << "round " << i;
      ASSERT_EQ(now.processes, before.processes) << "round " << i;
    }
    EXPECT_EQ(mp::shm::Arena::instance().usage().refused_frees, 0U);
    std::printf("kills=%ld\n", rounds);
    EXPECT_EQ(lost_descriptors_, 0);
  }

 private:
  void kill_at_random(Victim victim, pid_t parent) {
    ::usleep(up_to(static_cast<useconds_t>(usual_.count())));
    if (victim == Victim::server || victim == Victim::server_and_parent) kill_server();
    if (victim == Victim::server_and_parent) ::usleep(up_to(500));
    if (victim == Victim::child || victim == Victim::both) {
      std::vector<pid_t> found = children_of(parent);
      const pid_t server = server_pid();
      if (server != 0) {
        for (const pid_t one : children_of(server)) found.push_back(one);
      }
      for (const pid_t one : found) {
        if (one > 1) ::kill(one, SIGKILL);
      }
      if (victim == Victim::both) ::usleep(up_to(500));
    }
    if (victim == Victim::parent || victim == Victim::both || victim == Victim::server_and_parent) {
      ::kill(parent, SIGKILL);
    }
  }

  // Everything that was sent, then the end.
  static bool ends(const mp::Connection& end) {
    try {
      for (;;) {
        if (!comes([&] { return end.poll(seconds(1)); })) return false;
        (void)end.recv<int>();
      }
    } catch (const mp::EOFError&) {
      return true;
    }
  }

  // Waits for all who have lost their parents, but for the server.
  static bool others_end() {
    for (int i = 0; i < 300'000; ++i) {
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      const std::vector<pid_t> left = children_of(::getpid());
      const pid_t server = server_pid();
      const bool only_server =
          left.size() == 1 && left.front() == server && children_of(server).empty();
      if (left.empty() || only_server) return true;
      ::usleep(200);
    }
    return false;
  }

  static void end_others() {
    kill_server();
    EXPECT_TRUE(others_end());
    mp::test::end_server();
    EXPECT_TRUE(others_end());
  }

  static bool report(const char* what) {
    std::printf("%s does not end; left:", what);
    for (const pid_t one : children_of(::getpid())) std::printf(" %d", one);
    std::printf("; server %d\n", server_pid());
    return false;
  }

  unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
  std::chrono::microseconds usual_{};
  long lost_descriptors_ = 0;
};

TEST_F(SpawnKills, SpawnedChildrenAndTheirParents) {
  storm("spawn", {Victim::parent, Victim::child, Victim::both}, 300);
}

TEST_F(SpawnKills, ServedChildrenAndTheirParents) {
  storm("forkserver", {Victim::parent, Victim::child, Victim::both}, 300);
}

TEST_F(SpawnKills, TheServerAndTheParents) {
  storm("forkserver", {Victim::server, Victim::server_and_parent, Victim::parent}, 300);
}

// A process of this program that begins while a file of this name exists ends itself, before
// main().
constexpr const char* kEndFile = "MILLRACE_TEST_END_BEFORE_MAIN";
[[maybe_unused]] const bool g_asked = [] {
  const char* file = std::getenv(kEndFile);
  if (file != nullptr && ::unlink(file) == 0) ::raise(SIGKILL);
  return true;
}();

TEST_F(SpawnKills, APeerHearsOfAChildThatDiedAtItsStartThoughTheParentDoesNotLook) {
  char file[] = "/tmp/millrace-end-XXXXXX";
  ::close(::mkstemp(file));
  ::setenv(kEndFile, file, 1);
  auto [mine, theirs] = mp::Pipe({.duplex = false});
  mp::Event done;
  auto parent = mp::get_context("fork").Process([end = theirs, done] {
    mp::Context& spawn = mp::get_context("spawn");
    auto child = spawn.Process([](const mp::Connection&) {}, end);
    child.start();
    end.close();
    done.wait();  // not looking at its child
  });
  parent.start();
  theirs.close();
  EXPECT_TRUE(comes([&] { return mine.poll(seconds(1)); }));
  EXPECT_THROW((void)mine.recv<int>(), mp::EOFError);
  done.set();
  EXPECT_TRUE(parent.join());
  ::unsetenv(kEndFile);
  ::unlink(file);
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
