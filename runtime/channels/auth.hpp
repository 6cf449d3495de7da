// How two ends of a connection prove to each other that they have the same key, as CPython does:
// each in turn sends a challenge, and gets the HMAC of it under the key. Only frames are dealt with
// here, wherever they come from; every frame is at most kAuthFrame bytes.
//
//   who delivers                              who answers
//   #CHALLENGE#{sha256}<40 random bytes>  ->
//                                         <-  {sha256}<32 bytes>, or CPython < 3.12: <16 bytes>
//   #WELCOME# or #FAILURE#                ->
//
// The accepting side delivers first, then answers; the connecting side the other way round. The
// connecting side sends its challenge right behind its response: the peer reads one after the
// other, and a round trip is saved. A challenge is never used twice. The digest is the challenger's
// choice: ours is sha256, though the 16 bytes of HMAC-MD5, which CPython before 3.12 answers with
// whatever it is sent, are taken too unless the user forbids it.
//
// Two of this library's find the mark in each other's challenge. Then the connecting side sends one
// frame more, right behind its #WELCOME#: memory for both (peer_memory.hpp), or that it has none.
#pragma once

#include <cstddef>
#include <millrace/bytes.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace millrace::runtime {

/// The longest frame that is received before the peer is known.
inline constexpr std::size_t kAuthFrame = 256;
/// How a challenge begins; no pickle begins so.
inline constexpr std::string_view kChallenge = "#CHALLENGE#";
inline constexpr std::string_view kWelcome = "#WELCOME#";
inline constexpr std::string_view kFailure = "#FAILURE#";

/// A key, and whether HMAC-MD5 under it is accepted and made.
struct AuthKey {
  std::string bytes;
  bool legacy_md5 = true;
};

/// HMAC-SHA256, 32 bytes; empty where OpenSSL has none. Safe beside a fork of another thread.
std::string hmac_sha256(std::string_view key, std::string_view message);

/// The key of a Listener or Client; none without one. Throws ValueError for an empty one.
std::optional<AuthKey> auth_key(const std::optional<Bytes>& bytes, bool legacy_md5);

/// Whether a challenge says that it is this library's: its random bytes begin with a mark, which is
/// nothing to anybody else. The rest are as many as before the digest's strength.
enum class Mark { none, ours };
/// A new challenge. Throws std::system_error when the kernel has no random bytes.
std::string make_challenge(Mark mark = Mark::none);
/// True when a challenge has the mark. Who fakes it gets what any peer with the key gets.
bool is_marked(std::string_view challenge) noexcept;
/// Why `response` is no proof of the key for `challenge`; empty if it is one. Takes the same time
/// wherever they differ.
std::string why_refused(std::string_view challenge, std::string_view response, const AuthKey& key);
/// What proves the key to a peer that sent `challenge`. Throws AuthenticationError when that is
/// no challenge, or one that asks for a digest which is not known or not allowed.
std::string response_to(std::string_view challenge, const AuthKey& key);
/// Throws AuthenticationError unless the peer accepted our response.
void check_verdict(std::string_view verdict);

/// Both halves for one end of a connection: takes the peer's frames, says what to send.
class AuthExchange {
 public:
  enum class Side { accepting, connecting };

  /// Throws as make_challenge() does: it is made before it is waited for.
  AuthExchange(Side side, const AuthKey& key);

  /// The frame to send before anything is received; empty: none.
  [[nodiscard]] std::string first() const;
  /// What a frame of the peer's leads to.
  struct Step {
    std::string frames[2];  ///< to send, in this order; empty: none
    bool done = false;      ///< both halves are, once the frames are sent
    std::string failure{};  ///< why the peer is refused or refuses us, once the frames are sent
  };
  Step take(std::string_view frame);
  /// Of each frame that the peer has still to send, in order, the fewest bytes that can lead on.
  [[nodiscard]] std::span<const std::size_t> least() const noexcept;
  /// The peer is of this library: its challenge had the mark, as ours has.
  [[nodiscard]] bool marked() const noexcept { return marked_; }

 private:
  enum class Wanted { challenge, verdict, response };

  Step take_response(std::string_view frame);
  Step take_challenge(std::string_view frame);
  Step take_verdict(std::string_view frame);

  const AuthKey& key_;
  Side side_;
  Wanted wanted_;
  bool marked_ = false;    // the peer's challenge
  std::string challenge_;  // our own
};

}  // namespace millrace::runtime
