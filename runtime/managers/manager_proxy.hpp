// What is behind a proxy: an object of a server elsewhere, or of this process's own.
#pragma once

#include <memory>
#include <millrace/proxy.hpp>
#include <string>
#include <vector>

#include "runtime/managers/manager_link.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_server.hpp"

namespace millrace::runtime {

/// One reference of this process's; given back with the last proxy that shares it. Constant.
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

  Object call(std::string_view method, std::vector<Object> arguments) const;

  const std::shared_ptr<ManagerLink> link;     // null: of this process
  const std::shared_ptr<SharedObject> object;  // null: of another one
  const TokenValue token;
  const std::string python_class;
  const std::vector<std::string> exposed;  // of an AutoProxy
};

/// A proxy of an object whose reference the server has counted for this process.
ProxyRef adopted_proxy(const std::shared_ptr<ManagerLink>& link, TokenValue token,
                       const Object& exposed);
/// A proxy in an Object, as the class that its type has in Python.
Object object_of_proxy(ProxyRef state);

}  // namespace millrace::runtime
