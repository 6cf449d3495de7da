// Connections over sockets in other processes of the program: inherited, as arguments, over pipes.
// Python's counterpart: _TestPicklingConnections. N13
#include <atomic>

#include "tests/api/listener_support.hpp"

namespace millrace::test {
namespace {

std::pair<Connection, Connection> pair_over(const char* family) {
  const Listener listener({.family = family});
  auto caller = call(listener.address());
  Connection here = listener.accept();
  return {std::move(here), caller.get()};
}

TEST_F(ListenerTest, AConnectionIsInheritedByAFork) {
  auto [here, there] = pair_over("AF_UNIX");
  Process child([&there = there] { there.send("inherited"); });
  child.start();
  EXPECT_EQ(here.recv<std::string>(), "inherited");
  child.join();
}

// TestInvalidHandle, N03-04
TEST_F(ListenerTest, AClosedConnectionSaysSo) {
  auto [here, there] = pair_over("AF_UNIX");
  EXPECT_GE(here.fileno(), 0);
  here.close();
  here.close();
  EXPECT_TRUE(here.closed());
  for (const auto& use : std::initializer_list<void (*)(const Connection&)>{
           [](const Connection& c) { c.send(1); }, [](const Connection& c) { c.recv(); },
           [](const Connection& c) { (void)c.poll(); },
           [](const Connection& c) { (void)c.fileno(); }}) {
    EXPECT_EQ(errno_of([&, &end = here] { use(end); }), EBADF);
  }
  EXPECT_EQ(errno_of([&end = there] {
              for (;;) end.send(1);
            }),
            EPIPE);
}

TEST_F(ListenerTest, CloseEndsCallsThatWait) {
  auto [here, there] = pair_over("AF_INET");
  const auto waiting = [&end = here](auto call) {
    return std::async(std::launch::async, [&end, call] { return errno_of([&] { call(end); }); });
  };
  auto first = waiting([](const Connection& c) { (void)c.recv(); });
  auto second = waiting([](const Connection& c) { (void)c.recv_bytes(); });
  auto third = waiting([](const Connection& c) { (void)c.poll(std::nullopt); });
  auto fourth = waiting([](const Connection& c) { c.send_bytes(std::string(50'000'000, 'x')); });
  here.close();
  EXPECT_EQ(first.get(), EBADF);
  EXPECT_EQ(second.get(), EBADF);
  EXPECT_EQ(third.get(), EBADF);
  EXPECT_EQ(fourth.get(), EBADF);
}

}  // namespace
}  // namespace millrace::test
