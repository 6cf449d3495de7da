// One connection of a manager's server on its way between the threads that serve it.
//
// It is in one of four places, and one thread at most touches its session: with a thread of the
// crew (served), which may wait inside a call (waiting); on the watch's descriptor until its next
// request comes (parked); in the crew's queue.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/wire/buffer.hpp>
#include <utility>

#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/patience.hpp"
#include "runtime/channels/program_proof.hpp"
#include "runtime/managers/manager_session.hpp"

namespace millrace::runtime {

struct ManagerTalk {
  using OnWait = std::function<void(ManagerTalk& talk, bool on)>;

  // How long a thread waits for its client.
  static constexpr std::chrono::milliseconds kLinger{20};

  ManagerTalk(ManagerServer& server, Connection of, OnWait on_wait)
      : connection(std::move(of)),
        end(end_of(connection)),
        socket(connection.fileno()),
        session(
            server, [this, told = std::move(on_wait)](bool on) { told(*this, on); },
            ends_seen_by_server(socket)) {
    end.read_ahead(kLinger);
  }
  ManagerTalk(const ManagerTalk&) = delete;
  ManagerTalk& operator=(const ManagerTalk&) = delete;

  const Connection connection;
  ConnectionEnd& end;  // until the connection is closed
  const int socket;  // open from ManagerWatch::add() to remove()
  ManagerSession session;
  // The last one, which may lie in the line still.
  std::unique_ptr<wire::Writer> reply = std::make_unique<wire::Writer>();
  Patience patience;

  // Of ManagerWatch, under its lock.
  enum class Place : std::uint8_t { served, waiting, parked };
  std::uint64_t key = 0;
  Place place = Place::served;
  bool registered = false;
  bool refused = false;
  std::chrono::steady_clock::time_point until = std::chrono::steady_clock::time_point::max();
};

}  // namespace millrace::runtime
