#include "runtime/managers/manager_service.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <millrace/logging.hpp>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/managers/manager_link.hpp"

namespace millrace::runtime {

namespace {

using Waits = ConnectionEnd::Waits;

// How many threads wait for their clients at once.
constexpr unsigned kLingering = 16;
// Connections beyond the limit that are told so. Those beyond these are hung up on.
constexpr std::size_t kRefused = 64;
// Until a server without descriptors or memory tries again to let a client in.
constexpr std::chrono::milliseconds kRetry{50};
// For replies that are under way when the server stops.
constexpr std::chrono::milliseconds kLastReplies{100};
// Bytes of a reply whose memory a connection keeps.
constexpr std::size_t kKeptReply = std::size_t{64} << 10U;

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

std::string_view text_of(const wire::Writer& frame) {
  return {reinterpret_cast<const char*>(frame.data()), frame.size()};
}

}  // namespace

ManagerService::ManagerService(ManagerTypes types, const connection::ListenerOptions& options,
                               const ManagerLimits& limits)
    : limits_(limits),
      server_(std::move(types)),
      crew_([this](const ManagerCrew::Task& task) { return turn(task); }),
      watch_(server_, crew_),
      listener_(options) {
  server_.reached_by({object_of_address(listener_.address()), options.authkey.value_or(Bytes()),
                      options.legacy_md5});
  server_.watched_by(&watch_);
  server_.publish();
}

ManagerService::~ManagerService() {
  listener_.close();
  server_.watched_by(nullptr);
}

void ManagerService::serve() {
  put_log("manager serving at " + listener_.address().repr());
  std::thread watcher([this] { watch_.run(); });
  std::thread acceptor([this] { accept(); });
  server_.wait_stopped();
  listener_.close();
  acceptor.join();
  // Nothing is asked any more: each connection ends where it next waits for a request.
  watch_.hang_up(SHUT_RD);
  watch_.leave_all();
  if (!watch_.wait_for_fewer(1, kLastReplies)) watch_.hang_up(SHUT_RDWR);
  watch_.wait_for_fewer(1, {});
  crew_.dismiss();
  watch_.stop();
  watcher.join();
}

void ManagerService::accept() {
  while (!server_.stopping()) {
    try {
      admit(listener_.accept());
    } catch (const std::system_error& error) {
      if (server_.stopping() || error.code().value() == EBADF) return;
      put_log("manager: " + text_of(error));  // no descriptors or memory
      watch_.wait_for_fewer(watch_.size(), kRetry);
    } catch (const std::exception& error) {
      put_log("manager refused a client: " + text_of(error));
    }
  }
}

void ManagerService::admit(Connection connection) {
  const bool refused = watch_.admitted() >= limits_.connections;
  if (refused) put_log("manager refused a client: too many connections");
  if (refused && watch_.refused() >= kRefused) return;
  const auto on_wait = [this](ManagerTalk& talk, bool on) { wait(talk, on); };
  const auto talk = std::make_shared<ManagerTalk>(server_, std::move(connection), on_wait);
  std::optional<std::chrono::milliseconds> refused_for;
  if (refused) {
    refused_for = limits_.refused_for;
    talk->session.refuse("the manager's server has its " + std::to_string(limits_.connections) +
                         " connections: ManagerOptions::max_connections");
  }
  if (!watch_.add(talk, refused_for)) {
    throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  }
}

// A call of this connection begins (ends) to wait.
void ManagerService::wait(ManagerTalk& talk, bool on) {
  awake_.fetch_add(on ? -1U : 1U, std::memory_order_relaxed);  // a guess
  watch_.listen(talk, on);
  crew_.stand_aside(on);
}

bool ManagerService::turn(const ManagerCrew::Task& task) noexcept {
  ManagerTalk& talk = *task;
  const Change awake(awake_, 1);
  try {
    switch (converse(talk)) {
      case After::again:
        return true;
      case After::park:
        if (watch_.park(talk)) return false;
        put_log("manager: a connection cannot be watched");
        break;
      case After::end:
        break;
    }
  } catch (const CallerGone&) {
    put_log("manager: a client is gone that waited for an answer");
  } catch (const EOFError&) {
    static_cast<void>(0);  // the usual end
  } catch (const std::exception& error) {
    put_log("manager: " + text_of(error));
  }
  end(talk);
  return false;
}

void ManagerService::end(ManagerTalk& talk) {
  watch_.remove(talk);
  talk.connection.close();
  talk.session.end();
}

// One request of a connection, and those that follow at once while nobody else waits.
ManagerService::After ManagerService::converse(ManagerTalk& talk) {
  if (!talk.end.something_there(Waits::no)) return After::park;
  ManagerSession& session = talk.session;
  Bytes far;
  for (bool in_line = false;;) {
    const std::span<const std::byte> asked = request(talk, in_line, far);
    session.sent();       // who asks again has taken the last reply
    talk.reply->clear();  // what it refers to belongs to the message
    const auto next = session.serve(asked, *talk.reply);
    const bool stay = !crew_.crowded();
    answer(talk, stay);
    if (next == ManagerSession::Next::hang_up || server_.stopping()) return After::end;
    if (!stay) return After::again;
    in_line = session.line().look(may_spin());
    if (!in_line && !linger(talk)) return After::park;
  }
}

// Through the line, or into `far`.
std::span<const std::byte> ManagerService::request(ManagerTalk& talk, bool in_line,
                                                   Bytes& far) const {
  if (in_line) return talk.session.line().frame();
  try {
    far = talk.connection.recv_bytes(static_cast<std::ptrdiff_t>(limits_.request_bytes));
  } catch (...) {
    // A server that ends has hung up itself: the client may still take its reply.
    if (!server_.stopping() && talk.session.line().reclaim()) {
      talk.session.not_sent();
      talk.reply->revert(0);
    }
    throw;
  }
  return {far.data(), far.size()};
}

// While others wait the next request comes over the socket, where it can wait too.
void ManagerService::answer(ManagerTalk& talk, bool stay) {
  ManagerLine& line = talk.session.line();
  wire::Writer& reply = *talk.reply;
  line.advise(may_spin());
  if (stay) line.watch();
  if (line.offer({reply.data(), reply.size()})) return;
  try {
    talk.connection.send_bytes(text_of(reply));
  } catch (...) {
    talk.session.not_sent();
    reply.revert(0);
    throw;
  }
  talk.session.sent();
  if (talk.session.reply_twice()) talk.connection.send_bytes(text_of(reply));
  if (reply.size() > kKeptReply) talk.reply = std::make_unique<wire::Writer>();
}

// Whether the next request comes soon: the thread and its client are still warm.
bool ManagerService::linger(ManagerTalk& talk) {
  if (!talk.session.line() && may_spin()) {
    if (talk.patience.wait([&] { return talk.end.something_there(Waits::no); })) return true;
  }
  const Change asleep(awake_, -1U);
  const Change one(lingering_, 1);
  // relaxed: one more or less
  if (lingering_.load(std::memory_order_relaxed) > kLingering) {
    return talk.end.something_there(Waits::no);
  }
  crew_.stand_aside(true);
  const bool come = talk.end.something_there(Waits::yes);
  crew_.stand_aside(false);
  return come;
}

// A client and its thread each want a cpu.
bool ManagerService::may_spin() const noexcept {
  return 2 * awake_.load(std::memory_order_relaxed) <= cpus_;  // a guess
}

}  // namespace millrace::runtime
