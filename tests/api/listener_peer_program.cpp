// The other program of listener_peer_test.cpp: listener_peer_program <what> <address> [port]
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <millrace/millrace.hpp>
#include <random>
#include <string>
#include <system_error>
#include <thread>

namespace mp = millrace;
using mp::connection::Address;
using mp::connection::Client;

namespace {

void echo(const mp::Connection& connection) {
  try {
    for (;;) connection.send_bytes(connection.recv_bytes());
  } catch (const mp::EOFError&) {
    return;
  } catch (const std::system_error& error) {
    if (error.code().value() != EPIPE) throw;
  }
}

// All memory shared with peers, over and over.
void scribble(std::atomic<bool>& end) {
  std::mt19937_64 random(7);
  for (int fd = 0; fd < 64; ++fd) {
    struct stat file {};
    std::array<char, 64> link{};
    std::array<char, 128> name{};
    std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", fd);
    if (::readlink(link.data(), name.data(), name.size() - 1) < 0 ||
        std::string(name.data()).find("millrace-peer") == std::string::npos ||
        ::fstat(fd, &file) != 0) {
      continue;
    }
    const auto size = static_cast<std::size_t>(file.st_size);
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) std::_Exit(3);
    auto* const words = static_cast<std::uint64_t*>(memory);
    const std::size_t lane = size / 2 / 8;
    while (!end.load()) {
      words[random() % (size / 8)] = random() >> random() % 64;
      words[random() % 2 * lane + random() % 16] = random() >> random() % 64;  // the heads
    }
    return;
  }
  std::_Exit(4);  // there is none
}

// Echoes while it writes over everything that it shares.
void be_hostile(const mp::Connection& connection) {
  std::atomic<bool> end{false};
  std::thread writer([&] { scribble(end); });
  try {
    echo(connection);
  } catch (const std::exception&) {
    // What it gets may be cut off.
  }
  end = true;
  writer.join();
}

// No descriptor but the upper half's is left.
void take_descriptors() {
  rlimit limit{64, 64};
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) std::_Exit(5);
  while (::open("/dev/null", O_RDONLY) < 40) {
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return 2;
  const std::string what = words[1];
  const Address address =
      count == 4 ? Address(words[2], std::atoi(words[3])) : Address(std::string(words[2]));
  if (what == "crowded") take_descriptors();
  if (what == "stranger" && ::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) return 6;
  const mp::Connection connection =
      Client(address, {.authkey = "key", .handshake_timeout = std::chrono::hours(1)});
  if (what == "hostile") {
    be_hostile(connection);
  } else if (what == "mute") {
    ::pause();
  } else {
    echo(connection);
  }
  return 0;
}
