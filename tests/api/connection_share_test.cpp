// Connections sent over sockets, as CPython sends them. With CPython itself at either end:
// interop/connection_travel_interop_test.
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>

#include <cstdio>
#include <millrace/fd.hpp>

#include "tests/api/sharer_support.hpp"

namespace millrace::test {
namespace {

const char* const kFamilies[] = {"AF_UNIX", "AF_INET"};

int server_folders(const std::string& path) {
  int count = 0;
  DIR* const all = ::opendir(path.c_str());
  while (const dirent* const entry = ::readdir(all)) {
    count += std::string_view(entry->d_name).starts_with("millrace-server-") ? 1 : 0;
  }
  ::closedir(all);
  return count;
}

TEST_F(SharerTest, ASocketGoesOverASocket) {  // N13
  for (const char* way : kFamilies) {
    for (const char* family : kFamilies) {
      auto [give, take] = carrier(way);
      auto [here, there] = pair_over(family);
      give.send(there);
      there.close();
      const auto arrived = take.recv<Connection>();
      EXPECT_TRUE(arrived.readable());
      EXPECT_TRUE(arrived.writable());
      expect_talk(here, arrived);
      arrived.close();
      EXPECT_THROW(here.recv(), EOFError);
    }
  }
}

TEST_F(SharerTest, WithinOtherValues) {
  auto [give, take] = carrier();
  auto [a, b] = pair_over("AF_UNIX");
  auto [c, d] = pair_over("AF_UNIX");
  give.send(Dict{{"ends", List{b, d}}, {"again", b}});
  b.close();
  d.close();
  const Object arrived = take.recv();
  expect_talk(a, arrived["ends"][0].as<Connection>());
  expect_talk(c, arrived["ends"][1].as<Connection>());
  expect_talk(a, arrived["again"].as<Connection>());
  EXPECT_TRUE(arrived["ends"][0].is<Connection>());
}

TEST_F(SharerTest, AnotherProcessTakesItAndPassesItOn) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_INET");
  Process child(
      [](const Connection& way) {
        const auto got = way.recv<Connection>();
        got.send("from the child");
        Process next([](const Connection& end) { end.send("and its child"); }, got);
        next.start();
        next.join();
        way.send(got);     // back
        (void)way.recv();  // taken
      },
      take);
  child.start();
  take.close();
  give.send(there);
  there.close();
  EXPECT_EQ(here.recv<std::string>(), "from the child");
  EXPECT_EQ(here.recv<std::string>(), "and its child");
  const auto back = give.recv<Connection>();
  give.send(None);
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  expect_talk(here, back);
}

TEST_F(SharerTest, WhatHasNoMeaningElsewhereIsRefused) {
  auto [give, take] = carrier();
  auto [a, b] = Pipe();
  EXPECT_THROW(give.send(a), TypeError);
  EXPECT_NE(what_of([&, &give = give, &a = a] { give.send(a); }).find("an end of a Pipe"),
            std::string::npos);
  EXPECT_THROW(give.send(List{1, a}), TypeError);
  EXPECT_THROW(give.send(Fd(::dup(0))), TypeError);
  auto [c, d] = pair_over("AF_UNIX");
  EXPECT_THROW(give.send(List{c, a}), TypeError);  // the first leaves nothing
  c.close();
  EXPECT_EQ(errno_of([&, &give = give, &c = c] { give.send(c); }), EBADF);
  EXPECT_THROW(d.recv(), EOFError);
  give.send(1);
  EXPECT_EQ(take.recv<int>(), 1);
}

// With a key of no bytes CPython's sender and receiver wait for each other for ever.
TEST_F(SharerTest, AnEmptyKeyOfTheProgramIsRefusedAndLeavesNothing) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  current_process().authkey("");
  EXPECT_THROW(give.send(there), ValueError);
  give.send(1);
  EXPECT_EQ(take.recv<int>(), 1);
  current_process().authkey("again");
  give.send(there);
  expect_talk(here, take.recv<Connection>());
}

TEST_F(SharerTest, AMessageThatIsNotSentLeavesNothing) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  take.close();
  EXPECT_EQ(errno_of([&, &give = give, &there = there] {
              for (;;) give.send(there);
            }),
            EPIPE);
  there.close();
  EXPECT_THROW(here.recv(), EOFError);
}

TEST_F(SharerTest, EachIsTakenOnce) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  auto [other, kept] = pair_over("AF_UNIX");
  give.send(there);
  give.send(kept);  // the sharer goes on
  const Bytes message = take.recv_bytes();
  give.send_bytes(message);
  give.send_bytes(message);
  const auto also = take.recv<Connection>();
  const auto arrived = take.recv<Connection>();
  expect_talk(here, arrived);
  EXPECT_EQ(errno_of([&, &take = take] { (void)take.recv(); }), ENOENT);
  give.send(1);
  EXPECT_EQ(take.recv<int>(), 1);
}

// Also through memory, where peers that know each other have long messages.
TEST_F(SharerTest, LongMessagesOfOneThatWasGivenAway) {
  auto [give, take] = carrier();
  auto [here, there] = carrier();
  give.send(there);
  const auto arrived = take.recv<Connection>();
  for (int i = 0; i < 3; ++i) {
    auto sender = std::async(std::launch::async, [&here = here] { here.send(kLong); });
    EXPECT_EQ((i % 2 == 0 ? arrived : there).recv<std::string>(), kLong);
    sender.get();
    auto back = std::async(std::launch::async, [&] { arrived.send(kLong); });
    EXPECT_EQ(here.recv<std::string>(), kLong);
    back.get();
  }
}

TEST_F(SharerTest, NotOnceLongMessagesComeThroughMemory) {
  auto [give, take] = carrier();
  auto [here, there] = carrier();
  for (int i = 0; i < 2; ++i) {
    auto sender = std::async(std::launch::async, [&here = here] { here.send(kLong); });
    EXPECT_EQ(there.recv<std::string>(), kLong);
    sender.get();
  }
  EXPECT_THROW(give.send(there), TypeError);
  give.send(here);  // that end has received none
  here.close();
  expect_talk(there, take.recv<Connection>());
}

TEST_F(SharerTest, WithoutDescriptorsItSaysSo) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const Fd next(::fcntl(0, F_DUPFD_CLOEXEC, 0));
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(next.get());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const int refused = errno_of([&, &give = give, &there = there] { give.send(there); });
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(refused, EMFILE);
  give.send(there);
  expect_talk(here, take.recv<Connection>());
}

// A child that was forked meanwhile holds nothing and ends without removing the parent's socket.
TEST_F(SharerTest, AForkedChildHoldsNothing) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  give.send(there);
  there.close();
  Process brief([] {});
  brief.start();
  brief.join();
  Gate end;
  Process lasting([&end] { end.wait(); });
  lasting.start();
  expect_talk(here, take.recv<Connection>());
  EXPECT_THROW(here.recv(), EOFError);
  end.open();
  lasting.join();
}

TEST_F(SharerTest, AForkedChildHasASharerOfItsOwn) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  auto [other, kept] = pair_over("AF_UNIX");
  auto [child_gives, from_child] = carrier();
  give.send(there);
  Process child(
      [](const Connection& way, const Connection& end) {
        way.send(end);
        way.recv();
      },
      child_gives, kept);
  child.start();
  expect_talk(other, from_child.recv<Connection>());
  from_child.send("taken");
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  expect_talk(here, take.recv<Connection>());
}

TEST_F(SharerTest, AProcessThatEndsLeavesNoFile) {
  const Folder temporary;  // which can only be removed when it is empty
  const std::string path = temporary.file("");
  const Outcome outcome = run_program([&] {
    ::setenv("TMPDIR", path.c_str(), 1);
    auto [give, take] = carrier();
    auto [here, there] = pair_over("AF_UNIX");
    give.send(there);
    std::printf("%d", server_folders(path));
    Process child([] {});
    child.start();
    child.join();
    std::printf(" %d", server_folders(path));
  });
  EXPECT_EQ(outcome.out, "1 1");
  EXPECT_EQ(outcome.exitcode, 0) << outcome.err;
}

TEST_F(SharerTest, AProcessMayEndBeforeItsChildrenTake) {
  const Outcome outcome = run_program([] {
    auto [give, take] = carrier();
    auto [here, there] = pair_over("AF_UNIX");
    give.send(there);
    static Gate gate;
    static Process child([take = take] {
      gate.wait();
      take.recv<Connection>().send("taken");
      std::printf("taken");
    });
    child.start();
    gate.open();
  });
  EXPECT_EQ(outcome.out, "taken") << outcome.err;
}

TEST_F(SharerTest, AKilledSenderIsNamed) {
  auto [give, take] = carrier();
  auto [here, there] = pair_over("AF_UNIX");
  Process child(
      [](const Connection& way, const Connection& end) {
        way.send(end);
        way.send("sent");
        ::pause();
      },
      give, there);
  child.start();
  give.close();
  there.close();
  const Bytes message = take.recv_bytes();
  EXPECT_EQ(take.recv<std::string>(), "sent");
  child.kill();
  child.join();
  EXPECT_THROW(here.recv(), EOFError);  // what waited is gone
  auto [again, read] = carrier();
  again.send_bytes(message);
  const std::string why = what_of([&, &read = read] { (void)read.recv(); });
  EXPECT_NE(why.find("the sender has ended"), std::string::npos) << why;
  again.send(1);
  EXPECT_EQ(read.recv<int>(), 1);
  const Listener cleans;  // the dead one's folder
}

}  // namespace
}  // namespace millrace::test
