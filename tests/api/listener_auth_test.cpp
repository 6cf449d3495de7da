// Keys: who is let in, and what a Listener endures from those who are not. Python's counterparts:
// OtherTest, and what hangs there.
#include <sys/resource.h>
#include <time.h>

#include <random>

#include "tests/api/listener_support.hpp"

namespace millrace::test {
namespace {

using connection::answer_challenge;
using connection::deliver_challenge;

constexpr std::string_view kChallenge = "#CHALLENGE#";
constexpr std::size_t kChallengeBytes = 59;

// An honest client is let in by whatever else goes on.
void expect_served(const Listener& listener) {
  auto caller = call(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  const Connection here = listener.accept();
  const Connection there = caller.get();
  there.send(1);
  EXPECT_EQ(here.recv<int>(), 1);
}

template <class Error, class Call>
std::string text_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST_F(ListenerTest, AKeyLetsIn) {
  for (const char* family : {"AF_UNIX", "AF_INET"}) {
    const Listener listener({.family = family, .authkey = "key", .handshake_timeout = kPatient});
    expect_served(listener);
  }
}

// L02: AuthenticationError, and the Listener stays usable
TEST_F(ListenerTest, AnotherKeyIsRefusedAtBothEnds) {
  const Listener listener({.family = "AF_INET", .authkey = "key", .handshake_timeout = kPatient});
  auto caller = call(listener.address(), {.authkey = "another", .handshake_timeout = kPatient});
  const std::string here = text_of<AuthenticationError>([&] { (void)listener.accept(); });
  EXPECT_NE(here.find("digest received was wrong"), std::string::npos) << here;
  EXPECT_NE(here.find("127.0.0.1"), std::string::npos) << here;
  const std::string there = text_of<AuthenticationError>([&] { (void)caller.get(); });
  EXPECT_NE(there.find("digest sent was rejected"), std::string::npos) << there;
  EXPECT_NE(there.find(listener.address().repr()), std::string::npos) << there;
  expect_served(listener);
}

// L15: an empty key
TEST_F(ListenerTest, AnEmptyKeyIsNone) {
  EXPECT_THROW(Listener({.authkey = ""}), ValueError);
  const Listener listener;
  EXPECT_THROW(Client(listener.address(), {.authkey = ""}), ValueError);
  auto caller = call(listener.address());
  const Connection here = listener.accept();
  EXPECT_THROW(deliver_challenge(here, ""), ValueError);
  EXPECT_THROW(answer_challenge(here, ""), ValueError);
  const Connection there = caller.get();
}

TEST_F(ListenerTest, AClientWithAKeyGivesUpOnASilentListener) {
  const Listener listener;  // no key: it says nothing
  EXPECT_THROW(
      Client(listener.address(), {.authkey = "key", .handshake_timeout = milliseconds(20)}),
      TimeoutError);
}

TEST_F(ListenerTest, AClientWithoutAKeyIsToldThatOneIsWanted) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  auto accepting = std::async(std::launch::async, [&] { return listener.accept(); });
  {
    const Connection there = Client(listener.address());
    const std::string told = text_of<UnpicklingError>([&] { (void)there.recv(); });
    EXPECT_NE(told.find("authkey"), std::string::npos) << told;
  }
  const Connection honest =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  (void)accepting.get();
}

TEST_F(ListenerTest, AListenerThatHangsUpIsTheEndOfFile) {
  const Listener listener;
  auto caller = call(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  listener.accept().close();
  EXPECT_THROW(caller.get(), EOFError);
}

// OtherTest.test_deliver_challenge_auth_failure, test_answer_challenge_auth_failure; L09, L10
TEST_F(ListenerTest, ChallengesGoOverAnyConnection) {
  const Listener listener;
  auto caller = call(listener.address());
  const Connection here = listener.accept();
  const Connection there = caller.get();

  auto answer = std::async(std::launch::async, [&] { answer_challenge(there, "key"); });
  deliver_challenge(here, "key");
  EXPECT_NO_THROW(answer.get());

  answer = std::async(std::launch::async, [&] { answer_challenge(there, "other"); });
  EXPECT_THROW(deliver_challenge(here, "key"), AuthenticationError);
  EXPECT_THROW(answer.get(), AuthenticationError);

  there.send_bytes("something bogus");
  EXPECT_THROW(deliver_challenge(here, "key"), AuthenticationError);
  EXPECT_TRUE(there.recv_bytes().view().starts_with(kChallenge));
  EXPECT_EQ(there.recv_bytes(), "#FAILURE#");

  there.send_bytes("something bogus");
  EXPECT_THROW(answer_challenge(here, "key"), AuthenticationError);

  there.send_bytes("#CHALLENGE#{sha256}0123456789012345678901234567890123456789");
  there.send_bytes("#FAILURE#");
  EXPECT_THROW(answer_challenge(here, "key"), AuthenticationError);
}

TEST_F(ListenerTest, ASilentPeerIsDroppedAtItsDeadline) {
  const Listener listener({.authkey = "key", .handshake_timeout = milliseconds(50)});
  const RawPeer silent(listener.address());
  auto accepting = std::async(std::launch::async, [&] { return listener.accept(); });
  silent.wait_for_end();
  const Connection there =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  const Connection here = accepting.get();
}

TEST_F(ListenerTest, TheTimeoutOfAcceptTellsOfKeys) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  const RawPeer silent(listener.address());
  const std::string told = text_of<TimeoutError>([&] { (void)listener.accept(milliseconds(1)); });
  EXPECT_NE(told.find("nobody proved the key at "), std::string::npos) << told;
}

TEST_F(ListenerTest, ASilentPeerIsInNobodysWay) {
  const Listener listener({.authkey = "key", .handshake_timeout = std::nullopt});
  const RawPeer silent(listener.address());
  const RawPeer half(listener.address());
  half.send(RawPeer::header(40));
  half.send("{sha");
  expect_served(listener);
  EXPECT_EQ(silent.read(4 + kChallengeBytes).substr(4, kChallenge.size()), kChallenge);
}

TEST_F(ListenerTest, ASilentPeerIsDroppedThoughAnotherThreadLetItIn) {
  const Listener listener({.authkey = "key", .handshake_timeout = milliseconds(50)});
  auto waiting = std::async(std::launch::async, [&] { return listener.accept(); });
  auto also = std::async(std::launch::async, [&] { return listener.accept(); });
  const RawPeer silent(listener.address());
  const Connection first =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  silent.wait_for_end();  // whichever thread is left
  const Connection second =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  (void)waiting.get();
  (void)also.get();
}

TEST_F(ListenerTest, AFrameTooLongForAHandshakeEndsIt) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  for (const std::string& head :
       {RawPeer::header(257), RawPeer::header(0xffffffff), RawPeer::header(0xfffffffe),
        RawPeer::header(0), std::string("GET /")}) {
    const RawPeer rude(listener.address());
    rude.send(head + "HTTP/1.1\r\n\r\n");
    EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
    rude.wait_for_end();
  }
  expect_served(listener);
}

TEST_F(ListenerTest, APeerThatGoesInTheMiddleIsForgotten) {
  const Listener listener({.backlog = 8, .authkey = "key", .handshake_timeout = kPatient});
  using namespace std::string_view_literals;
  for (const std::string_view sent : {""sv, "\0\0"sv, "\0\0\0\x28{sha256}"sv}) {
    RawPeer gone(listener.address());
    gone.send(sent);
    gone.close();
  }
  expect_served(listener);
}

TEST_F(ListenerTest, ChallengesAreFreshAndOldAnswersWorthNothing) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  // What an honest client answers to the first challenge ...
  RawPeer first(listener.address());
  EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
  const std::string challenge = first.read_frame();
  ASSERT_EQ(challenge.size(), kChallengeBytes);
  const Listener other;
  auto caller = call(other.address(), {.authkey = "key", .handshake_timeout = kPatient});
  const Connection relay = other.accept();
  relay.send_bytes(challenge);
  const Bytes answer = relay.recv_bytes();
  relay.close();
  EXPECT_THROW(caller.get(), EOFError);
  // ... does not fit another one, nor does the challenge itself.
  for (const std::string_view replayed : {answer.view(), std::string_view(challenge)}) {
    const RawPeer thief(listener.address());
    EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
    EXPECT_NE(thief.read_frame(), challenge);
    thief.send_frame(replayed);
    EXPECT_THROW(listener.accept(), AuthenticationError);
    EXPECT_EQ(thief.read_frame(), "#FAILURE#");
  }
  expect_served(listener);
}

TEST_F(ListenerTest, MoreSilentPeersThanItKeepsMakeRoomForOthers) {
  rlimit usual{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &usual), 0);
  const rlimit few{64, usual.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  const Listener listener(
      {.family = "AF_INET", .backlog = 128, .authkey = "key", .handshake_timeout = kPatient});
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &usual), 0);
  const std::size_t before = names_in("/proc/self/fd").size();
  std::vector<RawPeer> silent;
  for (int i = 0; i < 100; ++i) {
    silent.emplace_back(listener.address());
    EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
    EXPECT_LE(names_in("/proc/self/fd").size() - before - silent.size(), 32U);
  }
  expect_served(listener);
  silent.clear();
  expect_served(listener);
}

// Random bytes, and frames of random bytes, at every step.
TEST_F(ListenerTest, GarbageIsOutlived) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  std::minstd_rand random(4711);
  for (int i = 0; i < 300; ++i) {
    RawPeer rude(listener.address());
    std::string bytes(random() % 300, '\0');
    for (char& each : bytes) each = static_cast<char>(random());
    const auto accept = [&] {
      try {
        (void)listener.accept(milliseconds(0));
        ADD_FAILURE() << "garbage was let in";
      } catch (const TimeoutError&) {
      } catch (const AuthenticationError&) {
      }
    };
    accept();
    if (random() % 2 == 0) {
      rude.send(bytes);
    } else {
      rude.send_frame(bytes.substr(0, random() % 256));
    }
    accept();
    if (random() % 4 == 0) rude.close();
    accept();
  }
  expect_served(listener);
}

// A thousand clients that are killed somewhere in their handshake.
TEST_F(ListenerTest, ClientsThatAreKilledDisturbNobody) {
  const Listener listener({.backlog = 64, .authkey = "key", .handshake_timeout = kPatient});
  auto accepting = std::async(std::launch::async, [&] {
    int known = 0;
    try {
      for (;;) {
        const Connection connection = listener.accept();
        ++known;
      }
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), EBADF) << error.what();
    }
    return known;
  });
  std::minstd_rand random(11);
  for (int i = 0; i < 100; ++i) {
    std::array<Process, 10> callers;
    for (Process& each : callers) {
      each = Process(
          [](const Address& address) {
            for (;;) (void)Client(address, {.authkey = "key", .handshake_timeout = kPatient});
          },
          listener.address());
      each.start();
    }
    const timespec pause{0, static_cast<long>(random() % 2'000'000)};
    ::nanosleep(&pause, nullptr);  // some instant, no condition
    for (Process& each : callers) each.kill();
    for (Process& each : callers) each.join();
  }
  const Connection honest =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  listener.close();
  EXPECT_GT(accepting.get(), 0);
}

}  // namespace
}  // namespace millrace::test
