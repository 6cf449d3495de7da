// A manager's server on its sockets: accepts clients, serves each connection in a thread of its own
// as CPython's protocol wants it, and notices when a client whose call waits is gone.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <millrace/listener.hpp>
#include <millrace/managers.hpp>
#include <mutex>
#include <span>
#include <unordered_map>

#include "runtime/base/descriptor.hpp"
#include "runtime/managers/manager_server.hpp"
#include "runtime/managers/manager_session.hpp"
#include "sched/quota.hpp"

namespace millrace::runtime {

/// Hears of the end of connections whose threads are busy with a call that waits, and of the end of
/// the process that started the server.
class ManagerWatch {
 public:
  explicit ManagerWatch(ManagerServer& server);
  ManagerWatch(const ManagerWatch&) = delete;
  ManagerWatch& operator=(const ManagerWatch&) = delete;

  /// Until stop(): the body of the watching thread.
  void run();
  void stop() noexcept;
  /// The server stops when this descriptor becomes readable.
  void stop_with(int sentinel);
  /// From add() to remove() the caller may be told to leave().
  std::uint64_t add(std::shared_ptr<ManagerSession> session, int fd);
  void remove(std::uint64_t key) noexcept;
  /// Whether to listen to it now.
  void listen(std::uint64_t key, bool on) noexcept;
  /// Tells all.
  void leave_all() noexcept;

 private:
  struct Entry {
    std::weak_ptr<ManagerSession> session;
    int fd = -1;
  };
  static constexpr std::uint64_t kStop = 0;
  static constexpr std::uint64_t kSentinel = 1;

  ManagerServer& server_;
  Descriptor epoll_;
  Descriptor stop_;
  int sentinel_ = -1;  // set before run()
  std::mutex mutex_;   // guards what follows
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::uint64_t last_key_ = kSentinel;
};

class ManagerService {
 public:
  ManagerService(ManagerTypes types, const connection::ListenerOptions& options);
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
  void accept();
  void converse(const Connection& connection);
  void talk(ManagerSession& session, const Connection& connection);
  std::span<const std::byte> next_request(ManagerSession& session, const Connection& connection,
                                          Bytes& far);
  void answer(ManagerSession& session, const Connection& connection, wire::Writer& reply);
  [[nodiscard]] bool may_spin() const noexcept;

  ManagerServer server_;
  ManagerWatch watch_;
  connection::Listener listener_;
  Monitor monitor_;
  std::unordered_map<std::uint64_t, Connection> open_;  // with the monitor's lock
  std::uint64_t last_ = 0;
  std::size_t threads_ = 0;

  const unsigned cpus_ = static_cast<unsigned>(sched::usable_cpu_count());
  std::atomic<unsigned> awake_{0};  // threads that serve and do not sleep: a guess
};

}  // namespace millrace::runtime
