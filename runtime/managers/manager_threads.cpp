// Objects of mp::dummy's manager: those of a server that nobody but this process's threads reaches.
#include <millrace/dummy_manager.hpp>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/managers/manager_proxy.hpp"
#include "shm/immortal.hpp"

namespace millrace::runtime {

namespace {

// It lives as long as the process. A forked child begins with none: its copy may be half changed.
ManagerServer& server_of_threads() {
  static shm::Immortal<ForkMutex> mutex(ForkMutex::Level::names);
  static ManagerServer* server = nullptr;
  static pid_t maker = 0;
  const std::scoped_lock guard(*mutex);
  if (maker != own_pid()) {
    server = new ManagerServer(python_manager_types());
    maker = own_pid();
  }
  return *server;
}

}  // namespace

ProxyRef make_thread_object(const std::string& type_id, std::vector<Object> arguments) {
  ManagerServer& server = server_of_threads();
  ManagerCaller here(std::make_shared<ManagerClient>());
  here.speak_pickle(false);
  ManagerCall call{type_id, std::move(arguments), {}, here};
  return own_proxy(server, here, server.create(call, type_id).object);
}

}  // namespace millrace::runtime
