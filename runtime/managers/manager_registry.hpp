// The types that a manager can make: G09.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <millrace/manager_types.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

/// One registered type.
struct ManagerType {
  using Make = std::function<std::shared_ptr<Referent>(ManagerCall& call)>;

  Make make = {};  // none: objects are made of what methods give back
  std::optional<std::vector<std::string>> exposed = {};  // none: the referent's public methods
  MethodTypes method_to_typeid = {};
  std::string proxy_class = "AutoProxy";
  bool create_method = true;
};

/// By typeid. Copied when a manager starts.
using ManagerTypes = std::map<std::string, ManagerType, std::less<>>;

/// What a server takes at most: ManagerOptions. Python has no limits.
struct ManagerLimits {
  std::size_t connections = 0;    // open at once
  std::size_t request_bytes = 0;  // of one request
  // Until a connection beyond the limit that asks nothing is hung up on.
  std::chrono::milliseconds refused_for{5000};
};

/// Those of SyncManager.
ManagerTypes python_manager_types();

}  // namespace millrace::runtime
