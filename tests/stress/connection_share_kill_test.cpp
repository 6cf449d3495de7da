// Connections on their way over sockets, whose senders and takers are killed at random instants:
// each is in one place or none, its peer sees the end, nobody hangs, and the others go on. N13
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <millrace/process.hpp>
#include <random>
#include <string_view>
#include <system_error>
#include <vector>

#include "tests/api/sharer_support.hpp"

namespace millrace::test {
namespace {

class ShareKillTest : public SharerTest {
 protected:
  static int rounds() {
    const char* const wish = std::getenv("MILLRACE_STRESS");
    return wish != nullptr && std::string_view(wish) == "quick" ? 30 : 200;
  }
  /// Up to a few times as long as giving and taking one takes.
  void wait_a_moment() { ::usleep(static_cast<useconds_t>(random_() % 3000)); }

 private:
  std::mt19937 random_{7};
};

// What a dead taker had not fetched waits, and is to be had by whoever has the message; what it had
// fetched is gone with it.
TEST_F(ShareKillTest, TakersAreKilled) {
  constexpr std::size_t kEnds = 8;
  for (int round = 0; round < rounds(); ++round) {
    auto [give, take] = carrier();
    auto [again, read] = carrier();
    std::vector<Connection> here;
    std::vector<Bytes> messages;
    for (std::size_t i = 0; i < kEnds; ++i) {
      auto [mine, theirs] = pair_over("AF_UNIX");
      again.send(theirs);
      messages.push_back(read.recv_bytes());
      here.push_back(std::move(mine));
    }
    Process taker(
        [](const Connection& way) {
          std::vector<Connection> all;
          for (;;) all.push_back(way.recv<Connection>());
        },
        take);
    taker.start();
    for (const Bytes& each : messages) give.send_bytes(each);
    wait_a_moment();
    taker.kill();
    taker.join();
    for (std::size_t i = 0; i < kEnds; ++i) {
      again.send_bytes(messages[i]);
      try {
        expect_talk(here[i], read.recv<Connection>());
      } catch (
          const std::system_error&) {  // the dead had it, or the sharer has ended with the last
        static_cast<void>(0);
      }
      EXPECT_THROW(here[i].recv(), EOFError);
    }
  }
}

// What a dead sender has sent is either had, or said to be lost; its last message may be cut off.
TEST_F(ShareKillTest, SendersAreKilled) {
  int had = 0;
  int lost = 0;
  for (int round = 0; round < rounds(); ++round) {
    auto [give, take] = carrier();
    auto [here, there] = pair_over("AF_UNIX");
    Process sender(
        [](const Connection& way, const Connection& end) {
          for (;;) way.send(end);
        },
        give, there);
    sender.start();
    give.close();
    there.close();
    expect_talk(here, take.recv<Connection>());  // it has begun
    wait_a_moment();
    sender.kill();
    sender.join();
    for (bool more = true; more;) {
      try {
        expect_talk(here, take.recv<Connection>());
        ++had;
      } catch (const EOFError&) {
        more = false;
      } catch (const std::system_error& error) {
        more = error.code().value() != EIO;  // the end inside a message
        lost += more ? 1 : 0;
      }
    }
    EXPECT_THROW(here.recv(), EOFError);
  }
  EXPECT_GT(lost, 0) << had;
  const Listener cleans;  // the dead ones' folders
}

}  // namespace
}  // namespace millrace::test
