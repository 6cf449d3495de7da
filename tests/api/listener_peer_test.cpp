// Two programs with a key on one host: their long messages go through memory that they share, and
// nothing else changes. The other program is listener_peer_program.cpp.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <random>

#include "tests/api/listener_support.hpp"

namespace millrace::test {
namespace {

class Program {
 public:
  Program(const std::string& what, const Address& to) {
    const std::string place = to.path().empty() ? to.host() : to.path();
    const std::string port = std::to_string(to.path().empty() ? to.port() : 0);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::execl(MILLRACE_PEER_PROGRAM, "peer", what.c_str(), place.c_str(),
            to.path().empty() ? port.c_str() : nullptr, nullptr);
    ::_exit(127);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (pid_ <= 1) return;
    ::kill(pid_, SIGKILL);
    wait();  // or it had ended by itself
  }

  void kill() {
    ::kill(pid_, SIGKILL);
    EXPECT_EQ(wait(), SIGKILL);
  }
  int wait() {
    int status = -1;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

struct Peer {
  explicit Peer(const char* what = "echo", const char* family = "AF_UNIX")
      : listener({.family = family, .authkey = "key", .handshake_timeout = kPatient}),
        program(what, listener.address()),
        connection(listener.accept()) {}
  /// It ends when this end does.
  void end() {
    connection.close();
    EXPECT_EQ(program.wait(), 0);
  }

  Listener listener;
  Program program;
  Connection connection;
};

// How many directions' memory is mapped here; neighbours are one entry of the kernel's.
std::size_t lanes() {
  std::ifstream maps("/proc/self/maps");
  std::size_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/memfd:millrace-peer-") == std::string::npos) continue;
    std::size_t end = 0;
    const auto begin = std::stoull(line, &end, 16);
    bytes += std::stoull(line.substr(end + 1), nullptr, 16) - begin;
  }
  return bytes / ((std::size_t{1} << 20U) + 4096);
}

std::string message(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; i += 61) bytes[i] = static_cast<char>(random());
  return bytes;
}

constexpr std::size_t kLong = 300'000;

// From the second long message on.
void exchange(const Connection& connection, int count = 4) {
  for (int i = 0; i < count; ++i) {
    const std::string sent = message(kLong + static_cast<std::size_t>(i), static_cast<unsigned>(i));
    connection.send_bytes(sent);
    EXPECT_EQ(connection.recv_bytes().view() == sent, true) << i;
  }
}

class ListenerPeerTest : public ListenerTest {};

TEST_F(ListenerPeerTest, LongMessagesGoThroughMemory) {
  for (const char* family : {"AF_UNIX", "AF_INET"}) {
    Peer peer("echo", family);
    EXPECT_EQ(lanes(), 0U);
    unsigned seed = 0;
    for (int round = 0; round < 3; ++round) {
      for (const std::size_t size :
           {std::size_t{0}, std::size_t{1}, std::size_t{65535}, std::size_t{65536},
            std::size_t{131072}, std::size_t{131073}, std::size_t{1048575}, std::size_t{1048576},
            std::size_t{1048577}, std::size_t{9'000'001}}) {
        const std::string sent = message(size, ++seed);
        auto sender = std::async(std::launch::async, [&] { peer.connection.send_bytes(sent); });
        EXPECT_EQ(peer.connection.recv_bytes().view() == sent, true) << size;
        sender.get();
      }
    }
    EXPECT_EQ(lanes(), 2U);
    peer.end();
    EXPECT_EQ(lanes(), 0U);
  }
}

TEST_F(ListenerPeerTest, NothingIsSharedWithoutAKey) {
  const Listener listener({.family = "AF_UNIX"});
  auto caller = call(listener.address());
  const Connection here = listener.accept();
  const Connection there = caller.get();
  auto sender = std::async(std::launch::async, [&] {
    for (int i = 0; i < 4; ++i) here.send_bytes(message(kLong, 1));
  });
  for (int i = 0; i < 4; ++i) EXPECT_EQ(there.recv_bytes().size(), kLong);
  sender.get();
  EXPECT_EQ(lanes(), 0U);
}

TEST_F(ListenerPeerTest, OrderAndReadinessAreTheSockets) {
  Peer peer;
  exchange(peer.connection);
  EXPECT_EQ(lanes(), 2U);
  const int fd = peer.connection.fileno();
  EXPECT_FALSE(readable(fd));
  std::vector<std::string> sent;
  for (unsigned i = 0; i < 40; ++i) sent.push_back(message(i % 2 == 0 ? 10 : 70'000, i));
  auto sender = std::async(std::launch::async, [&] {
    for (const std::string& each : sent) peer.connection.send_bytes(each);
  });
  for (const std::string& each : sent) {
    pollfd event{fd, POLLIN, 0};
    EXPECT_EQ(::poll(&event, 1, -1), 1);
    EXPECT_TRUE(peer.connection.poll());
    EXPECT_EQ(connection::wait({peer.connection}).size(), 1U);
    EXPECT_EQ(peer.connection.recv_bytes().view() == each, true);
  }
  sender.get();
  EXPECT_FALSE(readable(fd));
  EXPECT_FALSE(peer.connection.poll());
  peer.end();
}

TEST_F(ListenerPeerTest, ValuesGoAsWell) {
  Peer peer;
  std::vector<double> values(100'000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  for (int i = 0; i < 4; ++i) {
    peer.connection.send(values);
    EXPECT_EQ(peer.connection.recv<std::vector<double>>() == values, true);
  }
  EXPECT_EQ(lanes(), 2U);
  peer.end();
}

TEST_F(ListenerPeerTest, AMessageThatDoesNotFitIsInTheException) {
  Peer peer;
  exchange(peer.connection);
  const std::string sent = message(kLong, 9);
  peer.connection.send_bytes(sent);
  std::vector<char> small(10);
  try {
    peer.connection.recv_bytes_into(small);
    FAIL();
  } catch (const BufferTooShort& error) {
    EXPECT_EQ(error.message().view() == sent, true);
  }
  peer.connection.send_bytes(sent);
  EXPECT_EQ(errno_of([&] { peer.connection.recv_bytes(kLong - 1); }), EMSGSIZE);
  peer.connection.close();
}

// By fork and as a message; each process maps the memory itself or has inherited it.
TEST_F(ListenerPeerTest, TheMemoryTravelsWithTheConnection) {
  Peer peer;
  const auto use = [](const Connection& connection) {
    exchange(connection);
    return lanes() == 2;
  };
  Process before([&] { told()->fetch_add(use(peer.connection) ? 1 : 0); });
  before.start();
  before.join();
  exchange(peer.connection);
  Process forked([&] { told()->fetch_add(use(peer.connection) ? 10 : 0); });
  forked.start();
  forked.join();
  auto [out, in] = Pipe();
  Process sent([&, in = in] { told()->fetch_add(use(in.recv<Connection>()) ? 100 : 0); });
  sent.start();
  out.send(peer.connection);
  sent.join();
  EXPECT_EQ(told()->load(), 111);
  exchange(peer.connection);
  peer.end();
}

TEST_F(ListenerPeerTest, ManyThreadsAndProcessesShareAnEnd) {
  Peer peer;
  exchange(peer.connection);
  constexpr int kEach = 20;
  std::vector<Process> crew;
  for (int i = 0; i < 3; ++i) {
    crew.emplace_back([&, i] {
      for (int k = 0; k < kEach; ++k) {
        peer.connection.send_bytes(std::string(kLong, static_cast<char>('a' + i)));
      }
    });
    crew.back().start();
  }
  std::atomic<int> whole{0};
  const auto receive = [&] {
    for (int k = 0; k < 3 * kEach / 2; ++k) {
      const Bytes got = peer.connection.recv_bytes();
      const std::string_view view = got.view();
      whole += view == std::string(kLong, view.empty() ? ' ' : view.front()) ? 1 : 0;
    }
  };
  std::thread one(receive);
  receive();
  one.join();
  EXPECT_EQ(whole, 3 * kEach);
  for (Process& each : crew) each.join();
  peer.end();
}

TEST_F(ListenerPeerTest, AKilledPeerIsTheEnd) {
  std::mt19937 random(11);
  for (int i = 0; i < 20; ++i) {
    Peer peer("echo", i % 2 == 0 ? "AF_UNIX" : "AF_INET");
    exchange(peer.connection);
    auto killer = std::async(std::launch::async, [&, wait = random() % 3000] {
      std::this_thread::sleep_for(std::chrono::microseconds(wait));
      peer.program.kill();
    });
    auto sender = std::async(std::launch::async, [&] {
      return errno_of([&] {
        for (;;) peer.connection.send_bytes(message(kLong, 3));
      });
    });
    EXPECT_THROW(
        {
          for (;;) {
            const Bytes got = peer.connection.recv_bytes();
            EXPECT_EQ(got.view() == message(kLong, 3), true);
          }
        },
        std::exception);
    EXPECT_EQ(sender.get(), EPIPE);
    killer.get();
  }
  EXPECT_EQ(lanes(), 0U);
}

TEST_F(ListenerPeerTest, ASenderDoesNotOutliveAPeerThatReadsNothing) {
  Peer peer("mute");
  auto sender = std::async(std::launch::async, [&] {
    return errno_of([&] {
      for (;;) peer.connection.send_bytes(message(kLong, 3));
    });
  });
  peer.program.kill();
  EXPECT_EQ(sender.get(), EPIPE);
}

// Its own stream may be spoilt; ours stays a stream of messages, and others do not notice.
TEST_F(ListenerPeerTest, AHostilePeerSpoilsWhatItGetsAndGives) {
  Peer honest;
  Peer hostile("hostile");
  exchange(honest.connection);
  for (std::size_t i = 0; i < 200; ++i) {
    hostile.connection.send_bytes(std::string(kLong + i, 'x'));
    EXPECT_EQ(hostile.connection.recv_bytes().size(), kLong + i);
  }
  EXPECT_EQ(lanes(), 4U);
  exchange(honest.connection);
  hostile.end();
  honest.end();
}

TEST_F(ListenerPeerTest, WithoutDescriptorsTheSocketDoes) {
  Peer peer("crowded");
  exchange(peer.connection);
  EXPECT_EQ(lanes(), 0U);
  peer.end();
}

// Only root's program can become another user's.
TEST_F(ListenerPeerTest, WithAnotherUserTheSocketDoes) {
  Peer peer("stranger", "AF_INET");
  exchange(peer.connection);
  EXPECT_EQ(lanes(), ::geteuid() == 0 ? 0U : 2U);
  peer.end();
}

}  // namespace
}  // namespace millrace::test
