#include "runtime/channels/program_proof.hpp"

#include <openssl/crypto.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <millrace/address.hpp>

#include "runtime/base/own_pid.hpp"
#include "runtime/base/random.hpp"
#include "runtime/channels/address.hpp"
#include "runtime/channels/auth.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kNumberSlot = shm::ArenaRoot::kUser - 1;

// The same in all processes of the program, made on first use.
std::uint64_t program_number() {
  auto& word = shm::Arena::instance().root().word[kNumberSlot];
  // relaxed: a number by itself; whoever comes second takes the first one's.
  std::uint64_t number = word.load(std::memory_order_relaxed);
  while (number == 0) {
    std::uint64_t fresh = 0;
    fill_random(&fresh, sizeof fresh);
    if (word.compare_exchange_strong(number, fresh, std::memory_order_relaxed)) number = fresh;
  }
  return number;
}

using NameOf = int (*)(int, sockaddr*, socklen_t*);

connection::Address name_of(NameOf call, int socket) {
  SystemAddress name;
  name.size = sizeof name.storage;
  return call(socket, name.get(), &name.size) == 0 ? address_of(name) : connection::Address();
}

// A host of IPv4 that a socket of both families sees.
std::string host_and_port(const connection::Address& address) {
  constexpr std::string_view kMapped = "::ffff:";
  std::string host = address.host();
  if (host.starts_with(kMapped)) host.erase(0, kMapped.size());
  return host + " " + std::to_string(address.port());
}

int domain_of(int socket) noexcept {
  int family = AF_UNSPEC;
  socklen_t size = sizeof family;
  (void)::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &family, &size);
  return family;
}

std::string text_of(const connection::Address& client, const connection::Address& server,
                    pid_t connected) {
  if (server.empty()) return {};
  if (!server.path().empty()) return std::to_string(connected) + " " + server.path();
  if (client.empty()) return {};
  return host_and_port(client) + " " + host_and_port(server);
}

}  // namespace

std::string ends_seen_by_client(int socket) {
  return text_of(name_of(&::getsockname, socket), name_of(&::getpeername, socket), own_pid());
}

std::string ends_seen_by_server(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (domain_of(socket) == AF_UNIX &&
      (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0)) {
    return {};
  }
  return text_of(name_of(&::getpeername, socket), name_of(&::getsockname, socket), peer.pid);
}

std::string program_proof(std::string_view who, std::string_view ends) {
  if (ends.empty()) return {};
  const std::uint64_t key = program_number();
  const std::string digest = hmac_sha256({reinterpret_cast<const char*>(&key), sizeof key},
                                         std::string(who) + " " + std::string(ends));
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char each : digest) {
    const auto byte = static_cast<unsigned char>(each);
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

bool proves_program(std::string_view said, std::string_view who, std::string_view ends) {
  const std::string proof = program_proof(who, ends);
  return !proof.empty() && said.size() == proof.size() &&
         ::CRYPTO_memcmp(said.data(), proof.data(), proof.size()) == 0;
}

}  // namespace millrace::runtime
