// What is behind a proxy: an object of a server elsewhere, or of this process's own.
#pragma once

#include <sys/types.h>

#include <memory>
#include <millrace/handle.hpp>
#include <millrace/proxy.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/managers/manager_heirs.hpp"
#include "runtime/managers/manager_link.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_server.hpp"

namespace millrace {

/// The library's way into a proxy.
struct ProxyAccess {
  static const runtime::ProxyPlace& place(const BaseProxy& proxy) { return proxy.place_; }
};

namespace runtime {

/// One reference of this process's; given back with the last proxy that shares it. Constant, but
/// for the parcel that it has been put in (manager_travel.hpp).
class ProxyState {
 public:
  /// Of another process's object. The link has counted it already.
  ProxyState(std::shared_ptr<ManagerLink> link, TokenValue token, std::string python_class,
             std::vector<std::string> exposed);
  /// Of an object of this process's own server: held, not counted.
  ProxyState(std::shared_ptr<SharedObject> object, TokenValue token);
  ProxyState(const ProxyState&) = delete;
  ProxyState& operator=(const ProxyState&) = delete;
  ~ProxyState();

  /// A method: at the server, or of an object of this process's own on its calling thread.
  Object call(std::string_view method, std::vector<Object> arguments) const;
  /// The link to the server of another process. In a forked child of the server's process it is
  /// made, with a reference of the child's, by the first who asks, and stays: all calls are one
  /// client's. Throws as reached_target(), and when the object is gone.
  std::shared_ptr<ManagerLink> server_link() const;

  const std::shared_ptr<ManagerLink> link;     // null: of this process
  const std::shared_ptr<SharedObject> object;  // null: of another one
  const TokenValue token;
  const std::string python_class;
  const std::vector<std::string> exposed;  // of an AutoProxy

  // Under a lock of all parcels:
  shm::ObjectRef parcel;   // made when it first leaves the process
  pid_t parcel_maker = 0;  // the process that made it: an inherited one is the parent's

 private:
  Object call_own(std::string_view method, std::vector<Object> arguments) const;

  const Heirloom heirloom_;                      // for children that have not called yet
  mutable std::shared_ptr<ManagerLink> childs_;  // under a lock of all states: server_link()
};

/// How another process reaches its server; none when that was of this process and has ended.
/// Throws TypeError for an object that no other process reaches.
std::optional<ManagerLink::Target> target_of(const ProxyState& state);
/// The same for who calls it: std::system_error (ECONNREFUSED) when it has ended, ForkedError when
/// a forked child cannot reach it.
ManagerLink::Target reached_target(const ProxyState& state);

/// A proxy of an object whose reference the server has counted for this process.
ProxyRef adopted_proxy(const std::shared_ptr<ManagerLink>& link, TokenValue token,
                       const Object& exposed);
/// A proxy of an object of this process's own server, which has counted a reference for the caller.
ProxyRef own_proxy(ManagerServer& server, ManagerCaller& caller,
                   const std::shared_ptr<SharedObject>& object);
/// A proxy of an object of which this process becomes another holder. `known`: where its server is,
/// else that is the one whose reply is being read, or the token's address with this process's key.
ProxyRef proxy_of_token(TokenValue token, std::string python_class, const Object& exposed,
                        const ManagerLink::Target* known);
/// A proxy in an Object, as the class that its type has in Python.
Object object_of_proxy(ProxyRef state);
/// The link of this process to a token's server; `known` as above.
std::shared_ptr<ManagerLink> link_of(const TokenValue& token, const ManagerLink::Target* known);

}  // namespace runtime
}  // namespace millrace
