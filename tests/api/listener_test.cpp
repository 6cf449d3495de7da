// Listener and Client between millrace's own ends. Python's counterparts: _TestListener,
// _TestListenerClient, TestInvalidFamily, _TestConnection (over sockets).
#include <array>
#include <cstddef>
#include <sstream>

#include "tests/api/listener_support.hpp"

namespace millrace::test {
namespace {

// Every family that this machine has, with whatever address a Listener chooses.
std::vector<std::string> families() {
  std::vector<std::string> all{"AF_UNIX", "AF_INET"};
  if (has_inet6()) all.emplace_back("AF_INET6");
  return all;
}

std::pair<Connection, Connection> connected(const Listener& listener,
                                            const connection::ClientOptions& options = {}) {
  auto caller = call(listener.address(), options);
  Connection here = listener.accept();
  return {std::move(here), caller.get()};
}

// _TestListener.test_multiple_bind, L01
TEST_F(ListenerTest, AnAddressIsTakenOnce) {
  for (const std::string& family : families()) {
    const Listener first({.family = family});
    try {
      const Listener second({.address = first.address(), .family = family});
      ADD_FAILURE() << family;
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), EADDRINUSE);
      EXPECT_NE(std::string(error.what()).find(first.address().repr()), std::string::npos)
          << error.what();
    }
  }
}

// L01, L03
TEST_F(ListenerTest, AClosedListenersAddressIsFree) {
  const Folder folder;
  const Listener first({.address = folder.file("s")});
  first.close();
  const Listener second({.address = folder.file("s")});
}

// _TestListener.test_context, L02-L06
TEST_F(ListenerTest, CarriesValuesBothWaysAndIsClosedAtItsEnd) {
  for (const std::string& family : families()) {
    Address address;
    {
      const Listener listener({.family = family});
      address = listener.address();
      auto [here, there] = connected(listener);
      there.send(1729);
      EXPECT_EQ(here.recv(), 1729);
      here.send(List{42, None, "hello"});
      EXPECT_EQ(there.recv<List>(), (List{42, None, "hello"}));
    }
    EXPECT_THROW(Client(address), std::system_error);
  }
}

// **beyond** Python, where it waits for ever: the kernel has no limit for AF_UNIX.
TEST_F(ListenerTest, AClientGivesUpOnAListenerWhoseQueueIsFullL07) {
  const Listener listener({.backlog = 1});
  std::vector<Connection> waiting;
  for (bool full = false; !full;) {
    try {
      waiting.push_back(Client(listener.address(), {.handshake_timeout = milliseconds(20)}));
      ASSERT_LT(waiting.size(), 16U);
    } catch (const TimeoutError& error) {
      full = true;
      EXPECT_NE(std::string(error.what()).find(listener.address().repr()), std::string::npos)
          << error.what();
    }
  }
  auto late = call(listener.address(), {.handshake_timeout = kPatient});
  for (std::size_t i = 0; i <= waiting.size(); ++i) (void)listener.accept();
  (void)late.get();
}

// _TestListenerClient.test_listener_client, L02, L07
TEST_F(ListenerTest, AChildProcessIsAClient) {
  const Listener listener;
  Process child(
      [](const Address& address) {
        const Connection connection = Client(address);
        connection.send("hello");
      },
      listener.address());
  child.start();
  const Connection connection = listener.accept();
  EXPECT_EQ(connection.recv<std::string>(), "hello");
  EXPECT_THROW(connection.recv(), EOFError);
  EXPECT_TRUE(child.join());
  EXPECT_EQ(child.exitcode(), 0);
}

// _TestListenerClient.test_issue14725: the client has gone before it is accepted
TEST_F(ListenerTest, WhatAClientSentBeforeItWentIsRead) {
  const Listener listener;
  {
    const Connection gone = Client(listener.address());
    gone.send("hello");
  }
  const Connection connection = listener.accept();
  EXPECT_EQ(connection.recv<std::string>(), "hello");
  EXPECT_THROW(connection.recv(), EOFError);
}

// _TestListenerClient.test_issue16955: poll() of a Connection that has data
TEST_F(ListenerTest, PollSeesWhatIsThere) {
  for (const std::string& family : families()) {
    const Listener listener({.family = family});
    auto [here, there] = connected(listener);
    EXPECT_FALSE(here.poll());
    EXPECT_FALSE(here.poll(milliseconds(1)));
    there.send_bytes("hello");
    EXPECT_TRUE(here.poll(std::nullopt));
    EXPECT_TRUE(here.poll());
    EXPECT_EQ(here.recv_bytes(), "hello");
    EXPECT_FALSE(here.poll());
    there.close();
    EXPECT_TRUE(here.poll(std::nullopt));
    EXPECT_THROW(here.recv_bytes(), EOFError);
  }
}

// TestInvalidFamily, L14
TEST_F(ListenerTest, FamiliesThatAreNotKnownAreRefused) {
  EXPECT_THROW(Listener({.address = "\\\\.\\test"}), ValueError);
  EXPECT_THROW(Client("\\\\.\\pipe\\test"), ValueError);
  EXPECT_THROW(Listener({.family = "AF_PIPE"}), ValueError);
  EXPECT_THROW(Listener({.family = "inet"}), ValueError);
  EXPECT_THROW(Listener({.address = "/tmp/s", .family = "AF_INET"}), ValueError);
  EXPECT_THROW(Client({"localhost", 1}, {.family = "AF_UNIX"}), ValueError);
}

// L01, L12
TEST_F(ListenerTest, WithoutAddressItHasAPrivatePathThatGoesWithIt) {
  std::string path;
  {
    const Listener listener;
    path = listener.address().path();
    struct stat file {};
    ASSERT_EQ(::lstat(path.c_str(), &file), 0);
    EXPECT_TRUE(S_ISSOCK(file.st_mode));
    EXPECT_EQ(file.st_mode & 0777, 0600U);
    ASSERT_EQ(::lstat(path.substr(0, path.rfind('/')).c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0700U);
  }
  EXPECT_FALSE(exists_path(path));
  EXPECT_FALSE(exists_path(path.substr(0, path.rfind('/'))));
}

// L01
TEST_F(ListenerTest, ThePathIsUnlinkedByItsMakerOnly) {
  const Folder folder;
  const Listener listener({.address = folder.file("s")});
  EXPECT_EQ(listener.address().path(), folder.file("s"));
  Process child([&] { listener.close(); });  // its copy of it
  child.start();
  child.join();
  EXPECT_TRUE(exists_path(folder.file("s")));
  auto [here, there] = connected(listener);
  listener.close();
  EXPECT_FALSE(exists_path(folder.file("s")));
  there.send(1);
  EXPECT_EQ(here.recv<int>(), 1);
}

TEST_F(ListenerTest, APathThatMeansAnotherSocketByNowStays) {
  const Folder folder;
  const Listener first({.address = folder.file("s")});
  ASSERT_EQ(::unlink(folder.file("s").c_str()), 0);
  const Listener second({.address = folder.file("s")});
  first.close();
  EXPECT_TRUE(exists_path(folder.file("s")));
  const auto pair = connected(second);
}

// L13
TEST_F(ListenerTest, AnAbstractNameIsNoFile) {
  const std::string name = std::string("\0millrace-test-", 15) + std::to_string(::getpid());
  const Listener listener({.address = name});
  EXPECT_EQ(listener.address().path(), name);
  auto [here, there] = connected(listener);
  here.send(1);
  EXPECT_EQ(there.recv<int>(), 1);
}

// L03
TEST_F(ListenerTest, OnceClosedItSaysSo) {
  const Listener listener;
  listener.close();
  listener.close();
  try {
    listener.accept();
    ADD_FAILURE();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), EBADF);
    EXPECT_NE(std::string(error.what()).find("listener is closed"), std::string::npos);
  }
}

TEST_F(ListenerTest, OnceMovedFromItSaysSo) {
  Listener listener;
  const Address address = listener.address();
  const Listener other(std::move(listener));
  EXPECT_EQ(other.address(), address);
  // NOLINTBEGIN(bugprone-use-after-move): what is asked here
  EXPECT_THROW(listener.accept(), ValueError);
  EXPECT_THROW((void)listener.last_accepted(), ValueError);
  EXPECT_TRUE(listener.address().empty());
  listener.close();
  // NOLINTEND(bugprone-use-after-move)
  auto [here, there] = connected(other);
  here.send(1);
  EXPECT_EQ(there.recv<int>(), 1);
}

TEST_F(ListenerTest, CloseEndsAcceptsThatWait) {
  const Listener listener;
  std::vector<std::future<int>> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.push_back(
        std::async(std::launch::async, [&] { return errno_of([&] { (void)listener.accept(); }); }));
  }
  listener.close();
  for (auto& each : waiting) EXPECT_EQ(each.get(), EBADF);
}

// L02
TEST_F(ListenerTest, AcceptEndsAtItsTimeout) {
  const Listener listener;
  EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
  EXPECT_THROW(listener.accept(milliseconds(5)), TimeoutError);
  EXPECT_THROW(listener.accept(-seconds(1)), TimeoutError);
  const auto pair = connected(listener);
}

// L04, L05, L11
TEST_F(ListenerTest, KnowsWhereItListensAndWhoCame) {
  const Listener listener({.address = {"localhost", 0}, .family = "AF_INET"});
  EXPECT_EQ(listener.address().host(), "127.0.0.1");
  EXPECT_GT(listener.address().port(), 0);
  EXPECT_FALSE(listener.last_accepted());
  const auto pair = connected(listener);
  ASSERT_TRUE(listener.last_accepted());
  EXPECT_EQ(listener.last_accepted()->host(), "127.0.0.1");
  EXPECT_NE(listener.last_accepted()->port(), listener.address().port());

  const Listener other;
  const auto more = connected(other);
  EXPECT_FALSE(other.last_accepted());
}

TEST_F(ListenerTest, Inet6IsThereOrTheErrorSaysSo) {
  if (!has_inet6()) {
    EXPECT_THROW(Listener({.address = {"::1", 0}, .family = "AF_INET6"}), std::system_error);
    return;
  }
  const Listener listener({.address = {"::1", 0}, .family = "AF_INET6"});
  EXPECT_EQ(listener.address().repr(),
            "('::1', " + std::to_string(listener.address().port()) + ", 0, 0)");
  const auto pair = connected(listener);
  const auto by_name = call({"::1", listener.address().port()}, {.family = "AF_INET6"});
  const Connection accepted = listener.accept();
}

TEST_F(ListenerTest, AddressesAreWrittenAsPythonDoes) {
  std::ostringstream text;
  text << Address("localhost", 6000) << Address("/tmp/s") << Address();
  EXPECT_EQ(text.str(), "('localhost', 6000)/tmp/sNone");
  EXPECT_EQ(Address("/tmp/s").repr(), "'/tmp/s'");
  EXPECT_EQ(Address(std::string("\0a", 2)).repr(), "b'\\x00a'");
}

TEST_F(ListenerTest, BadAddressesAreNamedInTheError) {
  const std::string longest(120, 'x');
  EXPECT_EQ(errno_of([&] { Listener({.address = longest}); }), ENAMETOOLONG);
  EXPECT_EQ(errno_of([&] { Client("/nowhere/at/all"); }), ENOENT);
  EXPECT_EQ(errno_of([&] { Listener({.address = {"192.0.2.1", 0}}); }), EADDRNOTAVAIL);
  EXPECT_EQ(errno_of([&] { Client({"::1", 1}, {.family = "AF_INET"}); }), EADDRNOTAVAIL);
  EXPECT_THROW(Client({"localhost", 65536}), OverflowError);
  EXPECT_THROW(Listener({.address = {"localhost", -1}}), OverflowError);
  EXPECT_THROW(Listener({.address = ""}), ValueError);
  const BoundPort nobody;
  const int port = nobody.number();
  try {
    const Connection none = Client({"localhost", port});
    ADD_FAILURE();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), ECONNREFUSED);
    EXPECT_NE(std::string(error.what()).find(std::to_string(port)), std::string::npos);
  }
}

TEST_F(ListenerTest, ManyClientsAtOnceAreAllServed) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  std::vector<std::future<Connection>> callers;
  for (int i = 0; i < 32; ++i)
    callers.push_back(call(listener.address(), {.authkey = "key", .handshake_timeout = kPatient}));
  std::vector<Connection> here;
  for (int i = 0; i < 32; ++i) here.push_back(listener.accept());
  for (auto& each : callers) each.get().send(1);
  for (const Connection& each : here) EXPECT_EQ(each.recv<int>(), 1);
}

TEST_F(ListenerTest, SeveralThreadsAcceptAndNobodyIsLost) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  std::vector<std::future<int>> acceptors;
  for (int i = 0; i < 4; ++i) {
    acceptors.push_back(std::async(std::launch::async, [&] {
      int sum = 0;
      for (int n = 0; n < 5; ++n) sum += listener.accept().recv<int>();
      return sum;
    }));
  }
  for (int i = 1; i <= 20; ++i) {
    const Connection connection =
        Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
    connection.send(i);
  }
  int sum = 0;
  for (auto& each : acceptors) sum += each.get();
  EXPECT_EQ(sum, 210);
}

TEST_F(ListenerTest, AForkedChildMayAcceptToo) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  const RawPeer half(listener.address());  // in the parent's hands, half way
  EXPECT_THROW(listener.accept(milliseconds(1)), TimeoutError);
  Process child([&] { listener.accept().send(::getpid()); });
  child.start();
  const Connection connection =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  EXPECT_EQ(connection.recv<int>(), child.pid());
  child.join();
}

}  // namespace
}  // namespace millrace::test
