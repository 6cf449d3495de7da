// The fork server itself. CPython: TestForkAwareThreadLock's neighbours of
// Lib/test/_test_multiprocessing.py with type forkserver (test_forkserver_sigkill, test_preload)
// and the rules of Lib/multiprocessing/forkserver.py.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "shm/arena.hpp"
#include "tests/api/forkserver_support.hpp"
#include "tests/api/process_support.hpp"
#include "tests/api/spawn_support.hpp"

namespace mp = millrace;
using mp::test::end_server;
using mp::test::forkserver;
using mp::test::kernel_tells_of_the_reaped;
using mp::test::kill_server;
using mp::test::run_program;
using mp::test::run_spawned;
using mp::test::server_pid;
using mp::test::server_socket;

namespace {

class ForkServerTest : public mp::test::SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, ForkServerTest, ::testing::Values("forkserver"),
                         mp::test::method_name);

void wait_for_ever(const mp::Event& ready) {
  ready.set();
  mp::Event().wait();
}

TEST_P(ForkServerTest, ServerHasOneThreadAndIsNobodysChild) {  // C03
  mp::Value<long> parent(0);
  EXPECT_EQ(run_spawned([](const mp::Value<long>& p) { p.set(::getppid()); }, parent), 0);
  EXPECT_EQ(parent.get(), server_pid());
  struct stat threads {};
  ASSERT_EQ(::stat(("/proc/" + std::to_string(server_pid()) + "/task").c_str(), &threads), 0);
  EXPECT_EQ(threads.st_nlink, 3U);  // two and one a thread
}

TEST_P(ForkServerTest, SocketLiesInAPrivateFolder) {
  EXPECT_EQ(run_spawned([] {}), 0);
  const std::string path = server_socket();
  ASSERT_EQ(path.at(0), '/');
  struct stat folder {};
  ASSERT_EQ(::stat(path.substr(0, path.rfind('/')).c_str(), &folder), 0);
  EXPECT_EQ(folder.st_mode & 07777U, 0700U);
  EXPECT_EQ(folder.st_uid, ::geteuid());
  struct stat socket {};
  ASSERT_EQ(::stat(path.c_str(), &socket), 0);
  EXPECT_TRUE(S_ISSOCK(socket.st_mode));
}

TEST_P(ForkServerTest, ProcessesOfAProgramShareOneServer) {  // C12
  EXPECT_EQ(run_spawned([] {}), 0);  // the server lives as long as those it served: this process
  mp::Array<long> seen(3);
  const auto tell = [](const mp::Array<long>& told, int place) {
    auto child = forkserver().Process(
        [](const mp::Array<long>& to, int at) { to[at] = ::getppid(); }, told, place);
    child.start();
    child.join();
  };
  int place = 0;
  for (const char* method : {"fork", "spawn", "forkserver"}) {
    auto p = mp::get_context(method).Process(tell, seen, place++);
    p.start();
    EXPECT_TRUE(p.join());
    EXPECT_EQ(p.exitcode(), 0) << method;
  }
  EXPECT_EQ(seen.to_vector(), std::vector<long>(3, server_pid()));
}

TEST_P(ForkServerTest, KilledServerIsRelaunched) {  // C03; test_forkserver_sigkill
  EXPECT_EQ(run_spawned([] {}), 0);
  for (int i = 0; i < 3; ++i) {
    const pid_t before = server_pid();
    EXPECT_TRUE(kill_server());
    EXPECT_EQ(run_spawned([] { throw mp::SystemExit(8); }), 8);
    EXPECT_NE(server_pid(), before);
  }
}

TEST_P(ForkServerTest, SigintDoesNotEndTheServer) {  // C03; test_forkserver_sigint
  EXPECT_EQ(run_spawned([] {}), 0);
  const pid_t before = server_pid();
  ASSERT_GT(before, 1);
  EXPECT_TRUE(mp::shm::send_signal(before, SIGINT));
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(8); }), 8);
  EXPECT_EQ(server_pid(), before);
}

TEST_P(ForkServerTest, ChildrenOutliveTheServer) {  // P10
  mp::Event ready;
  mp::Event go;
  auto p = forkserver().Process(
      [](const mp::Event& r, const mp::Event& g) {
        r.set();
        g.wait();
        throw mp::SystemExit(7);
      },
      ready, go);
  p.start();
  EXPECT_TRUE(ready.wait());
  end_server();
  EXPECT_TRUE(p.is_alive());
  EXPECT_FALSE(mp::test::readable(p.sentinel()));
  go.set();
  EXPECT_TRUE(p.join());
  if (kernel_tells_of_the_reaped()) {
    EXPECT_EQ(p.exitcode(), 7);
  } else {
    EXPECT_TRUE(p.exitcode() == 7 || p.exitcode() == 255);
  }
  auto q = forkserver().Process(wait_for_ever, mp::Event());
  q.start();
  end_server();
  q.kill();
  EXPECT_TRUE(q.join());
  EXPECT_TRUE(q.exitcode() == -SIGKILL || !kernel_tells_of_the_reaped());
}

TEST_P(ForkServerTest, DaemonsEndWithAParentThatOutlivedTheServer) {  // P07
  mp::Event ready;
  const auto outcome = run_program([&ready] {
    auto p = forkserver().Process({.daemon = true}, wait_for_ever, ready);
    p.start();
    ready.wait();
    end_server();
    ::raise(SIGKILL);
  });
  EXPECT_EQ(outcome.exitcode, -SIGKILL);  // and it is over: the daemon held the streams
}

TEST_P(ForkServerTest, OthersOfAKilledParentGoOn) {  // P14: descendants are orphaned
  mp::Event ready;
  mp::Event go;
  mp::Event done;
  const auto outcome = run_program([&] {
    auto p = forkserver().Process(
        [](const mp::Event& r, const mp::Event& g, const mp::Event& d) {
          ::close(STDOUT_FILENO);
          ::close(STDERR_FILENO);
          r.set();
          g.wait();
          d.set();
        },
        ready, go, done);
    p.start();
    ready.wait();
    ::raise(SIGKILL);
  });
  EXPECT_EQ(outcome.exitcode, -SIGKILL);
  EXPECT_FALSE(done.is_set());
  go.set();
  EXPECT_TRUE(done.wait());
}

TEST_P(ForkServerTest, LibrariesAreLoadedBeforehand) {  // C10; test_preload
  constexpr const char* kLibrary = "libanl.so.1";       // of the C library; nothing else needs it
  const auto loaded = [](const std::string& name) {
    throw mp::SystemExit(::dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD) != nullptr ? 1 : 0);
  };
  EXPECT_EQ(run_spawned(loaded, kLibrary), 0);
  end_server();
  mp::set_forkserver_preload({"/nowhere/at-all.so", kLibrary});
  EXPECT_EQ(run_spawned(loaded, kLibrary), 1);
  mp::set_forkserver_preload({});
  end_server();
  EXPECT_EQ(run_spawned(loaded, kLibrary), 0);
}

TEST_P(ForkServerTest, ChildIsWhereItsParentIs) {
  EXPECT_EQ(run_spawned([] {}), 0);
  const auto outcome = run_program([] {
    ASSERT_EQ(::chdir("/usr"), 0);
    ::setpgid(0, 0);
    auto p = forkserver().Process(
        [](pid_t group) {
          std::array<char, 100> here{};
          std::printf("%s", ::getcwd(here.data(), here.size()));
          std::fprintf(stderr, "%s", ::getpgrp() == group ? "same group" : "another");
        },
        ::getpgrp());
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.out, "/usr");
  EXPECT_EQ(outcome.err, "same group");
}

TEST_P(ForkServerTest, StrangePeersGetNothingAndDisturbNobody) {
  EXPECT_EQ(run_spawned([] {}), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  server_socket().copy(address.sun_path, sizeof address.sun_path - 1);
  std::array<int, 3> peers{};
  for (int& peer : peers) {
    peer = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::connect(peer, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  // One is silent, one talks nonsense, one asks in another's name.
  EXPECT_EQ(::send(peers[1], "nonsense", 8, MSG_NOSIGNAL), 8);
  char byte = 0;
  EXPECT_EQ(::recv(peers[1], &byte, 1, 0), 0);
  mp::runtime::StartRequest request{};
  request.magic = mp::runtime::StartRequest::kMagic;
  request.parent = mp::shm::self() + 1;
  EXPECT_EQ(::send(peers[2], &request, sizeof request, MSG_NOSIGNAL), ssize_t{sizeof request});
  mp::runtime::StartReply reply{};
  EXPECT_EQ(::recv(peers[2], &reply, sizeof reply, 0), ssize_t{sizeof reply});
  EXPECT_EQ(reply.pid, 0);
  EXPECT_EQ(reply.error, EPERM);
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(3); }), 3);
  for (const int peer : peers) ::close(peer);
}

TEST_P(ForkServerTest, ManyThreadsStartAtOnce) {
  end_server();
  mp::Value<long> sum(0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&sum] {
      for (int k = 0; k < 5; ++k) {
        EXPECT_EQ(
            run_spawned([](const mp::Value<long>& s) { s.update([](long& n) { ++n; }); }, sum), 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum.get(), 40);
}

TEST_P(ForkServerTest, FailsWithoutDescriptorsAndLeavesNothing) {
  EXPECT_EQ(run_spawned([] {}), 0);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next = ::dup(STDIN_FILENO);  // the first that is free
  ASSERT_GE(next, 0);
  ::close(next);
  auto p = forkserver().Process([] { throw mp::SystemExit(4); });
  for (int more = 0; more < 4; ++more) {
    const rlimit few{static_cast<rlim_t>(next + more), before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    try {
      p.start();
      break;  // that many were enough
    } catch (const std::system_error& e) {
      EXPECT_TRUE(e.code().value() == EMFILE || more > 0) << e.what();
    }
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  if (!p.pid()) p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 4);
}

// The programs below are executed anew, so that they have neither the arena nor the server of this
// one.
mp::test::Outcome execute_program(const char* mode) {
  return run_program([mode] {
    ::setenv("FORKSERVER_TEST_PROGRAM", mode, 1);
    ::execl("/proc/self/exe", "program", nullptr);
    ::_exit(99);
  });
}

TEST_P(ForkServerTest, ServerEndsWithItsProgram) {
  const auto outcome = execute_program("starts");
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.err, "");
  int pid = 0;
  std::array<char, 200> path{};
  ASSERT_EQ(std::sscanf(outcome.out.c_str(), "%d %199s", &pid, path.data()), 2) << outcome.out;
  // It notices the end by itself, a little later; then nothing of it is left.
  while (!mp::shm::process_gone(pid, 0)) ::usleep(1000);
  const std::string folder =
      std::string(path.data()).substr(0, std::string(path.data()).rfind('/'));
  EXPECT_NE(::access(folder.c_str(), F_OK), 0);
}

TEST_P(ForkServerTest, FolderOfAKilledServerIsRemovedByTheNext) {
  const auto outcome = execute_program("kills");
  std::array<char, 200> path{};
  ASSERT_EQ(std::sscanf(outcome.out.c_str(), "%199s", path.data()), 1) << outcome.out;
  end_server();
  EXPECT_EQ(run_spawned([] {}), 0);
  EXPECT_NE(::access(path.data(), F_OK), 0);
}

TEST_P(ForkServerTest, ProgramThatUsesNoneHasNone) {
  const auto outcome = execute_program("abstains");
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.out, "none");
}

TEST_P(ForkServerTest, MainWithoutFreezeSupportIsToldAndDoesNotMultiply) {  // C09; TestNoForkBomb
  for (const char* how : {"starts", "returns"}) {
    const auto outcome = run_program([how] {
      ::setenv("FORKSERVER_TEST_PROGRAM", "forgets", 1);
      ::setenv("SPAWN_TEST_MAIN", how, 1);
      ::execl("/proc/self/exe", "program", nullptr);
    });
    EXPECT_EQ(outcome.exitcode, 0);
    EXPECT_NE(outcome.out.find("told"), std::string::npos) << outcome.out << outcome.err;
    EXPECT_NE(outcome.err.find("mp::freeze_support(argc, argv);\n"), std::string::npos);
  }
}

int program_that_starts() {
  if (run_spawned([] {}) != 0) return 1;
  std::printf("%d %s", server_pid(), server_socket().c_str());
  return 0;
}

int program_that_kills() {
  if (run_spawned([] {}) != 0) return 1;
  std::printf("%s", server_socket().c_str());
  end_server();
  return 0;
}

int program_that_abstains() {
  for (const char* method : {"fork", "spawn"}) {
    auto p = mp::get_context(method).Process([] {});
    p.start();
    p.join();
    if (p.exitcode() != 0) return 1;
  }
  const auto& root = mp::shm::Arena::instance().root();
  if (root.word[mp::shm::ArenaRoot::kForkServer].load(std::memory_order_acquire) != 0) return 2;
  std::printf("none");
  return 0;
}

int program_that_forgets() {
  try {
    forkserver().Process([] {}).start();
  } catch (const std::runtime_error& e) {
    if (std::string(e.what()).find("freeze_support") != std::string::npos) std::printf("told");
  }
  return 0;
}

}  // namespace

namespace millrace::test {

std::optional<int> run_named_program() {
  const char* const name = std::getenv("FORKSERVER_TEST_PROGRAM");
  if (name == nullptr) return std::nullopt;
  const std::string program(name);
  tested_method() = "forkserver";
  if (program == "starts") return program_that_starts();
  if (program == "kills") return program_that_kills();
  if (program == "abstains") return program_that_abstains();
  if (program == "forgets") return program_that_forgets();
  return std::nullopt;
}

}  // namespace millrace::test
