#include "kernel_peers.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <boost/interprocess/ipc/message_queue.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"

namespace bench {
namespace {

// Two ends; each sends to and receives from the other.
class Channel {
 public:
  Channel() = default;
  virtual ~Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  virtual void send(int end, const void* data, std::size_t bytes) = 0;
  virtual void receive(int end, void* data, std::size_t bytes) = 0;
};

void check(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  std::exit(1);
}

// Byte streams: a pair of pipes, or of connected sockets.
class Descriptors : public Channel {
 public:
  explicit Descriptors(bool sockets) {
    if (sockets) {
      int ends[2];
      check(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
      for (const int end : {0, 1}) in_[end] = out_[end] = ends[end];
    } else {
      int there[2];
      int back[2];
      check(::pipe(there) == 0 && ::pipe(back) == 0, "pipe");
      out_[0] = there[1];
      in_[1] = there[0];
      out_[1] = back[1];
      in_[0] = back[0];
    }
  }
  ~Descriptors() override {
    for (const int end : {0, 1}) {
      ::close(in_[end]);
      if (out_[end] != in_[end]) ::close(out_[end]);
    }
  }
  void send(int end, const void* data, std::size_t bytes) override {
    const auto* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t done = ::write(out_[end], at, bytes);
      check(done > 0, "write");
      at += done;
      bytes -= static_cast<std::size_t>(done);
    }
  }
  void receive(int end, void* data, std::size_t bytes) override {
    auto* at = static_cast<char*>(data);
    while (bytes > 0) {
      const ssize_t done = ::read(in_[end], at, bytes);
      check(done > 0, "read");
      at += done;
      bytes -= static_cast<std::size_t>(done);
    }
  }

 private:
  int in_[2]{};
  int out_[2]{};
};

class BoostQueues : public Channel {
  using Queue = boost::interprocess::message_queue;

 public:
  explicit BoostQueues(std::size_t bytes) {
    for (const int end : {0, 1}) {
      const std::string name = name_of_queue(end);
      Queue::remove(name.c_str());
      queue_[end] =
          std::make_unique<Queue>(boost::interprocess::create_only, name.c_str(), 16, bytes);
    }
  }
  ~BoostQueues() override {
    for (const int end : {0, 1}) Queue::remove(name_of_queue(end).c_str());
  }
  void send(int end, const void* data, std::size_t bytes) override {
    queue_[end]->send(data, bytes, 0);
  }
  void receive(int end, void* data, std::size_t bytes) override {
    Queue::size_type got = 0;
    unsigned priority = 0;
    queue_[1 - end]->receive(data, bytes, got, priority);
  }

 private:
  std::string name_of_queue(int end) const {
    return "millrace-bench-" + std::to_string(owner_) + "-" + std::to_string(end);
  }
  const pid_t owner_ = ::getpid();
  std::unique_ptr<Queue> queue_[2];
};

std::unique_ptr<Channel> make(KernelPeer peer, std::size_t bytes) {
  if (peer == KernelPeer::boost_message_queue) return std::make_unique<BoostQueues>(bytes);
  return std::make_unique<Descriptors>(peer == KernelPeer::socketpair);
}

}  // namespace

const char* name_of(KernelPeer peer) {
  switch (peer) {
    case KernelPeer::pipe:
      return "pipe";
    case KernelPeer::socketpair:
      return "socketpair";
    default:
      return "Boost message_queue";
  }
}

double kernel_round_trip(KernelPeer peer, std::size_t bytes) {
  constexpr int kRounds = 300;
  const auto channel = make(peer, bytes);
  const auto serve = [&](int end) {
    std::vector<char> buffer(bytes);
    for (int i = 0; i < kRounds; ++i) {
      if (end == 0) channel->send(0, buffer.data(), bytes);
      channel->receive(end, buffer.data(), bytes);
      if (end == 1) channel->send(1, buffer.data(), bytes);
    }
  };
  return pair_ns([&] { serve(0); }, [&] { serve(1); }) / kRounds;
}

double kernel_stream(KernelPeer peer, std::size_t bytes) {
  constexpr int kCount = 30000;
  const auto channel = make(peer, bytes);
  const double ns = pair_ns(
      [&] {
        std::vector<char> buffer(bytes);
        for (int i = 0; i < kCount; ++i) channel->send(0, buffer.data(), bytes);
        channel->receive(0, buffer.data(), bytes);
      },
      [&] {
        std::vector<char> buffer(bytes);
        for (int i = 0; i < kCount; ++i) channel->receive(1, buffer.data(), bytes);
        channel->send(1, buffer.data(), bytes);
      });
  return kCount * 1e3 / ns;
}

}  // namespace bench
