// A ConnectionEnd without a kernel or an arena: two ends over two lists, for threads.
#pragma once

#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/channels/connection_end.hpp"

namespace millrace::test {

struct MemoryFrame {
  runtime::FrameKind kind;
  std::vector<std::byte> bytes;
};

struct MemoryChannel {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<MemoryFrame> frames[2];
  bool open[2] = {true, true};
};

class MemoryEnd final : public runtime::ConnectionEnd {
 public:
  MemoryEnd(std::shared_ptr<MemoryChannel> channel, int side, bool python)
      : ConnectionEnd(true, true, python), channel_(std::move(channel)), side_(side) {}
  ~MemoryEnd() override { close(); }

  void send(runtime::FrameKind kind, std::span<const runtime::FramePart> parts) override {
    check_writable();
    MemoryFrame frame{kind, {}};
    for (const runtime::FramePart& part : parts) {
      frame.bytes.insert(frame.bytes.end(), part.begin(), part.end());
    }
    const std::lock_guard guard(channel_->mutex);
    if (!channel_->open[1 - side_]) runtime::throw_broken_pipe();
    channel_->frames[1 - side_].push_back(std::move(frame));
    channel_->changed.notify_all();
  }
  runtime::FrameKind receive(runtime::FrameBuffer& buffer, std::size_t maxlength) override {
    check_readable();
    std::unique_lock guard(channel_->mutex);
    channel_->changed.wait(guard, [&] { return ready(); });
    auto& frames = channel_->frames[side_];
    if (frames.empty()) runtime::throw_end_of_file();
    const MemoryFrame frame = std::move(frames.front());
    frames.pop_front();
    if (frame.kind == runtime::FrameKind::bytes && frame.bytes.size() > maxlength) {
      guard.unlock();
      refuse_rest();
      runtime::throw_bad_message_length();
    }
    std::byte* const to = buffer.resize(frame.bytes.size());
    if (!frame.bytes.empty()) std::memcpy(to, frame.bytes.data(), frame.bytes.size());
    return frame.kind;
  }
  bool poll(Timeout) override {
    const std::lock_guard guard(channel_->mutex);
    return ready();
  }
  int fileno() override { return -1; }

 protected:
  void shut() noexcept override {
    const std::lock_guard guard(channel_->mutex);
    channel_->open[side_] = false;
    channel_->changed.notify_all();
  }

 private:
  [[nodiscard]] bool ready() const {
    return !channel_->frames[side_].empty() || !channel_->open[1 - side_];
  }

  std::shared_ptr<MemoryChannel> channel_;
  int side_;
};

/// Two connected ends in this process.
inline std::pair<Connection, Connection> memory_pipe(bool python = false) {
  auto channel = std::make_shared<MemoryChannel>();
  return {runtime::make_connection(std::make_unique<MemoryEnd>(channel, 0, python)),
          runtime::make_connection(std::make_unique<MemoryEnd>(channel, 1, python))};
}

}  // namespace millrace::test
