// A request that reaches the fork server later than the connection it comes by: the kernel may
// stop whoever asks between its connect() and its sendmsg().
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <millrace/errors.hpp>
#include <thread>

#include "tests/api/forkserver_support.hpp"
#include "tests/api/spawn_support.hpp"

namespace mp = millrace;

namespace {

std::atomic<bool> g_late{false};
std::atomic<int> g_sent{0};

}  // namespace

// Found before the C library's by every call in this program.
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (g_late) {
    ++g_sent;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return ::syscall(SYS_sendmsg, fd, message, flags);
}

namespace {

class ForkServerRequestTest : public mp::test::SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, ForkServerRequestTest, ::testing::Values("forkserver"),
                         mp::test::method_name);

TEST_P(ForkServerRequestTest, MayComeLaterThanItsConnection) {
  const auto fail_with_5 = [] { throw mp::SystemExit(5); };
  EXPECT_EQ(mp::test::run_spawned(fail_with_5), 5);
  const pid_t server = mp::test::server_pid();
  g_late = true;
  EXPECT_EQ(mp::test::run_spawned(fail_with_5), 5);
  g_late = false;
  EXPECT_EQ(g_sent, 1);  // served at the first request
  EXPECT_EQ(mp::test::server_pid(), server);
}

}  // namespace
