// Connections and descriptors on their way: arguments, captures, messages, under fork and spawn.
// Ported: CPython's _TestPicklingConnections, _TestConnection.test_fd_transfer.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>
#include <millrace/connection.hpp>
#include <millrace/context.hpp>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "tests/leak_check.hpp"

namespace mp = millrace;

namespace {

class ConnectionTravelTest : public mp::test::LeakCheck {};

mp::Context& spawn() { return mp::get_context("spawn"); }

std::string read_all(int fd) {
  std::string all;
  std::array<char, 256> block{};
  for (;;) {
    const ssize_t got = ::read(fd, block.data(), block.size());
    if (got <= 0) return all;
    all.append(block.data(), static_cast<std::size_t>(got));
  }
}

struct KernelPipe {
  KernelPipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    r.reset(ends[0]);
    w.reset(ends[1]);
  }
  mp::Fd r;
  mp::Fd w;
};

TEST_F(ConnectionTravelTest, ArgumentsUnderSpawn) {  // N13, C02
  auto [a, b] = mp::Pipe();
  auto p = spawn().Process([](const mp::Connection& c) { c.send(c.recv<int>() + 1); }, b);
  p.start();
  b.close();
  a.send(41);
  EXPECT_EQ(a.recv<int>(), 42);
  EXPECT_THROW(a.recv(), mp::EOFError);
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ConnectionTravelTest, CapturesUnderSpawn) {  // N13
  auto [a, b] = spawn().Pipe();
  auto p = spawn().Process([b = b] { b.send("captured"); });
  p.start();
  b.close();
  EXPECT_EQ(a.recv<std::string>(), "captured");
  EXPECT_THROW(a.recv(), mp::EOFError);
  p.join();
}

TEST_F(ConnectionTravelTest, AKilledSpawnedPeerIsTheEnd) {
  auto [a, b] = mp::Pipe();
  auto p = spawn().Process(
      [](const mp::Connection& c) {
        c.send_bytes(std::string(300'000, 'x'));
        ::raise(SIGKILL);
      },
      b);
  p.start();
  b.close();
  EXPECT_EQ(a.recv_bytes().size(), 300'000U);
  EXPECT_THROW(a.recv(), mp::EOFError);
  p.join();
}

TEST_F(ConnectionTravelTest, FilenoInASpawnedProcess) {  // N03
  auto [a, b] = mp::Pipe();
  auto p = spawn().Process(
      [](const mp::Connection& c) {
        if (mp::connection::wait({c, c.fileno()}).empty()) throw mp::SystemExit(1);
        c.send(c.recv());
      },
      b);
  p.start();
  b.close();
  a.send("by its own bell");
  EXPECT_EQ(mp::connection::wait(std::vector<int>{a.fileno()}).size(), 1U);
  EXPECT_EQ(a.recv<std::string>(), "by its own bell");
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ConnectionTravelTest, PoolsTakeConnections) {  // N13, with captures copied to the arena
  auto [a, b] = mp::Pipe();
  mp::Pool pool({.processes = 2, .context = &mp::get_context("fork")});
  pool.apply([](const mp::Connection& c) { c.send(1); }, b);
  EXPECT_EQ(a.recv<int>(), 1);
  pool.map([b = b](int i) { b.send(i * i); }, std::vector<int>{1, 2, 3, 4});
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += a.recv<int>();
  EXPECT_EQ(sum, 30);
  const auto made = pool.apply([] { return mp::Pipe(); });
  made.first.send("made by a worker");
  EXPECT_EQ(made.second.recv<std::string>(), "made by a worker");
}

TEST_F(ConnectionTravelTest, SocketsTravelAsPipesDo) {  // N13
  const mp::connection::Listener listener;
  auto client = mp::connection::Client(listener.address());
  auto server = listener.accept();
  auto p = spawn().Process([](const mp::Connection& c) { c.send("as an argument"); }, client);
  p.start();
  EXPECT_EQ(server.recv<std::string>(), "as an argument");
  p.join();
  auto [a, b] = mp::Pipe();
  auto q = spawn().Process(
      [](const mp::Connection& way) { way.recv<mp::Connection>().send("over a pipe"); }, b);
  q.start();
  a.send(client);
  client.close();
  EXPECT_EQ(server.recv<std::string>(), "over a pipe");
  EXPECT_THROW(server.recv(), mp::EOFError);
  q.join();
  EXPECT_EQ(q.exitcode(), 0);
}

TEST_F(ConnectionTravelTest, DescriptorsOverConnections) {  // N13: test_fd_transfer
  auto [a, b] = mp::Pipe();
  KernelPipe pipe;
  a.send(pipe.w);
  pipe.w.reset();
  {
    const auto w = b.recv<mp::Fd>();
    ASSERT_EQ(::write(w.get(), "through", 7), 7);
  }
  EXPECT_EQ(read_all(pipe.r.get()), "through");
  EXPECT_THROW(a.send(mp::Fd()), std::system_error);
}

TEST_F(ConnectionTravelTest, ManyDescriptorsInAnyOrder) {
  auto [a, b] = mp::Pipe();
  auto [c, d] = mp::Pipe();
  std::vector<KernelPipe> pipes(20);
  for (std::size_t i = 0; i < pipes.size(); ++i) {
    (i % 2 == 0 ? a : c).send(pipes[i].w);
    pipes[i].w.reset();
  }
  for (const std::size_t odd : {1U, 0U}) {
    for (std::size_t i = odd; i < pipes.size(); i += 2) {
      const auto w = (odd == 0 ? b : d).recv<mp::Fd>();
      const std::string text = std::to_string(i);
      ASSERT_EQ(::write(w.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    }
  }
  for (std::size_t i = 0; i < pipes.size(); ++i) {
    EXPECT_EQ(read_all(pipes[i].r.get()), std::to_string(i));
  }
}

TEST_F(ConnectionTravelTest, WhatAProcessHasNoDescriptorForIsClosed) {
  auto [a, b] = mp::Pipe();
  KernelPipe files;
  a.send(files.w);
  files.w.reset();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  std::exception_ptr refused;
  try {
    (void)b.recv<mp::Fd>();
  } catch (...) {
    refused = std::current_exception();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(refused);
  try {  // looked at with descriptors: a sanitizer takes one for it
    std::rethrow_exception(refused);
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), EMFILE);
  }
  EXPECT_EQ(read_all(files.r.get()), "") << "nobody writes";
  KernelPipe others;
  a.send(others.r);
  others.r.reset();
  const auto received = b.recv<mp::Fd>();
  others.w.reset();
  EXPECT_EQ(read_all(received.get()), "");
}

TEST_F(ConnectionTravelTest, UnreadDescriptorsAreClosed) {
  KernelPipe pipe;
  {
    auto [a, b] = mp::Pipe();
    a.send(pipe.w);
    a.send(pipe.w);
    pipe.w.reset();
    EXPECT_THROW(b.recv<int>(), mp::TypeError);
  }
  EXPECT_EQ(read_all(pipe.r.get()), "");
}

TEST_F(ConnectionTravelTest, DescriptorsOfASenderThatHasEnded) {
  auto [a, b] = mp::Pipe();
  KernelPipe pipe;
  mp::Process p([a = a, &pipe] { a.send(pipe.w); });
  p.start();
  p.join();
  pipe.w.reset();
  {
    const auto w = b.recv<mp::Fd>();
    ASSERT_EQ(::write(w.get(), "late", 4), 4);
  }
  EXPECT_EQ(read_all(pipe.r.get()), "late");
}

TEST_F(ConnectionTravelTest, DescriptorsAsArgumentsUnderSpawn) {
  KernelPipe pipe;
  auto p = spawn().Process(
      [](const mp::Fd& fd) {
        if (::write(fd.get(), "argument", 8) != 8) throw mp::SystemExit(1);
      },
      std::move(pipe.w));
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(read_all(pipe.r.get()), "argument");
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
