// Requests to a fork server that do not go smoothly: late, unanswered, short of descriptors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <millrace/errors.hpp>
#include <millrace/interrupt.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <system_error>
#include <thread>

#include "tests/api/forkserver_support.hpp"
#include "tests/api/sigint_support.hpp"
#include "tests/api/spawn_support.hpp"

namespace mp = millrace;

namespace {

std::atomic<bool> g_late{false};
std::atomic<int> g_sent{0};
std::atomic<bool> g_no_room{false};
std::atomic<pid_t> g_answered{0};

}  // namespace

// Found before the C library's by every call in this program.
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (g_late) {
    ++g_sent;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return ::syscall(SYS_sendmsg, fd, message, flags);
}

extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
  if (!g_no_room) return ::syscall(SYS_recvmsg, fd, message, flags);
  rlimit none{};
  (void)::getrlimit(RLIMIT_NOFILE, &none);
  none.rlim_cur = 0;
  (void)::setrlimit(RLIMIT_NOFILE, &none);
  const ssize_t got = ::syscall(SYS_recvmsg, fd, message, flags);
  if (got == sizeof(mp::runtime::StartReply)) {
    g_answered = static_cast<const mp::runtime::StartReply*>(message->msg_iov->iov_base)->pid;
  }
  return got;
}

namespace {

class ForkServerRequestTest : public mp::test::SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, ForkServerRequestTest, ::testing::Values("forkserver"),
                         mp::test::method_name);

int fail_with_5() {
  return mp::test::run_spawned([] { throw mp::SystemExit(5); }).value_or(-1);
}

// The kernel may stop whoever asks between its connect() and its sendmsg().
TEST_P(ForkServerRequestTest, MayComeLaterThanItsConnection) {
  EXPECT_EQ(fail_with_5(), 5);
  const pid_t server = mp::test::server_pid();
  g_sent = 0;
  g_late = true;
  EXPECT_EQ(fail_with_5(), 5);
  g_late = false;
  EXPECT_EQ(g_sent, 1);  // served at the first request
  EXPECT_EQ(mp::test::server_pid(), server);
}

// P16: from start() on it is the child that SIGINT is for, not the server, which ignores it.
TEST_P(ForkServerRequestTest, AnsweredMeansThatTheChildMayBeInterrupted) {
  for (int i = 0; i < 60; ++i) {
    auto p = mp::test::forkserver().Process([] { mp::Event().wait(); });
    p.start();
    p.interrupt();
    ASSERT_TRUE(p.join(std::chrono::seconds(50))) << "start " << i;
    EXPECT_EQ(p.exitcode(), -SIGINT);
  }
}

// S35: as CPython's, which waits for its server in read()
TEST_P(ForkServerRequestTest, ToAServerThatIsStoppedEndsWithSigint) {
  EXPECT_EQ(fail_with_5(), 5);
  const pid_t server = mp::test::server_pid();
  ASSERT_GT(server, 1);
  const mp::Value<int> ran(0);
  const auto ended = mp::test::run_forked([&] {
    mp::install_sigint();
    if (fail_with_5() != 5) return 1;  // the server knows this process
    if (!mp::shm::send_signal(server, SIGSTOP)) return 2;
    auto p = mp::test::forkserver().Process([](const mp::Value<int>& to) { to.set(1); }, ran);
    if (!mp::test::is_interrupted([&p] { p.start(); })) return 3;
    if (p.pid() || !mp::active_children().empty()) return 4;
    if (!mp::shm::send_signal(server, SIGCONT)) return 5;
    if (fail_with_5() != 5) return 6;  // behind the other request, which is for nobody now
    return ran.get();
  });
  (void)mp::shm::send_signal(server, SIGCONT);
  EXPECT_FALSE(ended.by_signal);
  EXPECT_EQ(ended.code, 0);
  EXPECT_EQ(mp::test::server_pid(), server);
}

// With one descriptor there is a socket to ask by, and none for the folder.
TEST_P(ForkServerRequestTest, SaysWhereTheChildIsOrFails) {
  EXPECT_EQ(fail_with_5(), 5);
  const auto outcome = mp::test::run_program([] {
    rlimit before{};
    if (::chdir("/usr") != 0 || ::getrlimit(RLIMIT_NOFILE, &before) != 0) return;
    const int next = ::dup(STDIN_FILENO);  // the first that is free
    ::close(next);
    auto p = mp::test::forkserver().Process([] {
      std::array<char, 100> here{};
      std::printf("%s", ::getcwd(here.data(), here.size()));
    });
    for (int more = 0; !p.pid(); ++more) {
      const rlimit few{static_cast<rlim_t>(next + more), before.rlim_max};
      (void)::setrlimit(RLIMIT_NOFILE, &few);
      try {
        p.start();
      } catch (const std::system_error& e) {
        if (e.code().value() != EMFILE) std::printf("%s ", e.what());
      }
      (void)::setrlimit(RLIMIT_NOFILE, &before);
    }
    p.join();
    std::printf(" %d", p.exitcode().value_or(-1));
  });
  EXPECT_EQ(outcome.out, "/usr 0");
}

// Another thread may have taken what was free.
TEST_P(ForkServerRequestTest, EndsAChildThatNoDescriptorIsLeftToWatch) {
  EXPECT_EQ(fail_with_5(), 5);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  auto p = mp::test::forkserver().Process([] {
    for (;;) ::pause();
  });
  g_no_room = true;
  EXPECT_THROW(p.start(), std::system_error);
  g_no_room = false;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_GT(g_answered, 1);
  EXPECT_TRUE(mp::shm::process_gone(g_answered, 0));
  EXPECT_FALSE(p.pid());
  EXPECT_TRUE(mp::active_children().empty());
  EXPECT_EQ(fail_with_5(), 5);
}

TEST_P(ForkServerRequestTest, IsRefusedByAServerWithoutDescriptors) {
  mp::test::end_server();  // so that it knows this process only
  EXPECT_EQ(fail_with_5(), 5);
  const pid_t server = mp::test::server_pid();
  while (!mp::test::asleep(server)) std::this_thread::yield();  // it has closed what that came with
  rlim_t free = 0;
  while (::access(("/proc/" + std::to_string(server) + "/fd/" + std::to_string(free)).c_str(),
                  F_OK) == 0) {
    ++free;
  }
  rlimit before{};
  ASSERT_EQ(::prlimit(server, RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few{free + 1, before.rlim_max};  // the connection, and nothing that comes by it
  ASSERT_EQ(::prlimit(server, RLIMIT_NOFILE, &few, nullptr), 0);
  auto p = mp::test::forkserver().Process([] { throw mp::SystemExit(6); });
  int error = 0;
  try {
    p.start();
  } catch (const std::system_error& e) {
    error = e.code().value();
  }
  ASSERT_EQ(::prlimit(server, RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_EQ(error, EMFILE);
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 6);
  EXPECT_EQ(mp::test::server_pid(), server);
}

}  // namespace
