// A client's side of a manager: connections to one server, and the references this process has.
//
// Each thread has a connection of its own for calls of methods, as in CPython, so that one that
// waits keeps nobody waiting and RLocks belong to threads; one more, the session, belongs to the
// process and counts its references. While a process has kThreadChannels to a server, a thread that
// needs one more takes it from one that is in no call and holds nothing, whose next call makes
// another; of more, which were all in use, a later call takes those that have become idle. A server
// of CPython's knows no sessions: each of its functions gets a connection, and references of a
// process that is killed stay. Connections to a server of this program have a line
// (manager_line.hpp).
//
// fork(): the child is a client of its own that begins with the parent's references. The parent
// asks for that before it forks, over a connection that only the child keeps: should either die at
// any instant, the kernel closes it, and the server takes the references back.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <millrace/address.hpp>
#include <millrace/bytes.hpp>
#include <millrace/listener.hpp>
#include <millrace/object.hpp>
#include <millrace/timeout.hpp>
#include <millrace/wire/buffer.hpp>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/managers/manager_line.hpp"

namespace millrace::runtime {

/// Python's value of an address, as tokens have it; and back. Throws TypeError.
Object object_of_address(const connection::Address& address);
connection::Address address_of_object(const Object& value);

/// What the server answered.
struct ManagerReply {
  std::string kind;
  Object value;
};
/// The value of '#RETURN'; throws what else there is.
Object returned(ManagerReply reply);

class ManagerLink;
/// The link whose server's reply this thread decodes, or null.
ManagerLink* replying_link() noexcept;

/// What a client sends: ident, method, arguments.
Object manager_request(Object ident, std::string_view method, std::vector<Object> arguments);

class ManagerChannel;
/// A request in the form in which it is sent. Made, and destroyed, without a channel's mutex: to
/// put proxies into it, or to drop what was not sent, may ask the same server.
struct ManagerRequest {
  ManagerRequest(const ManagerChannel& to, const Object& request);
  ManagerRequest(const ManagerRequest&) = delete;
  ~ManagerRequest();
  wire::Writer frame;
};

/// One connection, used by one thread at a time.
class ManagerChannel {
 public:
  enum class Peer { unknown, python, millrace, own_program };

  explicit ManagerChannel(Connection connection);
  /// Sends a request and waits for its reply. Anything thrown but errors of encoding and decoding
  /// leaves it broken.
  /// `link`: whose server it is, for proxies in the reply.
  ManagerReply exchange(const Object& request, ManagerLink* link = nullptr, Timeout limit = {});
  /// The same of a request that was made for this channel: it is empty once it has been sent.
  /// TimeoutError after the limit: the request has been sent, and the next exchange() first takes
  /// its reply.
  ManagerReply exchange(ManagerRequest& request, ManagerLink* link = nullptr, Timeout limit = {});
  /// Before an exchange(): takes what the one before was owed. TimeoutError.
  void take_owed(Timeout limit);
  /// The last request was sent, but its reply not taken yet.
  [[nodiscard]] bool owes() const noexcept { return owed_; }
  /// Lets frames go through shared memory; of a server of this program.
  void open_line(Timeout limit = {});
  /// In a forked child, of the parent's.
  void forget_line() noexcept { line_ = {}; }
  [[nodiscard]] bool broken() const noexcept { return broken_; }
  void close() const noexcept { connection_.close(); }
  /// The server has ended, or this side has closed it.
  [[nodiscard]] bool hung_up() const noexcept;
  [[nodiscard]] int fileno() const { return connection_.fileno(); }
  [[nodiscard]] Peer peer() const noexcept { return peer_; }
  void peer(Peer peer) noexcept { peer_ = peer; }

  std::timed_mutex mutex;  // of a session, which threads share

  // Of a thread's: it is used, or idle and may be taken away by another thread.
  /// Its thread begins a call. False: it has been taken away.
  bool use() noexcept;
  void used() noexcept;
  /// Behind a call, while it is used: its thread may hold a lock by this connection. What it has
  /// acquired is held until this thread releases the same object: no count falls below what an
  /// RLock has, also when it is acquired or released as a Condition. A Semaphore that another
  /// thread gives back keeps the channel in use.
  void note(const std::string& id, std::string_view method, const ManagerReply& reply) noexcept;
  /// Closes it if it is idle. Any thread; false when it is not.
  bool take_away() noexcept;

 private:
  std::span<const std::byte> receive(Bytes& far, Timeout limit);

  Connection connection_;
  ManagerLine line_;
  std::vector<std::byte> taken_;  // what came through the line
  bool owed_ = false;             // a reply that nobody waits for comes first, over the socket
  Peer peer_ = Peer::unknown;
  bool broken_ = false;
  static constexpr int kTaken = -1;
  std::atomic<int> uses_{0};  // calls, and one while anything is held; or kTaken, for good
  std::unordered_map<std::string, std::uint64_t> held_;  // of the thread: how often, by object
};

class ManagerLink : public std::enable_shared_from_this<ManagerLink> {
 public:
  /// So many connections to one server: who opens a further one first takes those that are idle;
  /// and while there are more, because all were in calls, calls take those that have become so.
  static constexpr std::size_t kThreadChannels = 256;

  struct Target {
    connection::Address address;
    Bytes authkey;
    bool legacy_md5 = true;
  };

  /// The link of this process to a server; makes no connection. Any thread.
  static std::shared_ptr<ManagerLink> to(const Target& target);
  explicit ManagerLink(Target target);
  ManagerLink(const ManagerLink&) = delete;
  ManagerLink& operator=(const ManagerLink&) = delete;
  ~ManagerLink();

  [[nodiscard]] const Target& target() const noexcept { return target_; }

  /// Calls a function of the server itself: create, number_of_objects ...
  Object call_server(const char* function, std::vector<Object> arguments);
  /// Calls a method of an object, on this thread's connection.
  ManagerReply call_object(const std::string& id, std::string_view method,
                           std::vector<Object> arguments);
  /// This process has one reference more, which the server knows of already, or is told of.
  void adopt(const std::string& id);
  void incref(const std::string& id);
  /// One less. Never throws: a server that has ended has no references. One that does not answer is
  /// waited for as by discard().
  void decref(const std::string& id) noexcept;
  /// The server keeps the object for a parcel that this process makes: the number by which anyone
  /// gives that back; 0 when it has been shut down. An exception: it does not. From now on the link
  /// lives until it is shut down or the server hangs up: with its session such references would go.
  std::uint64_t depart(const std::string& id);
  /// Gives back what depart() in some process has kept. Never throws, as decref(). A server that
  /// was stopped is waited for 1 s at each step, and then told before the next call_server(), with
  /// a later decref() or discard() when 10 s have passed, or by the maker's end; until then the
  /// link lives. A KeyboardInterrupt meanwhile is left to the next call that waits.
  void discard(const std::string& id, std::uint64_t maker) noexcept;
  /// The server has been told to end: nothing is sent any more, connections are closed.
  void shut_down() noexcept;

 private:
  friend struct ForkedLinks;
  using Channel = std::shared_ptr<ManagerChannel>;

  // What is to be given back: a parcel's reference, by its maker's number, or (0) one of this
  // process's own.
  struct Dropped {
    std::string id;
    std::uint64_t maker;
  };
  enum class Heard { yes, later, over };

  Connection dial(Timeout limit = {}) const;
  Channel open(std::uint64_t client, std::uint64_t parent, Timeout limit = {});
  Channel session(Timeout limit = {});
  void give_back(const std::string& id, std::uint64_t maker) noexcept;
  Heard tell(const Dropped& dropped) noexcept;
  void tell_own(const Dropped& dropped, bool& sent);
  void tell_makers(const Dropped& dropped, bool& sent);
  void tell_late(ManagerChannel* session);
  [[nodiscard]] std::shared_ptr<ManagerLink> stay_while_late() noexcept;
  Channel thread_channel();
  Channel superfluous(std::size_t limit);
  void thin_out() noexcept;
  void drop(const Channel& channel) noexcept;

  const Target target_;
  const std::uint64_t serial_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> crowd_{false};  // more than kThreadChannels, at the last look

  // Under the lock of all links:
  std::uint64_t client_;  // this process's number
  Channel session_;
  std::vector<std::weak_ptr<ManagerChannel>> channels_;
  Timeout::Clock::time_point thin_again_{};  // before then nobody looks whether there are too many
  std::unordered_map<std::string, std::uint64_t> references_;
  std::vector<Dropped> late_;                  // not told yet
  std::shared_ptr<ManagerLink> late_keeps_;    // itself, while there are any
  Timeout::Clock::time_point silent_until_{};  // until then none is tried
  std::shared_ptr<ManagerLink> kept_;          // itself, by depart(); a forked child has none
  Channel for_child_;                          // between a fork's beginning and its end
  std::uint64_t child_ = 0;
};

/// What a server that has ended is heard by.
bool says_ended(const std::system_error& error) noexcept;

/// The lock of all links; no call to a server is made under it. Held across every fork().
std::mutex& links_mutex();
/// Under it.
std::vector<ManagerLink*>& links();

}  // namespace millrace::runtime
