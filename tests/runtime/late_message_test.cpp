// A message that does not come at once is waited for asleep.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <millrace/connection.hpp>
#include <thread>

#include "runtime/channels/socket_end.hpp"

namespace millrace::test {
namespace {

// Time on a cpu of this thread.
std::chrono::nanoseconds cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// As CPython's one-way Pipes come, and sockets.
TEST(LateMessage, IsWaitedForAsleep) {
  for (const bool pipe : {true, false}) {
    int fds[2];
    if (pipe) {
      ASSERT_EQ(::pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    } else {
      ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    }
    const Connection reader = runtime::socket_connection(
        {.socket = runtime::Descriptor(fds[0]), .pipe = pipe, .writable = !pipe});
    const Connection writer = runtime::socket_connection(
        {.socket = runtime::Descriptor(fds[1]), .pipe = pipe, .readable = !pipe});
    std::thread late([&writer] {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      writer.send_bytes(Bytes("late"));
    });
    const auto start = std::chrono::steady_clock::now();
    const auto cpu = cpu_time();
    EXPECT_EQ(reader.recv_bytes(), Bytes("late"));
    EXPECT_LT(cpu_time() - cpu, (std::chrono::steady_clock::now() - start) / 2) << pipe;
    late.join();
  }
}

}  // namespace
}  // namespace millrace::test
