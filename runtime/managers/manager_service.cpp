#include "runtime/managers/manager_service.hpp"

#include <millrace/logging.hpp>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channels/program_proof.hpp"
#include "runtime/managers/manager_link.hpp"

namespace millrace::runtime {

namespace {

void put_log(const std::string& text) { get_logger().info(text); }

std::string text_of(const std::exception& error) { return error.what(); }

// Changes a count for as long as it lives. relaxed: a number that nothing depends on
class Change {
 public:
  Change(std::atomic<unsigned>& count, unsigned by) : count_(count), by_(by) {
    count_.fetch_add(by_, std::memory_order_relaxed);
  }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;
  ~Change() { count_.fetch_sub(by_, std::memory_order_relaxed); }

 private:
  std::atomic<unsigned>& count_;
  const unsigned by_;
};

}  // namespace

ManagerService::ManagerService(ManagerTypes types, const connection::ListenerOptions& options)
    : server_(std::move(types)), watch_(server_), listener_(options) {
  server_.address(object_of_address(listener_.address()));
  server_.publish();
}

ManagerService::~ManagerService() { listener_.close(); }

void ManagerService::serve() {
  put_log("manager serving at " + listener_.address().repr());
  std::thread watcher([this] { watch_.run(); });
  std::thread acceptor([this] { accept(); });
  server_.wait_stopped();
  listener_.close();
  acceptor.join();
  std::vector<Connection> last;
  {
    const std::unique_lock guard(monitor_);
    for (auto& [number, connection] : open_) last.push_back(connection);
  }
  // What was answered has been sent: closing keeps what the peer has not read yet.
  for (const Connection& each : last) each.close();
  watch_.leave_all();
  {
    const std::unique_lock guard(monitor_);
    monitor_.wait_for([this] { return threads_ == 0; }, Timeout::Clock::time_point::max());
  }
  watch_.stop();
  watcher.join();
}

void ManagerService::accept() {
  while (!server_.stopping()) {
    try {
      const Connection connection = listener_.accept();
      {
        const std::unique_lock guard(monitor_);
        ++threads_;
      }
      try {
        std::thread([this, connection] { converse(connection); }).detach();
      } catch (...) {
        const std::unique_lock guard(monitor_);
        --threads_;
        throw;
      }
    } catch (const std::system_error& error) {
      if (server_.stopping() || error.code().value() == EBADF) return;
      put_log("manager: " + text_of(error));  // no descriptors or threads: the client is dropped
      std::this_thread::yield();
    } catch (const std::exception& error) {
      put_log("manager refused a client: " + text_of(error));
    }
  }
}

void ManagerService::converse(const Connection& connection) {
  std::uint64_t number = 0;
  {
    const std::unique_lock guard(monitor_);
    number = ++last_;
    open_.emplace(number, connection);
  }
  {
    std::uint64_t key = 0;
    const Change awake(awake_, 1);
    std::shared_ptr<ManagerSession> session;
    try {
      const int socket = connection.fileno();
      const auto watch = [this, &key](bool on) {
        awake_.fetch_add(on ? -1U : 1U, std::memory_order_relaxed);  // a guess
        watch_.listen(key, on);
      };
      session = std::make_shared<ManagerSession>(server_, watch, ends_seen_by_server(socket));
      key = watch_.add(session, socket);
      talk(*session, connection);
    } catch (const CallerGone&) {
      put_log("manager: a client is gone that waited for an answer");
    } catch (const EOFError&) {
      static_cast<void>(0);  // the usual end
    } catch (const std::exception& error) {
      put_log("manager: " + text_of(error));
    }
    watch_.remove(key);
    connection.close();
  }
  const std::unique_lock guard(monitor_);
  open_.erase(number);
  --threads_;
  monitor_.changed();
}

void ManagerService::talk(ManagerSession& session, const Connection& connection) {
  wire::Writer reply;
  Bytes far;
  for (auto next = ManagerSession::Next::go_on; next == ManagerSession::Next::go_on;) {
    std::span<const std::byte> request;
    try {
      request = next_request(session, connection, far);
    } catch (...) {
      // A server that ends has closed the socket itself: the client may still take its reply.
      if (!server_.stopping() && session.line().reclaim()) {
        session.not_sent();
        reply.revert(0);
      }
      throw;
    }
    session.sent();  // who asks again has taken the last reply
    reply.clear();   // what it refers to belongs to the message
    next = session.serve(request, reply);
    answer(session, connection, reply);
  }
}

// Through the line, or into `far`.
std::span<const std::byte> ManagerService::next_request(ManagerSession& session,
                                                        const Connection& connection, Bytes& far) {
  if (session.line().look(may_spin())) return session.line().frame();
  const Change asleep(awake_, -1U);
  far = connection.recv_bytes();
  return {far.data(), far.size()};
}

void ManagerService::answer(ManagerSession& session, const Connection& connection,
                            wire::Writer& reply) {
  ManagerLine& line = session.line();
  line.advise(may_spin());
  line.watch();
  if (line.offer({reply.data(), reply.size()})) return;
  const std::string_view bytes(reinterpret_cast<const char*>(reply.data()), reply.size());
  try {
    connection.send_bytes(bytes);
  } catch (...) {
    session.not_sent();
    reply.revert(0);
    throw;
  }
  session.sent();
  if (session.reply_twice()) connection.send_bytes(bytes);
}

// A client and its thread each want a cpu.
bool ManagerService::may_spin() const noexcept {
  return 2 * awake_.load(std::memory_order_relaxed) <= cpus_;  // a guess
}

}  // namespace millrace::runtime
