// One end of a Pipe in one process: pipe_body.hpp tells what is shared.
//
// Waiting. A receiver looks at the ring for as long as a wake-up costs, if there is another cpu,
// yields, and parks on a word; it looks after those at the other end as it waits longer
// (shm::Pace). fileno() is an epoll descriptor over the direction's bell and pidfds of the
// processes that have the other end open: of at least one that lives, whenever one does. Those who
// begin or cease to have it open count `moves` up and ring, so that the set is made anew.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/pipe_bell.hpp"
#include "runtime/channels/pipe_body.hpp"
#include "shm/turnstile.hpp"

namespace millrace::runtime {

class PipeEnd final : public ConnectionEnd {
 public:
  /// `token` is a reference of this process to the side's token, which the end takes over.
  PipeEnd(const ConnectionObject& object, void* token);
  ~PipeEnd() override;

  void send(FrameKind kind, std::span<const FramePart> parts) override;
  FrameKind receive(FrameBuffer& frame, std::size_t maxlength) override;
  bool poll(Timeout timeout) override;
  int fileno() override;
  int try_fileno() override;
  std::uint64_t depart() override;

  static const EndOps& ops() noexcept;

 protected:
  void shut() noexcept override;

 private:
  struct Watched {
    shm::ProcessId process;
    int fd;
  };
  class SendTurn;  // pipe_turn.hpp
  class RecvTurn;
  enum class Look { nothing, message, end };

  // With the send lock: pipe_send.cpp.
  bool nobody_will_read();
  std::byte* room_for(std::size_t bytes);
  std::byte* wait_for_room(std::size_t bytes);
  void take_back();
  void announce();
  void published();
  void send_chunks(FrameKind kind, std::span<const FramePart> parts, std::size_t bytes);

  // pipe_receive.cpp; turns hold the recv lock.
  Look look(RecvTurn& turn);
  Look look_patiently(RecvTurn& turn);
  Look look_past() noexcept;
  Look wait_for_message(RecvTurn& turn, shm::Pace& pace);
  shm::SpscMessage spin(RecvTurn& turn);
  bool take_frame(RecvTurn& turn, const shm::SpscMessage& message, FrameBuffer& frame,
                  std::size_t maxlength, FrameKind& kind);
  bool take_chunks(FrameBuffer& frame, std::size_t bytes);
  shm::SpscMessage next_chunk();
  void give_back();
  void after_turn();
  void discard_unread() noexcept;

  // The peer.
  bool peer_gone();
  bool peer_gone_for_certain();
  void ring_for_the_living() noexcept;

  // fileno().
  int own_epoll();
  int begin_fileno();
  void wait_for_epoll();
  bool try_open_epoll();
  void open_epoll();
  void watch_peers();
  bool watch(shm::ProcessId process);
  [[nodiscard]] bool watches(shm::ProcessId process) const noexcept;
  void drop_watches() noexcept;
  bool peers_moved();
  void quiet();
  void settle() noexcept;

  [[nodiscard]] Direction& in() const noexcept { return body_->direction[side_]; }
  [[nodiscard]] Direction& out() const noexcept { return body_->direction[1 - side_]; }
  [[nodiscard]] PipeSide& me() const noexcept { return body_->side[side_]; }
  [[nodiscard]] PipeSide& peer() const noexcept { return body_->side[1 - side_]; }

  shm::ObjectRef body_ref_;
  PipeBody* body_;
  unsigned side_;
  std::atomic<void*> token_;                  // null once shut
  std::atomic<std::uint64_t> peer_checked_;   // ticks(): when the kernel was asked last
  std::atomic<bool> heard_{false};            // a message came since the last that was sent
  std::atomic<std::uint32_t> idle_spins_{0};  // in a row that found nothing; a guess
  std::uint64_t check_interval_;              // ticks
  bool may_spin_;
  Bell bell_in_;
  Bell bell_out_;
  // With bell_mutex().
  int epoll_ = -1;
  pid_t epoll_owner_ = 0;
  std::uint32_t seen_moves_ = 0;
  std::vector<Watched> watched_;
};

/// A process began, or ceased, to have the end open: if nobody has it any more the peers are told.
/// `bell` is that of the direction that the peers read.
void side_changed(PipeBody& body, unsigned side, Bell& bell) noexcept;

}  // namespace millrace::runtime
