// The frames of a handshake against what CPython computes (hmac.new(key, message, digest)).
#include "runtime/channels/auth.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <millrace/errors.hpp>
#include <set>
#include <string>
#include <thread>

#include "tests/runtime/python_oracle.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::runtime {
namespace {

const AuthKey kKey{"secret", true};
const AuthKey kStrict{"secret", false};

std::string counting(std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(i);
  return bytes;
}

std::string challenge_with(const std::string& digest) {
  return "#CHALLENGE#{" + digest + "}" + counting(40);
}

struct Vector {
  const char* digest;
  const char* proof;
};
constexpr Vector kVectors[] = {
    {"md5", "e8928e8cca3ace2d777017168dc6a0b2"},
    {"sha256", "fc57fbe650d6124b98215e7b5d197d5807ad69982d275a9735ea2d56f1fa6989"},
    {"sha384",
     "bae78a3376369f7b803a8473318a9b7062495b47434159ac84fc92ddb33c51b2"
     "77c44c3edd9a5f9cb7d628f21abe2665"},
    {"sha3_256", "82e8fa62f363295b6655abecf0e98e510224c559e9745af9741c357aec358f90"},
    {"sha3_384",
     "bfbe71d4e622f58ebf6cbe049af4c8fe518645b482915af0940d678c37c0b46d"
     "d1a2a448f9ee5141c91bba42b46a7862"}};
constexpr const char* kLegacyProof = "7defa9cc46abc3583325d17ccda75190";
constexpr const char* kLegacyOverNew = "8e48d2bb349b4b72b9382999ed5b62eb";

// ThreadSanitizer stops a child of a program with threads; AddressSanitizer's own allocator may be
// left locked in one.
#if !MILLRACE_TEST_TSAN && !MILLRACE_TEST_ASAN

// OpenSSL initialises itself under locks, of which a forked child knows no holder: each program
// here forks while two threads have their first proof made. First of all, while it is new to this
// process.
TEST(AuthTest, AChildOfAForkBesideAFirstHandshakeMakesProofsToo) {
  constexpr int kPrograms = 40;
  constexpr unsigned kPatience = 60;  // then a child has hung
  const std::string challenge = challenge_with("sha256");
  const auto prove = [&challenge] { (void)response_to(challenge, kKey); };
  for (unsigned i = 0; i < kPrograms; ++i) {
    const pid_t program = ::fork();
    if (program == 0) {
      std::thread threads[] = {std::thread(prove), std::thread(prove)};
      bool fine = true;
      for (int child = 0; child < 4; ++child) {
        for (unsigned n = 0; n < i * 1500; ++n) std::atomic_signal_fence(std::memory_order_seq_cst);
        const pid_t forked = ::fork();
        if (forked == 0) {
          ::alarm(kPatience);
          prove();
          ::_exit(0);
        }
        int status = -1;
        fine = ::waitpid(forked, &status, 0) == forked && status == 0 && fine;
      }
      for (std::thread& thread : threads) thread.join();
      ::_exit(fine ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(program, &status, 0), program);
    ASSERT_EQ(status, 0);
  }
}

#endif

TEST(AuthTest, AnswersAsCPythonDoes) {
  for (const Vector& each : kVectors) {
    const std::string digest = each.digest;
    EXPECT_EQ(oracle::to_hex(response_to(challenge_with(digest), kKey)),
              oracle::to_hex("{" + digest + "}") + each.proof);
  }
  EXPECT_EQ(oracle::to_hex(response_to("#CHALLENGE#" + counting(20), kKey)), kLegacyProof);
}

TEST(AuthTest, AcceptsWhatCPythonAnswers) {
  const std::string challenge = challenge_with("sha256");
  const std::string proof = oracle::from_hex(kVectors[1].proof);
  EXPECT_EQ(why_refused(challenge, "{sha256}" + proof, kKey), "");
  EXPECT_EQ(why_refused(challenge, "{sha256}" + proof, kStrict), "");
  const std::string legacy = oracle::from_hex(kLegacyOverNew);
  EXPECT_EQ(why_refused(challenge, legacy, kKey), "");
  EXPECT_EQ(why_refused(challenge, "{md5}" + legacy, kKey), "");
  EXPECT_NE(why_refused(challenge, legacy, kStrict).find(".legacy_md5"), std::string::npos);
  EXPECT_NE(why_refused(challenge, "{md5}" + legacy, kStrict), "");
}

TEST(AuthTest, RefusesEverythingElse) {
  const std::string challenge = challenge_with("sha256");
  const std::string proof = "{sha256}" + oracle::from_hex(kVectors[1].proof);
  for (std::size_t i = 0; i < proof.size(); ++i) {
    std::string changed = proof;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_NE(why_refused(challenge, changed, kKey), "") << i;
    EXPECT_NE(why_refused(challenge, proof.substr(0, i), kKey), "") << i;
  }
  EXPECT_NE(why_refused(challenge, proof + "x", kKey), "");
  EXPECT_NE(why_refused(challenge, proof, {"other", true}), "");
  EXPECT_NE(why_refused(challenge, "{sha1}" + counting(20), kKey), "");
}

TEST(AuthTest, ChallengesThatAreNoneGetNoAnswer) {
  for (const std::string& bad :
       {std::string(), std::string("#CHALLENGE#"), "#WELCOME#" + counting(40),
        "#CHALLENGE#" + counting(19), std::string("#CHALLENGE#{sha256}"),
        "#CHALLENGE#{sha256}" + counting(11), "#CHALLENGE#" + counting(40), challenge_with("sha1"),
        std::string("#CHALLENGE#{sha256"), std::string("#CHALLENGE#{")}) {
    EXPECT_THROW(response_to(bad, kKey), AuthenticationError) << bad;
  }
  EXPECT_THROW(response_to("#CHALLENGE#" + counting(20), kStrict), AuthenticationError);
  EXPECT_THROW(response_to(challenge_with("md5"), kStrict), AuthenticationError);
}

TEST(AuthTest, ChallengesAreNeverTheSame) {
  std::set<std::string> all;
  for (int i = 0; i < 1000; ++i) {
    const std::string challenge = make_challenge();
    EXPECT_EQ(challenge.size(), 59U);
    EXPECT_TRUE(challenge.starts_with("#CHALLENGE#{sha256}"));
    EXPECT_TRUE(all.insert(challenge).second);
  }
}

TEST(AuthTest, BothSidesProveTheirKeys) {
  AuthExchange accepting(AuthExchange::Side::accepting, kKey);
  AuthExchange connecting(AuthExchange::Side::connecting, kKey);
  EXPECT_EQ(connecting.first(), "");
  const auto ours = connecting.take(accepting.first());  // a response and a challenge
  const auto welcome = accepting.take(ours.frames[0]);
  EXPECT_EQ(welcome.frames[0], kWelcome);
  EXPECT_FALSE(welcome.done);
  const auto proof = accepting.take(ours.frames[1]);
  EXPECT_FALSE(connecting.take(welcome.frames[0]).done);
  const auto verdict = connecting.take(proof.frames[0]);
  EXPECT_TRUE(verdict.done);
  EXPECT_TRUE(accepting.take(verdict.frames[0]).done);
}

// A peer that has no key plays every frame it can think of back at us.
TEST(AuthTest, OurOwnFramesPlayedBackProveNothing) {
  for (const auto side : {AuthExchange::Side::accepting, AuthExchange::Side::connecting}) {
    AuthExchange here(side, kKey);
    const std::string first = here.first();
    for (const std::string& frame :
         {first, std::string(kWelcome), std::string(kFailure), std::string("x")}) {
      const auto step = AuthExchange(here).take(frame);
      EXPECT_FALSE(step.done);
      EXPECT_NE(step.failure, "");
    }
  }
}

TEST(AuthTest, OfManyWrongKeysNoneProvesAnything) {
  constexpr int kKeys = 100'000;
  const std::string challenge = make_challenge();
  int let_in = 0;
  for (int i = 0; i < kKeys; ++i) {
    const AuthKey wrong{"secret" + std::to_string(i), true};
    if (why_refused(challenge, response_to(challenge, wrong), kKey).empty()) ++let_in;
  }
  EXPECT_EQ(let_in, 0);
}

// Everything that a peer with the key has said, said again to the next one, either side.
TEST(AuthTest, RecordedHandshakesProveNothingLater) {
  constexpr int kTimes = 10'000;
  AuthExchange accepting(AuthExchange::Side::accepting, kKey);
  AuthExchange connecting(AuthExchange::Side::connecting, kKey);
  const std::string challenge = accepting.first();
  const auto answer = connecting.take(challenge);
  static_cast<void>(accepting.take(answer.frames[0]));
  const auto proof = accepting.take(answer.frames[1]);
  for (int i = 0; i < kTimes; ++i) {
    AuthExchange listener(AuthExchange::Side::accepting, kKey);
    static_cast<void>(listener.first());
    const auto verdict = listener.take(answer.frames[0]);
    ASSERT_EQ(verdict.frames[0], kFailure);
    ASSERT_EQ(verdict.frames[1], "");  // nothing is proved to who has proved nothing
    ASSERT_NE(verdict.failure, "");
    AuthExchange caller(AuthExchange::Side::connecting, kKey);
    static_cast<void>(caller.take(challenge));
    ASSERT_EQ(caller.take(kWelcome).failure, "");
    const auto refused = caller.take(proof.frames[0]);
    ASSERT_FALSE(refused.done);
    ASSERT_NE(refused.failure, "");
  }
}

// A challenge that came back in place of an answer, or as the peer's own: no Listener answers one
// before it has seen a proof, so it is of no use against itself.
TEST(AuthTest, AListenersChallengeSentBackGetsNoAnswer) {
  constexpr int kTimes = 10'000;
  for (int i = 0; i < kTimes; ++i) {
    AuthExchange one(AuthExchange::Side::accepting, kKey);
    AuthExchange other(AuthExchange::Side::accepting, kKey);
    const std::string challenge = one.first();
    static_cast<void>(other.first());
    for (AuthExchange* each : {&one, &other}) {
      const auto step = each->take(challenge);
      ASSERT_FALSE(step.done);
      ASSERT_EQ(step.frames[0], kFailure);
      ASSERT_EQ(step.frames[1], "");
    }
  }
}

}  // namespace
}  // namespace millrace::runtime
