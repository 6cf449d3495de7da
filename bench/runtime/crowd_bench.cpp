// What honest callers of a Listener with a key wait for beside a crowd that proves nothing: peers
// that say nothing, that send a byte a second, that send garbage. Who is hung up on calls again,
// honest ones at once, and that is part of their time.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <millrace/millrace.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/shm/harness.hpp"

namespace {

namespace mp = millrace;

constexpr const char* kKey = "key";
constexpr int kSilent = 1000;
constexpr int kSlow = 200;
constexpr int kGarbled = 200;  // at once, and as many calls a second
constexpr int kCalls = 1000;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kAgain = kSecond / 10;  // after which one of the crowd calls again

// A process of its own for as long as it lives.
class Helper {
 public:
  explicit Helper(const std::function<void()>& body) : pid_(::fork()) {
    if (pid_ != 0) return;
    body();
    ::_exit(0);
  }
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;
  ~Helper() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  [[nodiscard]] double entries(const char* folder) const {
    const std::filesystem::directory_iterator all("/proc/" + std::to_string(pid_) + "/" + folder);
    return static_cast<double>(std::distance(begin(all), end(all)));
  }

 private:
  pid_t pid_;
};

[[noreturn]] void serve(const mp::connection::Listener& listener) {
  for (;;) {
    try {
      const mp::Connection honest = listener.accept();
      honest.send_bytes(honest.recv_bytes());
    } catch (const mp::AuthenticationError&) {  // garbage that looked like an answer
    }
  }
}

// Peers that mean ill.
class Crowd {
 public:
  explicit Crowd(int port) {
    to_.sin_family = AF_INET;
    to_.sin_port = htons(static_cast<std::uint16_t>(port));
    to_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  [[noreturn]] void rage() {
    peers_.resize(kSilent + kSlow + kGarbled, {-1, POLLIN, 0});
    again_.resize(peers_.size());
    for (std::size_t i = 0; i < kSilent + kSlow; ++i) call(i);
    std::uint64_t next_byte = 0;
    std::uint64_t next_call = 0;
    for (;;) {
      ::poll(peers_.data(), peers_.size(), 1);
      const std::uint64_t now = bench::now_ns();
      for (std::size_t i = 0; i < peers_.size(); ++i) {
        if (peers_[i].revents != 0) look(i, now);
        if (again_[i] != 0 && now >= again_[i]) call(i);
      }
      if (now >= next_byte) {
        for (std::size_t i = kSilent; i < kSilent + kSlow; ++i) say(i, std::string(1, '\0'));
        next_byte = now + kSecond;
      }
      if (now >= next_call) {
        const std::size_t i = kSilent + kSlow + random_() % kGarbled;
        call(i);
        say(i, garbage());
        next_call = now + kSecond / kGarbled;
      }
    }
  }

 private:
  void call(std::size_t i) {
    hang_up(i);
    peers_[i].fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)::connect(peers_[i].fd, reinterpret_cast<const sockaddr*>(&to_), sizeof to_);
  }
  void hang_up(std::size_t i) {
    if (peers_[i].fd >= 0) ::close(std::exchange(peers_[i].fd, -1));
    again_[i] = 0;
  }
  void look(std::size_t i, std::uint64_t now) {
    char bytes[256];
    const ssize_t got = ::recv(peers_[i].fd, bytes, sizeof bytes, 0);
    if (got > 0 || (got < 0 && errno == EAGAIN)) return;
    hang_up(i);
    again_[i] = now + kAgain;
  }
  void say(std::size_t i, const std::string& bytes) {
    (void)::send(peers_[i].fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  // Some of it as long as it says.
  std::string garbage() {
    std::string bytes(random_() % 300, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random_());
    if (bytes.size() > 4 && random_() % 2 == 0) {
      const std::uint32_t length = htonl(static_cast<std::uint32_t>(bytes.size() - 4));
      bytes.replace(0, 4, reinterpret_cast<const char*>(&length), 4);
    }
    return bytes;
  }

  sockaddr_in to_{};
  std::vector<pollfd> peers_;
  std::vector<std::uint64_t> again_;  // when it calls again, 0: it need not
  std::mt19937 random_{4};
};

// One server and its honest callers, one after the other; what came of it by name.
class Episode {
 public:
  double take(const std::string& name) {
    if (!values_.contains(name)) run();
    return values_.extract(name).mapped();
  }

 private:
  void run() {
    const mp::connection::Listener listener({.address = mp::connection::Address("127.0.0.1", 0),
                                             .backlog = 128,
                                             .authkey = mp::Bytes(kKey)});
    const Helper server([&] { serve(listener); });
    std::vector<double> alone = calls(listener.address(), [] {});
    const double descriptors = server.entries("fd");
    const double threads = server.entries("task");
    double most = 0;
    double most_threads = 0;
    std::vector<double> beside;
    {
      const Helper crowd([&] { Crowd(listener.address().port()).rage(); });
      while (server.entries("fd") < descriptors + 100) ::sched_yield();
      beside = calls(listener.address(), [&] {
        most = std::max(most, server.entries("fd"));
        most_threads = std::max(most_threads, server.entries("task"));
      });
    }
    const std::uint64_t end = bench::now_ns() + 10 * kSecond;
    while (bench::now_ns() < end && server.entries("fd") > descriptors) ::sched_yield();
    values_ = {{"hung up", static_cast<double>(std::exchange(hung_up_, 0))},
               {"median alone", percentile(alone, 50)},
               {"median", percentile(beside, 50)},
               {"p99", percentile(beside, 99)},
               {"descriptors", most - descriptors},
               {"threads", most_threads - threads},
               {"left", server.entries("fd") - descriptors}};
  }
  // Milliseconds of each: a call, a message, its answer.
  std::vector<double> calls(const mp::connection::Address& to,
                            const std::function<void()>& between) {
    std::vector<double> all;
    for (int i = 0; i < kCalls; ++i) {
      const std::uint64_t start = bench::now_ns();
      while (!answered(to)) ++hung_up_;
      all.push_back(static_cast<double>(bench::now_ns() - start) * 1e-6);
      if (i % 20 == 0) between();
    }
    return all;
  }
  static bool answered(const mp::connection::Address& to) {
    try {
      const mp::Connection server = mp::connection::Client(to, {.authkey = mp::Bytes(kKey)});
      server.send_bytes("honest");
      return server.recv_bytes() == "honest";
    } catch (const mp::EOFError&) {
      return false;
    } catch (const std::system_error&) {
      return false;
    }
  }
  static double percentile(std::vector<double>& all, std::size_t percent) {
    const auto at = all.begin() + static_cast<std::ptrdiff_t>(all.size() * percent / 100);
    std::nth_element(all.begin(), at, all.end());
    return *at;
  }

  std::map<std::string, double> values_;
  int hung_up_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  using bench::Better;
  Episode episode;
  bench::Suite suite("crowd");
  for (const char* name :
       {"median alone", "median", "p99", "hung up", "descriptors", "threads", "left"}) {
    suite.measure(name, [&episode, name] { return episode.take(name); });
  }
  const auto limit = [&suite](const std::string& name, double value) {
    suite.measure(name, [value] { return value; });
    return name;
  };
  const std::string beside = " beside a crowd that proves nothing, to ";
  suite.row(
      {"honest call, p99," + beside + "50 ms", "ms", "p99", limit("50 ms", 50), 1, Better::lower});
  suite.row({"honest call, median," + beside + "alone", "ms", "median", "median alone", 0,
             Better::lower});
  suite.row({"honest calls hung up on, of 1,000," + beside + "one", "", "hung up", limit("one", 1),
             1, Better::lower});
  suite.row({"descriptors more" + beside + "what is kept of unknown peers", "", "descriptors",
             limit("512 and a few", 528), 1, Better::lower});
  suite.row({"threads more" + beside + "one", "", "threads", "one", 1, Better::lower});
  suite.row({"descriptors more 10 s after it, to a few", "", "left", limit("a few", 8), 1,
             Better::lower});
  return suite.run(argc, argv);
}
