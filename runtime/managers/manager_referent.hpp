// What a manager's server holds, and who asks it: referents, calls of their methods, clients.
//
// Invariants
// 1. A referent is safe to call from many threads at once; none calls into another while it holds
//    its own lock, but for a Condition, which calls its lock's (never the reverse).
// 2. A call that waits does so by ManagerCaller::wait(): when its client is gone or the server
//    stops, it ends by CallerGone with nothing changed.
// 3. What a client's end gives back (locks, permits) is given back by client_gone(), once, after
//    the last call of that client has ended.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/monitor.hpp>
#include <millrace/object.hpp>
#include <millrace/timeout.hpp>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace millrace::runtime {

class Referent;

/// Thrown out of a call whose caller cannot hear the answer any more.
struct CallerGone {};

/// One client: a millrace process with all its connections, or one connection of CPython's.
struct ManagerClient {
  std::uint64_t id = 0;
  pid_t pid = 0;  // 0: unknown
  // Whether its end is the end of a process: then what it held is abandoned. CPython closes
  // connections of living threads, and a lock may be released by another thread.
  bool ends_with_process = false;

  std::mutex mutex;  // guards what follows
  std::unordered_map<std::string, std::uint64_t> references;  // its forked children begin with them
  std::unordered_map<std::string, std::uint64_t> departed;    // of parcels that it has made
  std::vector<std::weak_ptr<Referent>> held;  // that may have to be told of its end
  int connections = 0;

  /// Notes a referent that this client holds a part of.
  void holds(const std::shared_ptr<Referent>& referent);
};

/// Who makes a call: one connection of a client. RLocks belong to it, as in CPython to the thread
/// that serves it.
class ManagerCaller {
 public:
  /// Tells the transport to watch, or to stop watching, for the end of the connection.
  using Watch = std::function<void(bool on)>;

  explicit ManagerCaller(std::shared_ptr<ManagerClient> of, Watch watch = {});

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] ManagerClient& client() const noexcept { return *client_; }
  [[nodiscard]] const std::shared_ptr<ManagerClient>& shared_client() const noexcept {
    return client_;
  }
  void become(std::shared_ptr<ManagerClient> client) noexcept { client_ = std::move(client); }
  /// True when its values are pickles: what only this program understands must not be sent.
  [[nodiscard]] bool speaks_pickle() const noexcept { return speaks_pickle_; }
  void speak_pickle(bool pickle) noexcept { speaks_pickle_ = pickle; }

  /// The connection has ended: calls that wait end by CallerGone. Any thread.
  void leave();
  [[nodiscard]] bool gone() const noexcept {
    return gone_.load(std::memory_order_acquire);  // OBSERVE gone: manager_referent.cpp
  }

  /// While it exists the transport tells of the connection's end, for calls that wait elsewhere.
  class Watching {
   public:
    explicit Watching(ManagerCaller& caller) : caller_(caller) {
      if (caller_.watch_) caller_.watch_(true);
    }
    Watching(const Watching&) = delete;
    ~Watching() {
      if (caller_.watch_) caller_.watch_(false);
    }

   private:
    ManagerCaller& caller_;
  };

  /// With the monitor's lock: waits until ready(); false when the deadline passed first. Throws
  /// CallerGone, with the lock held.
  template <class Ready>
  bool wait(const std::shared_ptr<Monitor>& monitor, Ready&& ready,
            Timeout::Clock::time_point deadline) {
    if (ready()) return true;
    const Parked parked(*this, monitor);
    return monitor->wait_for(
        [&] {
          if (gone()) throw CallerGone();
          return ready();
        },
        deadline);
  }

 private:
  // Where leave() finds a waiting call. Set with the monitor's lock held; leave() takes the two
  // locks one after the other, never inside each other.
  struct Parked {
    Parked(ManagerCaller& caller, const std::shared_ptr<Monitor>& monitor);
    Parked(const Parked&) = delete;
    ~Parked();
    ManagerCaller& caller;
  };

  std::uint64_t id_;
  std::shared_ptr<ManagerClient> client_;
  Watch watch_;
  bool speaks_pickle_ = true;
  std::atomic<bool> gone_{false};
  std::mutex mutex_;  // guards parked_
  std::shared_ptr<Monitor> parked_;
};

/// The arguments of a call by the names of its parameters.
class Parameters {
 public:
  [[nodiscard]] bool has(std::size_t i) const noexcept { return given_[i] != nullptr; }
  /// The argument; None when it was left out.
  [[nodiscard]] const Object& operator[](std::size_t i) const noexcept;
  [[nodiscard]] bool flag(std::size_t i, bool otherwise) const;

 private:
  friend class ManagerCall;
  const Object* given_[4] = {};
};

/// One call of a method.
class ManagerCall {
 public:
  std::string_view method;
  std::vector<Object> arguments;
  Dict keywords;
  ManagerCaller& caller;

  /// Matches the arguments with up to 4 parameters, of which the first `required` have no
  /// default. Throws TypeError as Python's calls do.
  Parameters bind(std::initializer_list<std::string_view> names, std::size_t required = 0) const;
};

/// What a method gives back.
struct ManagerAnswer {
  ManagerAnswer() = default;
  template <class T>
  requires std::is_constructible_v<Object, T> ManagerAnswer(T&& of)  // NOLINT: a value
      : value(std::forward<T>(of)) {}

  Object value;
  std::shared_ptr<Referent> referent = {};  // what a method_to_typeid makes an object of
  std::function<void()> undo = {};          // when the answer could not be sent
};

/// A shared object.
class Referent : public std::enable_shared_from_this<Referent> {
 public:
  Referent() = default;
  Referent(const Referent&) = delete;
  Referent& operator=(const Referent&) = delete;
  virtual ~Referent() = default;

  /// The name of its class in Python.
  [[nodiscard]] virtual std::string class_name() const = 0;
  /// Its methods that do not begin with an underscore: what a type without a list exposes.
  [[nodiscard]] virtual std::vector<std::string> public_methods() const = 0;
  [[nodiscard]] virtual bool has_method(std::string_view name) const = 0;
  /// Calls a method that it has.
  virtual ManagerAnswer call(ManagerCall& call) = 0;
  /// Python: repr(), str() and a copy of it (#GETVALUE).
  virtual std::string repr();
  virtual std::string str() { return repr(); }
  virtual Object value(const ManagerCaller& caller);
  /// A client that holds() it has ended.
  virtual void client_gone(const ManagerClient&) {}
  /// The same for all referents of one thing, so that it is one shared object. Python: id(obj).
  [[nodiscard]] virtual const void* identity() const { return this; }
};

/// A referent that finds its methods in Self::kMethods.
template <class Self>
class TableReferent : public Referent {
 public:
  struct Method {
    std::string_view name;
    ManagerAnswer (Self::*run)(ManagerCall& call);
  };

  std::vector<std::string> public_methods() const override {
    std::vector<std::string> names;
    for (const Method& each : Self::kMethods) {
      if (each.name[0] != '_') names.emplace_back(each.name);
    }
    return names;
  }
  bool has_method(std::string_view name) const override { return find(name) != nullptr; }
  ManagerAnswer call(ManagerCall& call) override {
    const Method* const method = find(call.method);
    if (method == nullptr) throw AttributeError(std::string(call.method));
    return (static_cast<Self&>(*this).*method->run)(call);
  }

 private:
  static const Method* find(std::string_view name) noexcept {
    for (const Method& each : Self::kMethods) {
      if (each.name == name) return &each;
    }
    return nullptr;
  }
};

/// Raised by a referent as this exception of Python's: `#ERROR`, whatever its class.
struct RaisedValue {
  Object exception;
};
[[noreturn]] void raise_python(const char* name, Object argument);
[[noreturn]] void raise_stop_iteration();

/// Seconds, or None for ever. Throws TypeError.
Timeout timeout_of(const Object& seconds);
/// True for a negative number.
bool is_negative(const Object& number);
/// "0x7f0c...": an address as reprs have it.
std::string address_text(const void* of);

}  // namespace millrace::runtime
