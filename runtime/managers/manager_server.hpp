// A manager's server without its sockets: objects, references, and the functions that CPython's
// protocol calls by name. A request goes in, a reply comes out (manager_session.hpp).
//
// Invariants
// 1. An object is in the table while its reference count is not 0, and reachable by its id as long
//    as anything in the server holds it, such as a proxy inside a list.
// 2. References of a client that ends with its process are counted twice: at the object and at the
//    client. When the client's last connection ends, what is left at the client is taken off.
// 3. Objects are destroyed, and user code is called, without the server's lock.
// 4. Who is not one of its sessions uses a server by a copy of self_, taken under the lock of all
//    servers of the process or by a SharedObject; its end waits until there is none.
// 5. In a forked child all this is a copy that serves nobody: nothing takes its locks, which may
//    have been copied held, and its objects are called at the server.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <millrace/bytes.hpp>
#include <millrace/object.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/base/descriptor.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_registry.hpp"

namespace millrace::runtime {

class ManagerServer;
class ManagerWatch;

/// How other processes reach a server.
struct ServerReach {
  Object address;  // as tokens name it
  Bytes authkey;
  bool legacy_md5 = true;
};

/// One shared object: a referent under its id.
class SharedObject {
 public:
  SharedObject(ManagerServer& server, std::string id);
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;
  ~SharedObject();

  const std::string id;
  std::string type_id;
  std::shared_ptr<Referent> referent;
  std::vector<std::string> exposed;
  const ManagerType* type = nullptr;
  std::uint64_t references = 0;  // under the server's lock

  [[nodiscard]] bool exposes(std::string_view method) const noexcept;
  /// False in a forked child of the server's process.
  [[nodiscard]] bool is_here() const noexcept;
  /// None when the server has ended.
  [[nodiscard]] std::optional<ServerReach> reach() const;
  /// Null when it has ended; in its process only.
  [[nodiscard]] std::shared_ptr<ManagerServer> server() const { return server_.lock(); }

 private:
  friend class ManagerServer;
  std::weak_ptr<ManagerServer> server_;  // whom to tell of the end
  const pid_t process_;
};

/// What a server says of an object that it made: its id and the names it exposes.
struct CreatedObject {
  std::shared_ptr<SharedObject> object;
  Object exposed;
};

class ManagerServer {
 public:
  explicit ManagerServer(ManagerTypes types);
  ManagerServer(const ManagerServer&) = delete;
  ManagerServer& operator=(const ManagerServer&) = delete;
  ~ManagerServer();

  /// Where it listens, and with which key. Set before the first request.
  void reached_by(ServerReach reach) { reach_ = std::move(reach); }
  [[nodiscard]] const ServerReach& reach() const noexcept { return reach_; }
  [[nodiscard]] const ManagerTypes& types() const noexcept { return types_; }

  /// Makes an object; the caller has one reference. Throws what the type's function throws,
  /// KeyError for an unknown typeid.
  CreatedObject create(ManagerCall& call, const std::string& typeid_name);
  /// The same of something that a method gave back.
  CreatedObject share(ManagerCaller& caller, const std::string& typeid_name, ManagerAnswer& of);
  /// Throws KeyError for an unknown id.
  void incref(ManagerCaller& caller, const std::string& id);
  void decref(ManagerCaller& caller, const std::string& id);
  /// A parcel of the caller's has a reference (manager_travel.hpp). KeyError for an unknown id.
  void depart(ManagerCaller& caller, const std::string& id);
  /// Who drops the last of it says so, for its maker; nothing if that one has ended.
  void discard(std::uint64_t maker, const std::string& id);
  /// The same in the server's process, for its own objects: the maker's number, 0 when the server
  /// has ended; false when it is no server of this process's.
  static std::uint64_t depart_own(const SharedObject& object);
  static bool discard_own(const Object& address, const std::string& id, std::uint64_t maker);
  [[nodiscard]] std::shared_ptr<SharedObject> find(const std::string& id);
  [[nodiscard]] bool owns(const SharedObject& object) const noexcept {
    return !object.server_.owner_before(self_) && !self_.owner_before(object.server_);
  }
  [[nodiscard]] std::size_t number_of_objects();
  [[nodiscard]] std::string debug_info();
  Object token_of(const SharedObject& object) const;

  /// A client by the number that all its connections give, made on first use; `parent` is whose
  /// references a new one begins with.
  std::shared_ptr<ManagerClient> client(std::uint64_t number, pid_t pid, std::uint64_t parent);
  /// One connection of a client has ended; with the last one what it held is given back.
  void disconnect(const std::shared_ptr<ManagerClient>& client);

  /// Set by the request `shutdown`.
  void stop();
  [[nodiscard]] bool stopping() const noexcept {
    return stopping_.load(std::memory_order_acquire);  // OBSERVE stop: manager_server.cpp
  }
  /// Waits for it.
  void wait_stopped();

  /// Objects are held until the descriptor, of a pipe that a forked child has the other end of, is
  /// hung up on (manager_heirs.hpp); not at all without a watch.
  void hold(Descriptor until, std::vector<std::shared_ptr<SharedObject>> objects) noexcept;
  /// Who sees to that; null before it ends.
  void watched_by(ManagerWatch* watch) noexcept;

  /// The object of a server of this process, or null when none listens at the address. Throws
  /// KeyError when one does and has no such object.
  static std::shared_ptr<SharedObject> object_at(const Object& address, const std::string& id);
  /// Proxies of its address that arrive in this process are its objects from now on.
  void publish();

 private:
  friend class SharedObject;
  using Objects = std::unordered_map<std::string, std::shared_ptr<SharedObject>>;

  std::shared_ptr<SharedObject> entry_of(const std::string& typeid_name,
                                         std::shared_ptr<Referent> referent);
  const ManagerType& type_of(const std::string& typeid_name) const;
  void forget(const SharedObject& object);
  void add_reference(const std::string& id);
  bool take_reference(const std::string& id);
  static std::shared_ptr<ManagerServer> server_at(const Object& address,
                                                  std::shared_ptr<SharedObject>& object,
                                                  const std::string& id);
  void unpublish() noexcept;

  const ManagerTypes types_;
  const pid_t process_;
  ServerReach reach_;
  std::mutex mutex_;  // guards what follows
  Objects objects_;
  std::unordered_map<std::string, std::weak_ptr<SharedObject>> known_;  // all that are alive
  std::unordered_map<const void*, std::weak_ptr<SharedObject>> by_identity_;
  std::unordered_map<std::uint64_t, std::weak_ptr<ManagerClient>> clients_;
  std::shared_ptr<ManagerClient> itself_;  // as a maker of parcels
  std::uint64_t last_id_;
  ManagerWatch* watch_ = nullptr;

  std::atomic<bool> stopping_{false};
  Monitor stopped_;
  Monitor users_;
  bool unused_ = false;                  // under the lock of users_
  std::shared_ptr<ManagerServer> self_;  // whose deleter sets it
};

}  // namespace millrace::runtime
