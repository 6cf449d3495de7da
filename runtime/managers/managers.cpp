// BaseManager, SyncManager and Manager().
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <millrace/managers.hpp>
#include <millrace/process.hpp>
#include <mutex>
#include <string_view>
#include <utility>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/managers/manager_link.hpp"
#include "runtime/managers/manager_objects.hpp"
#include "runtime/managers/manager_proxy.hpp"
#include "runtime/managers/manager_registry.hpp"
#include "runtime/managers/manager_service.hpp"
#include "runtime/managers/manager_start.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "runtime/process/server_folder.hpp"

namespace millrace {

namespace runtime {

enum class ManagerPhase { initial, started, shut_down };

struct ManagerState {
  ManagerOptions options;
  Bytes authkey;
  ManagerTypes types;

  std::mutex mutex;  // guards what follows
  ManagerPhase phase = ManagerPhase::initial;
  connection::Address address;
  std::shared_ptr<ManagerLink> link;
  std::unique_ptr<Process> process;  // the server, if this manager started one
  pid_t owner = 0;                   // who did
  std::optional<Finalize> at_exit;

  [[nodiscard]] ManagerLink::Target target() const {
    return {address, authkey, options.legacy_md5};
  }
  void check_initial() const {
    if (phase == ManagerPhase::started) throw ProcessError("Already started server");
    if (phase == ManagerPhase::shut_down) throw ProcessError("Manager has shut down");
  }
  std::shared_ptr<ManagerLink> usable() {
    const std::scoped_lock guard(mutex);
    if (phase != ManagerPhase::started) throw AssertionError("server not yet started");
    return link;
  }
  [[nodiscard]] connection::ListenerOptions listener_options() const {
    connection::ListenerOptions listen;
    listen.address = options.address;
    listen.backlog = 128;
    listen.authkey = authkey;
    listen.legacy_md5 = options.legacy_md5;
    return listen;
  }
  [[nodiscard]] ManagerLimits limits() const noexcept {
    return {options.max_connections, options.max_request};
  }
  void ask_to_end(const connection::Address& server) const;
  void end_server() noexcept;
};

// Over a connection of its own, as in CPython. Not for longer than a server takes that runs: one
// that was stopped, or hangs in a call, is terminated by who asks.
void ManagerState::ask_to_end(const connection::Address& server) const {
  connection::ClientOptions client;  // with its limit of the handshake
  client.authkey = authkey;
  client.legacy_md5 = options.legacy_md5;
  const Timeout limit = client.handshake_timeout;
  const Connection asked = connection::Client(server, client);
  wire::Writer request;
  put_frame(request, Object(Tuple{None, "shutdown", Tuple{}, Dict{}}), false);
  asked.send_bytes(std::string_view(reinterpret_cast<const char*>(request.data()), request.size()));
  if (asked.poll(limit)) static_cast<void>(asked.recv_bytes());
}

// Asks, waits, terminates, waits, kills. Nothing in a forked child, whose server it is not.
void ManagerState::end_server() noexcept {
  try {
    std::shared_ptr<ManagerLink> open;
    std::unique_ptr<Process> server;
    connection::Address where;
    {
      const std::scoped_lock guard(mutex);
      if (owner == own_pid()) server = std::move(process);
      open = link;
      where = address;
    }
    if (server == nullptr) return;
    if (server->is_alive()) {
      try {
        ask_to_end(where);
      } catch (const std::exception&) {
        static_cast<void>(0);  // it is not listening any more
      }
    }
    if (open != nullptr) open->shut_down();
    if (!server->join(options.shutdown_timeout)) {
      server->terminate();
      if (!server->join(options.shutdown_timeout)) {
        server->kill();
        server->join();
      }
    }
    const bool killed = server->exitcode() != 0;
    if (killed && options.address.empty()) ServerFolder::remove(where.path());
    server->close();
  } catch (const std::exception& error) {
    get_logger().warning(std::string("a manager's server could not be ended: ") + error.what());
  }
}

// ValueError for a manager that was moved from.
ManagerState& present(const std::unique_ptr<ManagerState>& state) {
  if (state == nullptr) throw ValueError("the manager has been moved from");
  return *state;
}

std::string class_name_of(std::string_view type) {
  const std::size_t template_begin = type.find('<');
  const std::size_t at = type.substr(0, template_begin).rfind("::");
  return std::string(at == std::string_view::npos ? type : type.substr(at + 2));
}

}  // namespace runtime

using runtime::ManagerPhase;

BaseManager::BaseManager(const ManagerOptions& options)
    : state_(std::make_unique<runtime::ManagerState>()) {
  state_->options = options;
  state_->address = options.address;
  state_->authkey = options.authkey ? *options.authkey : current_process().authkey();
  if (state_->authkey.empty()) throw ValueError("a manager's authkey is empty");
  if (options.max_connections == 0) throw ValueError("a manager's max_connections is 0");
  if (options.max_request == 0 || options.max_request > static_cast<std::size_t>(PTRDIFF_MAX)) {
    throw ValueError("a manager's max_request is not between 1 and PTRDIFF_MAX");
  }
  const runtime::ManagerTypes all = runtime::python_manager_types();
  for (const char* each : {"Iterator", "AsyncResult"}) state_->types[each] = all.at(each);
}

BaseManager::BaseManager(const ManagerOptions& options, WithPythonTypes) : BaseManager(options) {
  state_->types = runtime::python_manager_types();
}

BaseManager::BaseManager(BaseManager&&) noexcept = default;
BaseManager& BaseManager::operator=(BaseManager&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

BaseManager::~BaseManager() {
  if (state_ == nullptr) return;
  state_->at_exit.reset();  // runs it
  state_->end_server();
}

void BaseManager::add_type(runtime::TypeRequest request) {
  runtime::ManagerState& state = runtime::present(state_);
  runtime::ManagerType type;
  type.make = [make = std::move(request.make), methods = request.methods,
               name = request.class_name](runtime::ManagerCall& call) {
    if (!call.keywords.empty()) throw TypeError(name + "() takes no keyword arguments");
    const runtime::NamedCall named(name);
    return runtime::referent_of_thing(make(call.arguments), methods, name);
  };
  for (const auto& [method, made] : request.options.method_to_typeid) {
    type.method_to_typeid[method] = made;
  }
  type.create_method = request.options.create_method;
  const std::scoped_lock guard(state.mutex);
  state.types[request.type_id] = std::move(type);
}

void BaseManager::start_server(std::unique_ptr<runtime::ProcessTarget> initializer) {
  runtime::ManagerState& state = runtime::present(state_);
  {
    const std::scoped_lock guard(state.mutex);
    state.check_initial();
  }
  runtime::ServerStart start({state.types, state.listener_options(), state.limits(),
                              std::move(initializer),
                              runtime::class_name_of(runtime::demangle(typeid(*this)))});
  connection::Address address = start.run();
  try {
    const std::scoped_lock guard(state.mutex);
    state.process = start.take_process();
    state.owner = runtime::own_pid();
    state.address = std::move(address);
    state.link = runtime::ManagerLink::to(state.target());
    state.at_exit.emplace([&state] { state.end_server(); }, FinalizeOptions{.exitpriority = 0});
    state.phase = ManagerPhase::started;
  } catch (...) {  // as if it had never been started
    state.end_server();
    throw;
  }
}

ManagerServer BaseManager::get_server() {
  runtime::ManagerState& state = runtime::present(state_);
  const std::scoped_lock guard(state.mutex);
  state.check_initial();
  return ManagerServer(std::make_unique<runtime::ManagerService>(
      state.types, state.listener_options(), state.limits()));
}

void BaseManager::connect() {
  runtime::ManagerState& state = runtime::present(state_);
  std::shared_ptr<runtime::ManagerLink> link;
  {
    const std::scoped_lock guard(state.mutex);
    link = runtime::ManagerLink::to(state.target());
  }
  link->call_server("dummy", {});
  const std::scoped_lock guard(state.mutex);
  state.link = std::move(link);
  state.phase = ManagerPhase::started;
}

void BaseManager::shutdown() {
  runtime::ManagerState& state = runtime::present(state_);
  {
    const std::scoped_lock guard(state.mutex);
    if (!state.at_exit) {
      throw AttributeError("'" + runtime::class_name_of(runtime::demangle(typeid(*this))) +
                           "' object has no attribute 'shutdown' before start()");
    }
  }
  (*state.at_exit)();
  const std::scoped_lock guard(state.mutex);
  state.phase = ManagerPhase::shut_down;
}

void BaseManager::join(Timeout timeout) {
  runtime::ManagerState& state = runtime::present(state_);
  std::optional<ProcessHandle> server;
  {
    const std::scoped_lock guard(state.mutex);
    if (state.process != nullptr) server = state.process->handle();
  }
  if (server) server->join(timeout);
}

connection::Address BaseManager::address() const {
  runtime::ManagerState& state = runtime::present(state_);
  const std::scoped_lock guard(state.mutex);
  return state.address;
}

std::size_t BaseManager::number_of_objects() const {
  runtime::ManagerState& state = runtime::present(state_);
  return state.usable()->call_server("number_of_objects", {}).as<std::size_t>();
}

std::string BaseManager::debug_info() const {
  runtime::ManagerState& state = runtime::present(state_);
  return state.usable()->call_server("debug_info", {}).as<std::string>();
}

runtime::ProxyRef BaseManager::create_object(const std::string& type_id,
                                             std::vector<Object> arguments) const {
  runtime::ManagerState& state = runtime::present(state_);
  const std::shared_ptr<runtime::ManagerLink> link = state.usable();
  arguments.insert(arguments.begin(), Object(type_id));
  const Object made = link->call_server("create", std::move(arguments));
  if (!made.is<Tuple>() || made.size() != 2) {
    throw TypeError("a manager's create() gave " + made.type_name());
  }
  return runtime::adopted_proxy(
      link,
      {type_id, runtime::object_of_address(link->target().address), made[0].as<std::string>()},
      made[1]);
}

ManagerServer::ManagerServer(std::unique_ptr<runtime::ManagerService> service)
    : service_(std::move(service)) {}
ManagerServer::ManagerServer(ManagerServer&&) noexcept = default;
ManagerServer& ManagerServer::operator=(ManagerServer&&) noexcept = default;
ManagerServer::~ManagerServer() = default;
void ManagerServer::serve_forever() { service_->serve(); }
void ManagerServer::shutdown() { service_->stop(); }
const connection::Address& ManagerServer::address() const { return service_->address(); }

SyncManager Context::Manager() const {
  SyncManager manager({.context = this});
  manager.start();
  return manager;
}

SyncManager Manager() {
  SyncManager manager;
  manager.start();
  return manager;
}

}  // namespace millrace
