// Starting the process of a manager's server, and hearing where it listens.
#pragma once

#include <memory>
#include <millrace/listener.hpp>
#include <millrace/process.hpp>
#include <string>

#include "runtime/managers/manager_registry.hpp"

namespace millrace::runtime {

/// What the server's process needs.
struct ServerPlan {
  ManagerTypes types;
  connection::ListenerOptions listen;
  ManagerLimits limits;
  std::unique_ptr<ProcessTarget> initializer;  // null: none
  std::string class_name;                      // of the manager: what its process is named after
};

class ServerStart {
 public:
  explicit ServerStart(ServerPlan plan);
  ServerStart(const ServerStart&) = delete;
  ServerStart& operator=(const ServerStart&) = delete;
  ~ServerStart();

  /// Starts it and waits until it listens. Throws what the initializer or the listener threw there,
  /// EOFError when the process ended without a word.
  connection::Address run();
  std::unique_ptr<Process> take_process() noexcept { return std::move(process_); }

 private:
  ServerPlan plan_;
  std::unique_ptr<Process> process_;
};

}  // namespace millrace::runtime
