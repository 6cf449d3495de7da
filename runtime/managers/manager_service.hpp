// A manager's server on its sockets: accepts clients and serves their requests, each of which a
// thread of the crew answers. A thread stays with its connection for as long as that has more to
// ask soon and nobody else waits; then the connection is parked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <millrace/listener.hpp>
#include <millrace/managers.hpp>
#include <span>

#include "runtime/managers/manager_crew.hpp"
#include "runtime/managers/manager_registry.hpp"
#include "runtime/managers/manager_server.hpp"
#include "runtime/managers/manager_talk.hpp"
#include "runtime/managers/manager_watch.hpp"
#include "sched/quota.hpp"

namespace millrace::runtime {

class ManagerService {
 public:
  ManagerService(ManagerTypes types, const connection::ListenerOptions& options,
                 const ManagerLimits& limits);
  ManagerService(const ManagerService&) = delete;
  ManagerService& operator=(const ManagerService&) = delete;
  /// Ends what serve() has not.
  ~ManagerService();

  [[nodiscard]] const connection::Address& address() const noexcept { return listener_.address(); }
  /// Serves until a client asks for shutdown. Calls of user code that are under way are waited
  /// for; calls that wait are ended.
  void serve();
  /// Makes serve() return; any thread.
  void stop() { server_.stop(); }
  /// serve() returns when this descriptor becomes readable.
  void stop_with(int sentinel) { watch_.stop_with(sentinel); }

 private:
  enum class After { again, park, end };

  void accept();
  void admit(Connection connection);
  bool turn(const ManagerCrew::Task& task) noexcept;
  After converse(ManagerTalk& talk);
  std::span<const std::byte> request(ManagerTalk& talk, bool in_line, Bytes& far) const;
  void answer(ManagerTalk& talk, bool stay);
  bool linger(ManagerTalk& talk);
  void wait(ManagerTalk& talk, bool on);
  void end(ManagerTalk& talk);
  [[nodiscard]] bool may_spin() const noexcept;

  const ManagerLimits limits_;
  ManagerServer server_;
  ManagerCrew crew_;
  ManagerWatch watch_;
  connection::Listener listener_;

  const unsigned cpus_ = static_cast<unsigned>(sched::usable_cpu_count());
  std::atomic<unsigned> awake_{0};      // threads that serve and do not sleep: a guess
  std::atomic<unsigned> lingering_{0};  // that wait for their clients
};

}  // namespace millrace::runtime
