// Peers that mean ill and are many, slow or boastful: the Listener serves the others, and neither
// descriptors nor memory run away.
#include <fcntl.h>

#include <cstdio>
#include <fstream>
#include <millrace/synchronize.hpp>

#include "tests/api/listener_support.hpp"

namespace millrace::test {
namespace {

constexpr std::string_view kLongHeader = "\xff\xff\xff\xff";

std::size_t descriptors() { return names_in("/proc/self/fd").size(); }
std::size_t threads() { return names_in("/proc/self/task").size(); }

// The most memory that this process ever had, in KiB.
long peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(6));
  }
  ADD_FAILURE() << "no VmHWM";
  return 0;
}

std::string big_endian(std::uint64_t number) {
  std::string bytes;
  for (unsigned shift = 64; shift > 0; shift -= 8) {
    bytes += static_cast<char>(number >> (shift - 8) & 0xffU);
  }
  return bytes;
}

// Connections that say nothing, or begin and do not go on; held until `stop`.
void crowd(const Address& address, const Semaphore& there, const Event& stop) {
  std::vector<RawPeer> peers;
  for (int i = 0; i < 500; ++i) {
    peers.emplace_back(address);
    if (i % 3 == 1) peers.back().send(RawPeer::header(40).substr(0, 2));
    if (i % 3 == 2) peers.back().send(RawPeer::header(40) + "{sha256}");
  }
  there.release();
  stop.wait();
}

TEST_F(ListenerTest, AThousandPeersThatProveNothingKeepNobodyOut) {
  const Listener listener({.backlog = 64, .authkey = "key", .handshake_timeout = kPatient});
  EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);  // which opens what it needs
  const std::size_t before = descriptors();
  const std::size_t threads_before = threads();
  const Semaphore there(0);
  const Event stop;
  std::array<Process, 2> crowds;
  for (Process& each : crowds) {
    each = Process(&crowd, listener.address(), there, stop);
    each.start();
  }
  auto accepting = std::async(std::launch::async, [&] { return listener.accept(); });
  for (std::size_t i = 0; i < crowds.size(); ++i) there.acquire();
  const Connection honest =
      Client(listener.address(), {.authkey = "key", .handshake_timeout = kPatient});
  const Connection here = accepting.get();
  honest.send("let in");
  EXPECT_EQ(here.recv<std::string>(), "let in");
  EXPECT_LE(descriptors(), before + 512 + 16);  // as many unknown peers as are kept, and a few
  EXPECT_LE(threads(), threads_before + 1);     // the one that accepted may not be gone yet
  stop.set();
  for (Process& each : crowds) {
    each.join();
    each.close();
  }
  // Once they are gone, so is what was kept for them.
  honest.close();
  here.close();
  while (descriptors() > before) EXPECT_THROW(listener.accept(milliseconds(1)), TimeoutError);
}

// A peer that sends `rounds` frames, with 250 descriptors each.
void flood(const Address& address, int rounds) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  address.path().copy(to.sun_path, sizeof to.sun_path - 1);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) throw SystemExit(1);
  std::array<int, 250> given{};
  given.fill(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::string frame = RawPeer::header(5) + "frame";
  for (int i = 0; i < rounds; ++i) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof given)> control{};
    iovec bytes{frame.data(), frame.size()};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof given);
    std::memcpy(CMSG_DATA(head), given.data(), sizeof given);
    while (::sendmsg(fd, &message, MSG_NOSIGNAL) < 0) {
      if (errno == EPIPE || errno == ECONNRESET) return;   // it was hung up on
      if (errno != ETOOMANYREFS) throw SystemExit(errno);  // else: until some are read
      ::sched_yield();
    }
  }
}

// Ten thousand in the messages of a connection.
TEST_F(ListenerTest, DescriptorsThatNobodyAskedForAreNotKept) {
  constexpr int kRounds = 40;
  const Listener listener;
  Process peer(&flood, listener.address(), kRounds);
  peer.start();
  const Connection here = listener.accept();
  EXPECT_EQ(here.recv_bytes(), "frame");
  const std::size_t before = descriptors();
  for (int i = 1; i < kRounds; ++i) {
    EXPECT_EQ(here.recv_bytes(), "frame");
    EXPECT_LE(descriptors(), before + 8);  // what waiting needs; a message brings 250
  }
  EXPECT_THROW((void)here.recv_bytes(), EOFError);
  peer.join();
  EXPECT_EQ(peer.exitcode(), 0);
}

// A deadline is not put off by a byte now and then.
TEST_F(ListenerTest, APeerThatDripsHasTheSameDeadline) {
  constexpr auto kDeadline = milliseconds(50);
  const Listener listener({.authkey = "key", .handshake_timeout = kDeadline});
  EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
  const RawPeer slow(listener.address());
  const std::size_t before = descriptors();
  EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
  const auto begun = std::chrono::steady_clock::now();
  slow.send(RawPeer::header(256));
  while (std::chrono::steady_clock::now() < begun + kDeadline) {
    slow.send("x");
    EXPECT_THROW(listener.accept(milliseconds(1)), TimeoutError);
  }
  EXPECT_THROW(listener.accept(milliseconds(0)), TimeoutError);
  EXPECT_EQ(descriptors(), before);
}

TEST_F(ListenerTest, LengthsThatAreBoastedOfCostNoMemory) {
  const Listener listener;
  const long before = peak_memory();
  for (const std::uint64_t boast :
       {std::uint64_t{1} << 32U, std::uint64_t{1} << 62U, ~std::uint64_t{0}}) {
    RawPeer peer(listener.address());
    const Connection here = listener.accept();
    peer.send(std::string(kLongHeader) + big_endian(boast) + "and little more");
    peer.close();
    const int error = errno_of([&] { (void)here.recv_bytes(); });
    if (boast == ~std::uint64_t{0}) {
      EXPECT_EQ(error, EMSGSIZE);
    } else {  // so much memory is there, untouched, or it is not
      EXPECT_TRUE(error == EIO || error == ENOMEM) << error;
    }
  }
  // A quarter of the 4 GiB: AddressSanitizer's notes of them take an eighth.
  EXPECT_LT(peak_memory() - before, 1 << 20);
}

}  // namespace
}  // namespace millrace::test
