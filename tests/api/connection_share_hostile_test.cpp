// Connections sent over sockets by peers that lie, to receivers and to sharers.
#include <fcntl.h>

#include <millrace/fd.hpp>

#include "tests/api/sharer_support.hpp"

namespace millrace::test {
namespace {

/// A message as CPython would send it, that names a place where a Connection is to be had.
std::string pickle_of(const std::string& address, int key, const char* flags = "\x88\x88") {
  const auto text = [](const std::string& value) {
    return std::string("\x8c") + static_cast<char>(value.size()) + value;
  };
  return "\x80\x04"
         "cmultiprocessing.connection\nrebuild_connection\n"
         "cmultiprocessing.resource_sharer\nDupFd\n)\x81}" +
         text("_id") + address + "K" + static_cast<char>(key) +
         "\x86"
         "sb" +
         flags + "\x87R.";
}
std::string path_in_pickle(const std::string& path) {
  return std::string("\x8c") + static_cast<char>(path.size()) + path;
}

TEST_F(SharerTest, OnlySocketsOfThisMachineAreCalled) {
  auto [give, take] = carrier();
  const auto refused = [&, &give = give, &take = take](const std::string& message) {
    give.send_bytes(message);
    EXPECT_THROW(take.recv(), UnpicklingError);
  };
  refused(
      pickle_of("\x8c\x09"
                "127.0.0.1"
                "K\x01\x86",
                1));
  refused(pickle_of("\x8c\x00" + std::string(), 1));
  refused(pickle_of(path_in_pickle("/tmp/nobody"), 1, "\x89\x89"));
  give.send_bytes(pickle_of(path_in_pickle("/tmp/nobody"), 1));
  EXPECT_EQ(errno_of([&, &take = take] { (void)take.recv(); }), ENOENT);
}

/// A listener of AF_UNIX that a message names, and what it says to who calls.
template <class Say>
void meet_listener(const Connection& give, Say say) {
  const Folder folder;
  const std::string path = folder.file("listener");
  {
    const Listener listener(
        {.address = path, .authkey = Bytes("the program's"), .handshake_timeout = kPatient});
    give.send_bytes(pickle_of(path_in_pickle(path), 7));
    say(listener);
  }
}

template <class Test>
void with_false_sharer(std::size_t descriptors, int fd, char count, Test test) {
  auto [give, take] = carrier();
  meet_listener(give, [&, &take = take](const Listener& listener) {
    auto taken = std::async(std::launch::async, [&] { test(take); });
    const Connection caller = listener.accept();
    EXPECT_EQ(caller.recv(), (Tuple{7, ::getpid()}));
    iovec content{&count, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &content;
    message.msg_iovlen = 1;
    const std::size_t bytes = descriptors * sizeof(int);
    if (descriptors > 0) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(bytes);
      cmsghdr* const head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(bytes);
      for (std::size_t i = 0; i < descriptors; ++i) {
        std::memcpy(CMSG_DATA(head) + i * sizeof fd, &fd, sizeof fd);
      }
    }
    EXPECT_EQ(::sendmsg(caller.fileno(), &message, 0), 1);
    taken.get();
  });
  give.send(1);
  EXPECT_EQ(take.recv<int>(), 1);
}

TEST_F(SharerTest, WhatAFalseSharerSendsIsRefused) {
  const auto fails_with = [](int error) {
    return
        [error](const Connection& take) { EXPECT_EQ(errno_of([&] { (void)take.recv(); }), error); };
  };
  const auto is_none = [](const Connection& take) { EXPECT_THROW(take.recv(), UnpicklingError); };
  with_false_sharer(0, -1, 1, fails_with(EPROTO));
  with_false_sharer(2, 0, 2, fails_with(EPROTO));
  with_false_sharer(4, 0, 1, fails_with(EPROTO));
  const Fd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  with_false_sharer(1, file.get(), 1, is_none);
  const Fd datagrams(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  with_false_sharer(1, datagrams.get(), 1, is_none);
  const Fd packets(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  with_false_sharer(1, packets.get(), 1, is_none);
}

TEST_F(SharerTest, AListenerWithAnotherKeyIsNotBelieved) {
  auto [give, take] = carrier();
  const Folder folder;
  const std::string path = folder.file("listener");
  const Listener listener({.address = path, .authkey = Bytes("another")});
  give.send_bytes(pickle_of(path_in_pickle(path), 1));
  auto accepted =
      std::async(std::launch::async, [&] { EXPECT_THROW(listener.accept(), AuthenticationError); });
  EXPECT_THROW(take.recv(), AuthenticationError);
  accepted.get();
}

// Who is silent costs a receiver five seconds, not its connection.
TEST_F(SharerTest, ASilentListenerIsGivenUp) {
  auto [give, take] = carrier();
  const Folder folder;
  const std::string path = folder.file("listener");
  const Listener listener({.address = path, .backlog = 4});  // nobody is in accept()
  const std::string one = pickle_of(path_in_pickle(path), 1);
  give.send_bytes(one);
  EXPECT_EQ(errno_of([&, &take = take] { (void)take.recv(); }), ETIMEDOUT);
  give.send(1);
  EXPECT_EQ(take.recv<int>(), 1);
}

// Nothing is said to a listener of another user's: not even the answer to a challenge.
TEST_F(SharerTest, AnotherUsersListenerHearsNothing) {
  if (::geteuid() != 0) return;  // only the superuser has another user at hand
  auto [give, take] = carrier();
  const std::string path = std::string(1, '\0') + "millrace-test-" + std::to_string(::getpid());
  Gate ready;
  Process stranger([&] {
    if (::setresuid(65534, 65534, 65534) != 0) std::_Exit(1);
    const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    path.copy(to.sun_path, path.size());
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&to), size) != 0) std::_Exit(2);
    if (::listen(socket.get(), 1) != 0) std::_Exit(3);
    ready.open();
    const RawPeer caller(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    caller.send_frame("#CHALLENGE#{sha256}" + std::string(40, 'x'));
    told()->store(static_cast<int>(caller.read_frame().size()) + 1);
  });
  stranger.start();
  ready.wait();
  give.send_bytes(pickle_of("C" + std::string(1, static_cast<char>(path.size())) + path, 1));
  EXPECT_EQ(errno_of([&, &take = take] { (void)take.recv(); }), EPERM);
  stranger.join();
  EXPECT_EQ(stranger.exitcode(), 0);
  EXPECT_EQ(told()->load(), 1);
}

// Who calls a sharer and says nothing, or nonsense, or that it should stop, disturbs nobody.
TEST_F(SharerTest, CallersThatWantNothingDisturbNobody) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  give.send(there);
  const Bytes message = take.recv_bytes();
  const std::string_view text = message.view();
  const std::size_t start = text.find("/");
  const std::string path(text.substr(start, text.find("/socket") + 7 - start));
  const connection::ClientOptions options{.authkey = Bytes("the program's")};
  std::vector<Connection> callers;
  for (int i = 0; i < 8; ++i) callers.push_back(Client(path, options));
  callers[1].send_bytes("");
  callers[2].send_bytes(std::string(10'000, 'x'));
  callers[3].send_bytes("nonsense");
  callers[4].send(None);
  callers[5].send(Tuple{"one", 2});
  callers[6].send(Tuple{-1, 2});
  callers[7].send(Tuple{12345, 2});
  for (std::size_t i = 1; i < callers.size(); ++i) {
    EXPECT_ANY_THROW(callers[i].recv()) << i;
  }
  const RawPeer unknown{Address(path)};
  unknown.send("who are you");
  give.send_bytes(message);
  expect_talk(here, take.recv<Connection>());
}

}  // namespace
}  // namespace millrace::test
