// Hostile peers of a handshake, in both roles: whatever they send, in whatever pieces, replayed or
// reflected, they are let in exactly if they proved that they have the key.
//
// An input is a script: a byte of settings, then steps (enum Step). What was said is judged by a
// second reading of the protocol, written from its description and sharing no code with the first.
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/channels/handshake.hpp"
#include "tests/fuzz/fuzz_script.hpp"

namespace millrace::fuzz {
namespace {

using runtime::AuthExchange;
using runtime::AuthKey;
using runtime::Descriptor;
using runtime::Handshake;
using State = Handshake::State;
using Clock = Timeout::Clock;

constexpr std::string_view kKey = "key";
constexpr std::string_view kChallenge = "#CHALLENGE#";
constexpr int kMostSteps = 48;

struct Digest {
  const char* name;
  const EVP_MD* (*function)();
};
constexpr std::array<Digest, 6> kDigests{{{"", EVP_md5},  // CPython before 3.12: no name
                                          {"md5", EVP_md5},
                                          {"sha256", EVP_sha256},
                                          {"sha384", EVP_sha384},
                                          {"sha3_256", EVP_sha3_256},
                                          {"sha3_384", EVP_sha3_384}}};

std::string prefix_of(const Digest& digest) {
  return *digest.name == 0 ? "" : "{" + std::string(digest.name) + "}";
}

std::string proof(const Digest& digest, std::string_view key, std::string_view message) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned int size = 0;
  require(::HMAC(digest.function(), key.data(), static_cast<int>(key.size()),
                 reinterpret_cast<const unsigned char*>(message.data()), message.size(),
                 bytes.data(), &size) != nullptr);
  return prefix_of(digest) + std::string(reinterpret_cast<const char*>(bytes.data()), size);
}

std::string_view message_of(std::string_view challenge) {
  return challenge.substr(std::min(challenge.size(), kChallenge.size()));
}

// A challenge of this library's own.
bool is_marked(std::string_view challenge) {
  constexpr std::string_view kHead = "{sha256}\x9cmrpeer\x01";
  return message_of(challenge).size() == 48 && challenge.starts_with(kChallenge) &&
         message_of(challenge).starts_with(kHead);
}

// What the peer said, read once more.
struct Judge {
  bool legacy;

  [[nodiscard]] bool proves(std::string_view response, std::string_view challenge) const {
    for (const Digest& each : kDigests) {
      const bool md5 = each.function == EVP_md5;
      if ((legacy || !md5) && response == proof(each, kKey, message_of(challenge))) return true;
    }
    return false;
  }
  // A challenge that is answered, and with what.
  [[nodiscard]] std::string answer(std::string_view challenge) const {
    if (!challenge.starts_with(kChallenge)) return {};
    const std::string_view message = message_of(challenge);
    if (message.size() < 20) return {};
    if (message.size() == 20) return legacy ? proof(kDigests[0], kKey, message) : "";
    for (const Digest& each : kDigests) {
      const std::string head = prefix_of(each);
      if (head.empty() || !message.starts_with(head)) continue;
      return legacy || each.function != EVP_md5 ? proof(each, kKey, message) : "";
    }
    return {};
  }
};

bool has_mark(std::string_view challenge) {
  return challenge.size() == 59 && challenge.starts_with(
                                       "#CHALLENGE#{sha256}\x9c"
                                       "mrpeer\x01");
}

// One handshake, and all that passed between it and the peer.
class Session {
 public:
  Session(AuthExchange::Side side, const AuthKey& key) : Session(side, key, socket_pair()) {}

  void send(std::string_view bytes) {
    if (state_ != State::reading || closed_) return;
    if (feed(peer_, bytes)) said_ += bytes;
    go();
  }
  void close() {
    if (!closed_) ::shutdown(peer_.get(), SHUT_WR);
    closed_ = true;
    go();
  }
  [[nodiscard]] const std::vector<std::string>& heard() const { return heard_; }
  [[nodiscard]] std::string challenge() const {
    for (auto each = heard_.rbegin(); each != heard_.rend(); ++each) {
      if (each->starts_with(kChallenge)) return *each;
    }
    return {};
  }

  // It is over exactly when the peer's first three frames say so, and what follows them waits. A
  // caller whose challenge has this library's mark has one frame more to say.
  void judge(const Judge& judge) {
    std::vector<std::string_view> frames;
    std::string_view left = said_;
    std::size_t wanted = 3;
    while (frames.size() < wanted && left.size() >= 4) {
      const std::uint64_t size = number_of(left.substr(0, 4));
      if (size == 0 || size > runtime::kAuthFrame || left.size() < 4 + size) break;
      frames.push_back(left.substr(4, size));
      left.remove_prefix(4 + size);
      const bool may_offer = side_ == AuthExchange::Side::accepting && frames.size() == 2;
      if (may_offer && has_mark(frames[1])) wanted = 4;
      // A marked challenge is followed by one frame more, behind the verdict.
      if (side_ == AuthExchange::Side::accepting && frames.size() == 2 && is_marked(frames[1])) {
        wanted = 4;
      }
    }
    const bool known = frames.size() == wanted &&
                       (side_ == AuthExchange::Side::accepting
                            ? judge.proves(frames[0], challenge()) &&
                                  judge_answer(judge, frames[1]) && frames[2] == runtime::kWelcome
                            : judge_answer(judge, frames[0]) && frames[1] == runtime::kWelcome &&
                                  judge.proves(frames[2], challenge()));
    require(known == (state_ == State::done));
    require(state_ != State::refused || !handshake_.reason().empty());
    if (!known) return;
    int waiting = 0;
    require(::ioctl(handshake_.fd(), FIONREAD, &waiting) == 0);
    require(static_cast<std::size_t>(waiting) == left.size());
  }

 private:
  Session(AuthExchange::Side side, const AuthKey& key, SocketPair ends)
      : side_(side),
        peer_(std::move(ends.theirs)),
        handshake_(std::move(ends.ours), side, key, Clock::time_point::max()) {
    go();
  }

  [[nodiscard]] bool judge_answer(const Judge& judge, std::string_view challenge) const {
    const std::string answer = judge.answer(challenge);
    for (const std::string& each : heard_) {
      if (!answer.empty() && each == answer) return true;
    }
    return false;
  }

  // As far as it goes; then hears what was said.
  void go() {
    if (state_ != State::reading) return;
    handshake_.look();
    state_ = handshake_.advance();
    require(state_ != State::writing);  // so little always finds room
    std::array<char, 4096> bytes{};
    const ssize_t got = ::recv(peer_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    std::string_view left(bytes.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    while (!left.empty()) {
      require(left.size() > 4);
      const std::uint64_t size = number_of(left.substr(0, 4));
      require(size > 0 && size <= runtime::kAuthFrame && left.size() >= 4 + size);
      heard_.emplace_back(left.substr(4, size));
      left.remove_prefix(4 + size);
    }
  }

  AuthExchange::Side side_;
  Descriptor peer_;
  Handshake handshake_;
  State state_ = State::reading;
  bool closed_ = false;
  std::string said_;
  std::vector<std::string> heard_;
};

enum Step : std::uint8_t {
  kRaw,           // bytes
  kFrame,         // a frame of bytes
  kProve,         // the right response to the session's challenge
  kProveOther,    // that to the other session's challenge: a replay
  kGuess,         // a response under another key
  kReflect,       // a frame that the session sent
  kReflectOther,  // one that the other session sent
  kAsk,           // a challenge
  kWelcome,
  kFail,
  kCut,  // from here on frames go in two pieces
  kHangUp,
  kSwitch,  // to the other session
  kBehind,  // bytes that come together with the next frame
  kSteps
};

std::string pick(const std::vector<std::string>& frames, std::uint8_t which) {
  return frames.empty() ? "" : frames[which % frames.size()];
}

// The frame of a step; "" for none.
std::string frame_of(Step step, Script& script, const Session& session, const Session& other) {
  const auto digest = [&]() -> const Digest& { return kDigests[script.byte() % kDigests.size()]; };
  switch (step) {
    case kFrame:
      return std::string(script.bytes(script.byte()));
    case kProve:
      return proof(digest(), kKey, message_of(session.challenge()));
    case kProveOther:
      return proof(digest(), kKey, message_of(other.challenge()));
    case kGuess:
      return proof(digest(), "another", message_of(session.challenge()));
    case kReflect:
      return pick(session.heard(), script.byte());
    case kReflectOther:
      return pick(other.heard(), script.byte());
    case kAsk: {
      std::string frame = std::string(kChallenge) + prefix_of(digest());
      return frame.append(script.bytes(script.byte() % 64));
    }
    case kWelcome:
      return std::string(runtime::kWelcome);
    case kFail:
      return std::string(runtime::kFailure);
    default:
      return {};
  }
}

void play(Script& script) {
  const std::uint8_t settings = script.byte();
  const AuthKey key{std::string(kKey), (settings & 1U) != 0};
  const auto side =
      (settings & 2U) != 0 ? AuthExchange::Side::connecting : AuthExchange::Side::accepting;
  std::array<Session, 2> sessions{Session(side, key), Session(side, key)};
  unsigned at = 0;
  std::size_t cut = 0;
  std::string behind;
  for (int i = 0; i < kMostSteps && !script.empty(); ++i) {
    Session& session = sessions[at];
    const auto step = static_cast<Step>(script.byte() % kSteps);
    if (step == kRaw) session.send(script.bytes(script.byte()));
    if (step == kCut) cut = script.byte();
    if (step == kBehind) behind = script.bytes(script.byte());
    if (step == kHangUp) session.close();
    if (step == kSwitch) at ^= 1U;
    const std::string frame = frame_of(step, script, session, sessions[at ^ 1U]);
    if (frame.empty()) continue;
    const std::string bytes = framed(frame) + std::exchange(behind, {});
    session.send(std::string_view(bytes).substr(0, cut));
    session.send(std::string_view(bytes).substr(std::min(cut, bytes.size())));
  }
  for (Session& each : sessions) each.judge({key.legacy_md5});
  std::set<std::string> challenges;  // of a nonce once
  for (const Session& each : sessions) {
    const std::string challenge = each.challenge();
    require(challenge.empty() || challenges.insert(challenge).second);
  }
}

}  // namespace
}  // namespace millrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  millrace::fuzz::Script script(data, size);
  millrace::fuzz::play(script);
  return 0;
}
