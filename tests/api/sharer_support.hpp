// What the tests of Connections sent over sockets share.
#pragma once

#include <sched.h>
#include <sys/stat.h>

#include <millrace/process.hpp>
#include <string>
#include <utility>

#include "tests/api/listener_support.hpp"

namespace millrace::test {

inline const std::string kLong(300'000, 'x');  // more than a socket or pipe holds at once

/// Two ends of a socket, without a key.
inline std::pair<Connection, Connection> pair_over(const char* family,
                                                   std::optional<Bytes> key = {}) {
  const Listener listener({.family = family, .authkey = key, .handshake_timeout = kPatient});
  auto caller = call(listener.address(), {.authkey = key, .handshake_timeout = kPatient});
  Connection here = listener.accept();
  return {std::move(here), caller.get()};
}

/// Both ends of a socket that carries others, known to each other.
inline std::pair<Connection, Connection> carrier(const char* family = "AF_UNIX") {
  return pair_over(family, Bytes("key"));
}

inline void expect_talk(const Connection& a, const Connection& b) {
  a.send(1);
  EXPECT_EQ(b.recv<int>(), 1);
  b.send("back");
  EXPECT_EQ(a.recv<std::string>(), "back");
}

/// What the error of a call says; "" when it throws none.
template <class Call>
std::string what_of(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

inline long threads() {
  struct stat tasks {};
  return ::stat("/proc/self/task", &tasks) == 0 ? static_cast<long>(tasks.st_nlink) : -1;
}

/// Behind each test the sharer, which ends with what waits in it, has ended.
class SharerTest : public ListenerTest {
 protected:
  void SetUp() override {
    current_process().authkey("the program's");
    ListenerTest::SetUp();
    before_ = threads();
  }
  void TearDown() override {
    while (threads() > before_) ::sched_yield();
    ListenerTest::TearDown();
  }

 private:
  long before_ = 0;
};

}  // namespace millrace::test
