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

TEST_F(ListenerTest, AConnectionIsAnArgument) {
  for (const char* family : {"AF_UNIX", "AF_INET"}) {
    auto [here, there] = pair_over(family);
    Process child([](const Connection& connection) { connection.send(connection.recv<int>() + 1); },
                  there);
    child.start();
    there.close();
    here.send(1);
    EXPECT_EQ(here.recv<int>(), 2);
    EXPECT_THROW(here.recv(), EOFError);
    child.join();
    EXPECT_EQ(child.exitcode(), 0);
  }
}

TEST_F(ListenerTest, AConnectionIsInheritedByAFork) {
  auto [here, there] = pair_over("AF_UNIX");
  Process child([&there = there] { there.send("inherited"); });
  child.start();
  EXPECT_EQ(here.recv<std::string>(), "inherited");
  child.join();
}

TEST_F(ListenerTest, AConnectionGoesOverAPipe) {
  auto [here, there] = pair_over("AF_INET");
  auto [give, take] = Pipe();
  Process child([](const Connection& pipe) { pipe.recv<Connection>().send("sent"); }, take);
  child.start();
  give.send(there);
  there.close();
  EXPECT_EQ(here.recv<std::string>(), "sent");
  EXPECT_THROW(here.recv(), EOFError);
  child.join();
}

TEST_F(ListenerTest, AConnectionOnTheWayStaysOpen) {
  auto [here, there] = pair_over("AF_UNIX");
  auto [give, take] = Pipe();
  give.send(there);
  there.close();
  here.send(7);
  EXPECT_FALSE(here.poll());
  const Connection arrived = take.recv<Connection>();
  EXPECT_EQ(arrived.recv<int>(), 7);
}

// Threads and processes on one end take turns by whole messages.
TEST_F(ListenerTest, WholeMessagesOfManySenders) {
  constexpr int kSenders = 4;
  constexpr int kEach = 50;
  constexpr std::size_t kSize = 100'000;  // more than fits at once
  auto [here, there] = pair_over("AF_UNIX");
  const auto send_all = [](const Connection& connection, int sender) {
    const std::string message(kSize, static_cast<char>('a' + sender));
    for (int i = 0; i < kEach; ++i) connection.send_bytes(message);
  };
  std::array<Process, kSenders> children;
  for (int sender = 0; sender < kSenders; ++sender) {
    auto& child = children[static_cast<std::size_t>(sender)];
    child = Process(send_all, there, sender);
    child.start();
  }
  std::array<int, kSenders> seen{};
  for (int i = 0; i < kSenders * kEach; ++i) {
    const Bytes message = here.recv_bytes();
    ASSERT_EQ(message.size(), kSize);
    const std::string_view text = message.view();
    ASSERT_EQ(text.find_first_not_of(text.front()), std::string_view::npos);
    ++seen[static_cast<std::size_t>(text.front() - 'a')];
  }
  for (const int count : seen) EXPECT_EQ(count, kEach);
  for (Process& child : children) child.join();
}

TEST_F(ListenerTest, WholeMessagesForManyReceivers) {
  constexpr int kReceivers = 4;
  constexpr int kMessages = 200;
  auto [here, there] = pair_over("AF_UNIX");
  const auto count_all = [](const Connection& connection) {
    int count = 0;
    for (;;) {
      const std::string message = connection.recv<std::string>();
      if (message == "stop") break;
      if (message != std::string(message.size(), 'x')) std::abort();
      ++count;
    }
    told()->fetch_add(count);
  };
  std::array<Process, kReceivers> children;
  for (Process& child : children) {
    child = Process(count_all, there);
    child.start();
  }
  there.close();
  for (int i = 0; i < kMessages; ++i) here.send(std::string(static_cast<std::size_t>(i * 97), 'x'));
  for (int i = 0; i < kReceivers; ++i) here.send("stop");
  for (Process& child : children) {
    child.join();
    EXPECT_EQ(child.exitcode(), 0);
  }
  EXPECT_EQ(told()->load(), kMessages);
}

// A sender that is killed inside a message: everybody learns that there is nothing behind it.
TEST_F(ListenerTest, AMessageThatIsCutOffByAKillEndsTheDirection) {
  auto [here, there] = pair_over("AF_UNIX");
  Process child([](const Connection& end) { end.send_bytes(std::string(10'000'000, 'x')); }, there);
  child.start();
  EXPECT_TRUE(here.poll(std::nullopt));  // inside, and it cannot end: nobody reads
  child.kill();
  child.join();
  EXPECT_EQ(errno_of([&, &end = there] { end.send(1); }), EIO);
  here.send("the other direction");
  EXPECT_EQ(there.recv<std::string>(), "the other direction");
  there.close();
  EXPECT_EQ(errno_of([&, &end = here] { (void)end.recv_bytes(); }), EIO);
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
