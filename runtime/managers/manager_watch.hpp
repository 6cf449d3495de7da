// The descriptor on which a manager's server waits for all its connections at once.
//
// Invariants
// 1. A connection is parked by the thread that served it, as the last thing it does with it, and is
//    given to the crew once for each time: whoever sees its place change from parked, under the
//    lock. An event that is read late changes nothing, or brings one turn that finds nothing to do.
// 2. While a call waits, only the end of its connection is listened for.
// 3. Refused connections are counted apart, and each is hung up on at its time: however many there
//    are, and whatever they do, they take nobody's place.
//
// A client that dies at any instant is the end of file of its socket: a parked connection is given
// to the crew, which ends it; a call that waits is told to leave(); a thread that serves it or
// waits for it reads the end itself.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "runtime/base/descriptor.hpp"
#include "runtime/managers/manager_crew.hpp"
#include "runtime/managers/manager_talk.hpp"

namespace millrace::runtime {

class ManagerWatch {
 public:
  ManagerWatch(ManagerServer& server, ManagerCrew& crew);
  ManagerWatch(const ManagerWatch&) = delete;
  ManagerWatch& operator=(const ManagerWatch&) = delete;

  /// Until stop(): the body of the watching thread.
  void run();
  void stop() noexcept;
  /// The server stops when this descriptor becomes readable.
  void stop_with(int sentinel);

  /// A new connection. Parks it. False: it cannot be watched. `refused_for`: it is refused, and
  /// has this long to ask for the reason.
  bool add(const std::shared_ptr<ManagerTalk>& talk,
           std::optional<std::chrono::milliseconds> refused_for = {});
  /// It ends: its descriptor may be closed behind this.
  void remove(ManagerTalk& talk) noexcept;
  /// Its next request is waited for; from here on it belongs to others. False: it cannot be
  /// watched.
  bool park(ManagerTalk& talk) noexcept;
  /// Whether the end of its connection ends its call, which waits.
  void listen(ManagerTalk& talk, bool on) noexcept;

  /// Objects are held until the descriptor is hung up on: they are moved from then, else the
  /// caller's still.
  void hold(Descriptor until, std::vector<std::shared_ptr<SharedObject>>& objects) noexcept;

  /// Connections, those that are refused among them.
  [[nodiscard]] std::size_t size();
  [[nodiscard]] std::size_t admitted();
  [[nodiscard]] std::size_t refused();
  /// Until less than `fewer` are left; false when the time is up. Without one: for ever.
  bool wait_for_fewer(std::size_t fewer, std::optional<std::chrono::milliseconds> time);
  /// All connections: shutdown(2).
  void hang_up(int how) noexcept;
  /// Ends all calls that wait.
  void leave_all() noexcept;

 private:
  static constexpr std::uint64_t kStop = 0;
  static constexpr std::uint64_t kSentinel = 1;
  static constexpr std::uint64_t kTimer = 2;

  void see(const epoll_event& event);
  bool let_go(std::uint64_t key);
  bool arm(ManagerTalk& talk, std::uint32_t events) noexcept;
  void end_refused() noexcept;
  void set_timer(std::chrono::steady_clock::time_point until) noexcept;

  ManagerServer& server_;
  ManagerCrew& crew_;
  Descriptor epoll_;
  Descriptor stop_;
  Descriptor timer_;   // readable when a refused connection has had its time
  int sentinel_ = -1;  // set before run()
  std::mutex mutex_;   // guards what follows
  struct Held {
    Descriptor until;
    std::vector<std::shared_ptr<SharedObject>> objects;
  };
  std::unordered_map<std::uint64_t, std::shared_ptr<ManagerTalk>> entries_;
  std::unordered_map<std::uint64_t, Held> held_;
  std::uint64_t last_key_ = kTimer;
  std::size_t refused_ = 0;  // of the entries
  bool timer_set_ = false;
  std::condition_variable removed_;
};

}  // namespace millrace::runtime
