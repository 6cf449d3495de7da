// Connections sent over sockets between this library and CPython, both ways. N13
// Python's counterpart: _TestPicklingConnections.
#include <filesystem>
#include <millrace/managers.hpp>

#include "tests/api/sharer_support.hpp"
#include "tests/interop/python_peer.hpp"

namespace millrace::test {
namespace {

class TravelTest : public SharerTest, public ::testing::WithParamInterface<Meeting> {};

// What carries Connections: its peer has proved a key, or is a process of this user.
const Meeting kCarriers[] = {{true, "AF_UNIX", "secret"},
                             {true, "AF_INET", "secret"},
                             {false, "AF_UNIX", ""},
                             {false, "AF_INET", "secret"}};

INSTANTIATE_TEST_SUITE_P(Interop, TravelTest, ::testing::ValuesIn(kCarriers));

const char* const kFamilies[] = {"AF_UNIX", "AF_INET"};

TEST_P(TravelTest, OursGoesToCPython) {
  const Meet meet(GetParam());
  for (const char* family : kFamilies) {
    auto [here, there] = pair_over(family);
    meet->send(Tuple{"take"});
    meet->send(there);
    there.close();
    EXPECT_EQ(meet->recv(), (Tuple{"Connection", true, true}));
    meet->send(Tuple{"talk", 3});
    for (const Object& value : {Object("hello"), Object(List{1, None}), Object(Bytes(kLong))}) {
      here.send(value);
      EXPECT_TRUE(here.recv() == value);
    }
    meet->send(Tuple{"tell", "the last"});
    EXPECT_EQ(here.recv<std::string>(), "the last");
    EXPECT_THROW(here.recv(), EOFError);
  }
}

TEST_P(TravelTest, CPythonsComesToUs) {
  const Meet meet(GetParam());
  const std::pair<const char*, Object> kinds[] = {
      {"socket", "AF_UNIX"}, {"socket", "AF_INET"}, {"pipe", true}};
  for (const auto& [what, argument] : kinds) {
    meet->send(Tuple{"give", what, argument});
    const auto end = meet->recv<Connection>();
    EXPECT_TRUE(end.readable());
    EXPECT_TRUE(end.writable());
    meet->send(Tuple{"serve_given"});
    for (const Object& value : {Object("hello"), Object(Dict{{1, 2.5}}), Object(Bytes(kLong))}) {
      end.send(value);
      EXPECT_TRUE(end.recv() == value);
    }
    end.close();  // the only one: their echo ends
    meet->send(Tuple{"echo", what});
    EXPECT_EQ(meet->recv()[2], what);
  }
}

TEST_P(TravelTest, AnEndThatOnlyReceivesComesToUs) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give", "pipe", false});
  const auto end = meet->recv<Connection>();
  EXPECT_TRUE(end.readable());
  EXPECT_FALSE(end.writable());
  EXPECT_FALSE(end.poll());
  EXPECT_EQ(errno_of([&] { end.send(1); }), EBADF);
  meet->send(Tuple{"tell_given", 1, "two", Bytes(kLong)});
  EXPECT_TRUE(end.poll(std::nullopt));
  EXPECT_EQ(end.recv<int>(), 1);
  EXPECT_EQ(end.recv<std::string>(), "two");
  EXPECT_TRUE(end.recv<Bytes>() == Bytes(kLong));
  EXPECT_THROW(end.recv(), EOFError);
}

TEST_P(TravelTest, AnEndThatOnlySendsComesToUs) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give", "sender", false});
  const auto end = meet->recv<Connection>();
  EXPECT_FALSE(end.readable());
  EXPECT_TRUE(end.writable());
  EXPECT_EQ(errno_of([&] { (void)end.recv(); }), EBADF);
  meet->send(Tuple{"ask_given"});
  end.send(1);
  end.send(kLong);  // more than the pipe holds: CPython reads meanwhile
  end.close();
  EXPECT_TRUE(meet->recv() == Object(List{1, kLong}));
}

// Nobody reads any more: an error, and no signal.
TEST_P(TravelTest, APipeWithoutReaderIsBroken) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give", "sender", false});
  const auto end = meet->recv<Connection>();
  meet->send(Tuple{"tell_given"});
  EXPECT_EQ(errno_of([&] {
              for (;;) end.send(kLong);
            }),
            EPIPE);
}

// A pipe does not block here and blocks there, whoever had it first.
TEST_P(TravelTest, WhatCameFromCPythonGoesBack) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give", "sender", false});
  {
    const auto end = meet->recv<Connection>();
    meet->send(Tuple{"take"});
    meet->send(end);
  }
  EXPECT_EQ(meet->recv(), (Tuple{"Connection", false, true}));
  meet->send(Tuple{"tell", "round"});
  meet->send(Tuple{"ask_given"});
  EXPECT_EQ(meet->recv(), (List{"round"}));
  meet->send(Tuple{"give", "pipe", false});
  {
    const auto end = meet->recv<Connection>();
    meet->send(Tuple{"take"});
    meet->send(end);
  }
  EXPECT_EQ(meet->recv(), (Tuple{"Connection", true, false}));
  meet->send(Tuple{"tell_given", "and round"});
  meet->send(Tuple{"ask", 1});
  EXPECT_EQ(meet->recv(), (List{"and round"}));
}

TEST_P(TravelTest, ManyInOneMessage) {
  constexpr int kCount = 40;
  const Meet meet(GetParam());
  meet->send(Tuple{"give_many", kCount});
  const auto ends = meet->recv()["ends"].as<std::vector<Connection>>();
  ASSERT_EQ(ends.size(), kCount);
  for (int i = 0; i < kCount; ++i) meet->send(Tuple{"tell_given", kCount - 1 - i});
  for (int i = 0; i < kCount; ++i) {
    EXPECT_EQ(ends[static_cast<std::size_t>(i)].recv<int>(), i);
  }
}

TEST_P(TravelTest, EachIsTakenOnceAndTheCarrierLives) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give_twice"});
  const auto end = meet->recv<Connection>();
  EXPECT_EQ(errno_of([&] { (void)meet->recv(); }), ENOENT);
  meet->send(Tuple{"serve_given"});
  end.send(1);
  EXPECT_EQ(end.recv<int>(), 1);
  end.close();
  meet->send(Tuple{"echo", 1});
  EXPECT_EQ(meet->recv()[2], 1);
}

TEST_P(TravelTest, ASharerThatHasStoppedIsNamed) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give_and_stop"});
  meet->send(Tuple{"echo", 1});  // its answer: it has stopped
  EXPECT_TRUE(meet->poll(std::nullopt));
  try {
    (void)meet->recv();
    // Taken before it stopped.
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("cannot be had from its sender, at '"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(meet->recv()[2], 1);
}

TEST_P(TravelTest, ASenderThatIsDeadIsNamed) {
  const Folder folder;
  Meet meet(GetParam());
  meet->send(Tuple{"give_and_die", folder.file("")});
  EXPECT_EQ(meet.peer().rest(), "");  // its end
  EXPECT_EQ(errno_of([&] { (void)meet->recv(); }), ECONNREFUSED);
  EXPECT_THROW(meet->recv(), EOFError);
  for (const auto& left : std::filesystem::directory_iterator(folder.file(""))) {
    std::filesystem::remove(left);
  }
}

TEST_P(TravelTest, WhatIsNoConnectionIsRefused) {
  const Meet meet(GetParam());
  meet->send(Tuple{"give_what"});
  EXPECT_THROW(meet->recv(), UnpicklingError);
  meet->send(Tuple{"echo", 1});
  EXPECT_EQ(meet->recv()[2], 1);
}

TEST_P(TravelTest, AnotherAuthkeyIsSaidOnBothSides) {
  const Meet meet(GetParam());
  meet->send(Tuple{"authkey", Bytes("another")});
  meet->send(Tuple{"give", "socket", "AF_UNIX"});
  EXPECT_THROW(meet->recv(), AuthenticationError);
  auto [here, there] = pair_over("AF_UNIX");
  meet->send(Tuple{"authkey", Bytes("the program's")});
  meet->send(Tuple{"take_with_two_keys", Bytes("a wrong one")});
  meet->send(there);
  there.close();
  EXPECT_EQ(meet->recv(), "AuthenticationError");
  meet->send(Tuple{"tell", "with its own"});  // and it has waited for that one
  EXPECT_EQ(here.recv<std::string>(), "with its own");
}

TEST_P(TravelTest, AProxyComesToUs) {  // G30
  const Meet meet(GetParam());
  meet->send(Tuple{"give_proxy"});
  {
    const auto proxy = meet->recv<ListProxy>();
    proxy.append(4);
  }
  meet->send("appended");
  EXPECT_EQ(meet->recv(), (List{1, 2, 3, 4}));
}

// A peer that nobody knows makes this process dial nobody.
TEST_F(SharerTest, OverTcpWithoutKeyNothingIsFetched) {
  const Meet meet({true, "AF_INET", ""});
  meet->send(Tuple{"give", "socket", "AF_UNIX"});
  try {
    (void)meet->recv<Connection>();
    ADD_FAILURE();
  } catch (const TypeError& error) {
    EXPECT_NE(std::string(error.what()).find("proved the authkey"), std::string::npos)
        << error.what();
  }
  meet->send(Tuple{"give", "socket", "AF_UNIX"});
  EXPECT_EQ(meet->recv().type_name(), "rebuild_connection");
}

}  // namespace
}  // namespace millrace::test
