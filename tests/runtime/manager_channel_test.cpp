// A client's connection to a manager's server: when another thread may take it away, and what is
// told by it once.
#include <gtest/gtest.h>

#include <millrace/connection.hpp>
#include <millrace/listener.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/managers/manager_link.hpp"
#include "tests/leak_check.hpp"

namespace millrace::runtime {
namespace {

class ManagerChannelTest : public test::LeakCheck {
 protected:
  // A call that has ended.
  void called(const std::string& id, std::string_view method, const Object& value = {},
              const char* kind = "#RETURN") {
    ASSERT_TRUE(channel_.use());
    channel_.note(id, method, {kind, value});
    channel_.used();
  }

  std::pair<Connection, Connection> ends_ = Pipe();
  ManagerChannel channel_{std::move(ends_.first)};
};

TEST_F(ManagerChannelTest, AnIdleOneIsTakenForGood) {
  called("1", "append");
  EXPECT_TRUE(channel_.take_away());
  EXPECT_FALSE(channel_.use());
  EXPECT_FALSE(channel_.take_away());
}

TEST_F(ManagerChannelTest, OneInACallIsNotTaken) {
  ASSERT_TRUE(channel_.use());
  EXPECT_FALSE(channel_.take_away());
  channel_.used();
  EXPECT_TRUE(channel_.take_away());
}

TEST_F(ManagerChannelTest, AReleaseOfSomethingElseLeavesALockHeld) {
  called("lock", "acquire", true);
  called("semaphore", "release");
  called("a type of its own", "__exit__");
  EXPECT_FALSE(channel_.take_away());
  called("lock", "release");
  EXPECT_TRUE(channel_.take_away());
}

TEST_F(ManagerChannelTest, ALockIsHeldAsOftenAsItWasTaken) {
  called("lock", "acquire", true);
  called("lock", "__enter__", true);
  called("other", "__enter__");  // a type of one's own returns anything
  called("lock", "release");
  EXPECT_FALSE(channel_.take_away());
  called("lock", "__exit__");
  EXPECT_FALSE(channel_.take_away());
  called("other", "__exit__");
  EXPECT_TRUE(channel_.take_away());
}

TEST_F(ManagerChannelTest, WhatFailedHoldsNothingAndGivesNothingBack) {
  called("lock", "acquire", false);
  called("other", "acquire", true);
  called("other", "release", {}, "#ERROR");
  EXPECT_FALSE(channel_.take_away());
  called("other", "release");
  called("lock", "acquire", true, "#ERROR");
  EXPECT_TRUE(channel_.take_away());
}

// A server of CPython's that answers a decref by what is no reply. X07
TEST(ManagerLinkTest, WhatWasSentIsNotSentAgain) {
  const connection::Listener listener({.authkey = "key"});
  int decrefs = 0;
  std::thread server([&] {
    std::vector<Connection> open;
    for (std::string method; method != "number_of_objects";) {
      open.push_back(listener.accept());
      method = open.back().recv<Object>()[1].as<std::string>();
      const bool decref = method == "decref";
      decrefs += decref ? 1 : 0;
      open.back().send(decref ? Object(7) : Object(Tuple{"#RETURN", Object()}));
    }
  });
  const auto link = ManagerLink::to({listener.address(), "key", true});
  link->adopt("1");
  link->decref("1");
  link->call_server("number_of_objects", {});
  server.join();
  EXPECT_EQ(decrefs, 1);
}

}  // namespace
}  // namespace millrace::runtime
