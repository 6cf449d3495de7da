#include "runtime/channels/auth.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <array>
#include <limits>
#include <memory>
#include <millrace/errors.hpp>
#include <mutex>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/random.hpp"

namespace millrace::runtime {
namespace {

constexpr std::string_view kSha256 = "{sha256}";
constexpr std::size_t kNonce = 40;
constexpr std::string_view kMark = "\x9cmrpeer\x01";  // 32 random bytes follow
constexpr std::size_t kLegacyNonce = 20;              // of CPython before 3.12
constexpr std::size_t kLegacyResponse = 16;           // an HMAC-MD5 without the digest's name

struct Digest {
  std::string_view name;  // on the wire
  const char* openssl;
};
constexpr std::array<Digest, 5> kDigests{{{"md5", "MD5"},
                                          {"sha256", "SHA256"},
                                          {"sha384", "SHA384"},
                                          {"sha3_256", "SHA3-256"},
                                          {"sha3_384", "SHA3-384"}}};
constexpr const Digest* kMd5 = kDigests.data();
static_assert(kDigests[1].name == "sha256");

constexpr const char* kLegacyRefused =
    "HMAC-MD5, all that CPython before 3.12 knows, is switched off by .legacy_md5=false";

// The digest that a message "{name}..." begins with; null if there is none that is known.
const Digest* digest_of(std::string_view message) noexcept {
  for (const Digest& each : kDigests) {
    if (message.size() > each.name.size() + 1 && message.front() == '{' &&
        message.substr(1, each.name.size()) == each.name && message[each.name.size() + 1] == '}') {
      return &each;
    }
  }
  return nullptr;
}

struct MacEnd {
  void operator()(EVP_MAC_CTX* context) const noexcept { ::EVP_MAC_CTX_free(context); }
};
using Mac = std::unique_ptr<EVP_MAC_CTX, MacEnd>;

// Held while OpenSSL initialises itself and looks things up under locks of its own, which a child
// of a fork just then would find locked for ever.
ForkMutex g_lookup{ForkMutex::Level::crypto};

// Null when this OpenSSL has no such digest (MD5 under FIPS).
Mac make_mac(const Digest& digest) {
  const std::lock_guard guard(g_lookup);
  static EVP_MAC* const kind = ::EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  Mac made(kind == nullptr ? nullptr : ::EVP_MAC_CTX_new(kind));
  if (made == nullptr) return {};
  std::string name(digest.openssl);
  const std::array parameters{
      ::OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name.data(), name.size()),
      ::OSSL_PARAM_construct_end()};
  if (::EVP_MAC_CTX_set_params(made.get(), parameters.data()) != 1) return {};
  return made;
}

// A thread keeps those that it has used: by name, OpenSSL searches its providers several times for
// each HMAC, which costs four times as much as the HMAC.
struct KeptMacs {
  std::array<Mac, kDigests.size()> all;
  ~KeptMacs();
};
thread_local bool t_ended = false;  // what a thread keeps is gone: static objects are destroyed
KeptMacs::~KeptMacs() { t_ended = true; }

Mac& kept_mac(const Digest& digest) {
  static thread_local KeptMacs kept;
  return kept.all[static_cast<std::size_t>(&digest - kDigests.data())];
}

// Empty when this OpenSSL has no such digest.
std::string hmac(const Digest& digest, std::string_view key, std::string_view message) {
  if (key.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw ValueError("authkey: a key of " + std::to_string(key.size()) + " bytes is too long");
  }
  Mac own;
  Mac& mac = t_ended ? own : kept_mac(digest);
  if (mac == nullptr) mac = make_mac(digest);
  std::array<unsigned char, EVP_MAX_MD_SIZE> result{};
  std::size_t size = 0;
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<const unsigned char*>(text.data());
  };
  if (mac == nullptr || ::EVP_MAC_init(mac.get(), bytes(key), key.size(), nullptr) != 1 ||
      ::EVP_MAC_update(mac.get(), bytes(message), message.size()) != 1 ||
      ::EVP_MAC_final(mac.get(), result.data(), &size, result.size()) != 1) {
    return {};
  }
  return {reinterpret_cast<const char*>(result.data()), size};
}

bool same(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() && ::CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string missing(const Digest& digest) {
  return "OpenSSL offers no " + std::string(digest.name) + " here (FIPS mode?)";
}

}  // namespace

std::string hmac_sha256(std::string_view key, std::string_view message) {
  return hmac(kDigests[1], key, message);
}

std::optional<AuthKey> auth_key(const std::optional<Bytes>& bytes, bool legacy_md5) {
  if (!bytes) return std::nullopt;
  if (bytes->size() == 0) {
    throw ValueError("authkey: an empty key proves nothing; give one, or none at all");
  }
  return AuthKey{std::string(bytes->view()), legacy_md5};
}

std::string make_challenge(Mark mark) {
  std::string challenge(kChallenge);
  challenge += kSha256;
  const std::size_t head = challenge.size();
  challenge.resize(head + kNonce);
  fill_random(challenge.data() + head, kNonce);
  if (mark == Mark::ours) challenge.replace(head, kMark.size(), kMark);
  return challenge;
}

bool is_marked(std::string_view challenge) noexcept {
  constexpr std::size_t kHead = kChallenge.size() + kSha256.size();
  return challenge.size() == kHead + kNonce && challenge.starts_with(kChallenge) &&
         challenge.substr(kChallenge.size(), kSha256.size()) == kSha256 &&
         challenge.substr(kHead, kMark.size()) == kMark;
}

std::string why_refused(std::string_view challenge, std::string_view response, const AuthKey& key) {
  const std::string_view message = challenge.substr(kChallenge.size());
  const Digest* digest = digest_of(response);
  std::size_t head = 0;
  if (response.size() == kLegacyResponse) {
    digest = kMd5;
  } else if (digest != nullptr) {
    head = digest->name.size() + 2;
  } else {
    return "the peer's response names no digest that is known";
  }
  if (digest == kMd5 && !key.legacy_md5) {
    return "digest received was HMAC-MD5: " + std::string(kLegacyRefused);
  }
  const std::string expected = hmac(*digest, key.bytes, message);
  if (expected.empty()) return missing(*digest);
  if (!same(expected, response.substr(head))) {
    return "digest received was wrong: the peer has another authkey";
  }
  return {};
}

std::string response_to(std::string_view challenge, const AuthKey& key) {
  if (!challenge.starts_with(kChallenge)) {
    throw AuthenticationError("the peer sent no challenge: it expects no authkey, or is no peer");
  }
  const std::string_view message = challenge.substr(kChallenge.size());
  if (message.size() < kLegacyNonce) {
    throw AuthenticationError(
        "the peer's challenge is too short: " + std::to_string(message.size()) + " bytes");
  }
  const bool legacy = message.size() == kLegacyNonce;
  const Digest* const digest = legacy ? kMd5 : digest_of(message);
  if (digest == nullptr) {
    throw AuthenticationError("the peer's challenge names no digest that is known");
  }
  if (digest == kMd5 && !key.legacy_md5) {
    throw AuthenticationError("the peer's challenge wants HMAC-MD5: " +
                              std::string(kLegacyRefused));
  }
  const std::string proof = hmac(*digest, key.bytes, message);
  if (proof.empty()) throw AuthenticationError(missing(*digest));
  return legacy ? proof : "{" + std::string(digest->name) + "}" + proof;
}

void check_verdict(std::string_view verdict) {
  if (verdict == kWelcome) return;
  throw AuthenticationError("digest sent was rejected: the peer has another authkey");
}

AuthExchange::AuthExchange(Side side, const AuthKey& key)
    : key_(key),
      side_(side),
      wanted_(side == Side::accepting ? Wanted::response : Wanted::challenge),
      challenge_(make_challenge(Mark::ours)) {}

std::string AuthExchange::first() const {
  return side_ == Side::accepting ? challenge_ : std::string();
}

std::span<const std::size_t> AuthExchange::least() const noexcept {
  static constexpr std::size_t kLeastChallenge = kChallenge.size() + kLegacyNonce;
  static constexpr std::size_t kVerdict = kWelcome.size();
  static_assert(kVerdict == kFailure.size());
  static constexpr std::array kAccepting{kLegacyResponse, kLeastChallenge, kVerdict};
  static constexpr std::array kConnecting{kLeastChallenge, kVerdict, kLegacyResponse};
  const auto wanted = static_cast<std::size_t>(wanted_);  // from the challenge on, round
  return side_ == Side::accepting ? std::span(kAccepting).subspan((wanted + 1) % 3)
                                  : std::span(kConnecting).subspan(wanted);
}

AuthExchange::Step AuthExchange::take(std::string_view frame) {
  switch (wanted_) {
    case Wanted::response:
      return take_response(frame);
    case Wanted::challenge:
      return take_challenge(frame);
    case Wanted::verdict:
      break;
  }
  return take_verdict(frame);
}

AuthExchange::Step AuthExchange::take_response(std::string_view frame) {
  std::string refused = why_refused(challenge_, frame, key_);
  if (!refused.empty()) return {{std::string(kFailure), {}}, false, std::move(refused)};
  wanted_ = Wanted::challenge;
  return {{std::string(kWelcome), {}}, side_ == Side::connecting, {}};
}

AuthExchange::Step AuthExchange::take_challenge(std::string_view frame) {
  try {
    Step step{{response_to(frame, key_), {}}, false, {}};
    wanted_ = Wanted::verdict;
    marked_ = is_marked(frame);
    if (side_ == Side::connecting) step.frames[1] = challenge_;
    return step;
  } catch (const AuthenticationError& error) {
    return {{}, false, error.what()};
  }
}

AuthExchange::Step AuthExchange::take_verdict(std::string_view frame) {
  try {
    check_verdict(frame);
  } catch (const AuthenticationError& error) {
    return {{}, false, error.what()};
  }
  wanted_ = Wanted::response;
  return {{}, side_ == Side::accepting, {}};
}

}  // namespace millrace::runtime
