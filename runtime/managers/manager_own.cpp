// The servers of this process: proxies of their objects are the objects themselves.
#include <algorithm>
#include <atomic>
#include <vector>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/base/random.hpp"
#include "runtime/managers/manager_server.hpp"
#include "runtime/values/object_node.hpp"
#include "shm/immortal.hpp"

namespace millrace::runtime {

namespace {

// The process whose servers these are: a forked child has none.
std::atomic<pid_t> servers_process{0};
ForkMutex& servers_mutex() {
  static shm::Immortal<ForkMutex> mutex(ForkMutex::Level::names);
  return *mutex;
}
std::vector<ManagerServer*>& servers() {  // under servers_mutex()
  static auto& all = *new std::vector<ManagerServer*>;
  return all;
}

bool are_here() noexcept {
  // relaxed: compared with a process's own id; a thread that knows of a server has synchronised
  return servers_process.load(std::memory_order_relaxed) == own_pid();
}

// Another spelling of the same host: ids are random, so one that is known is the server's own.
bool same_port(const Object& one, const Object& other) {
  return is_sequence(one) && is_sequence(other) && one[1] == other[1];
}

}  // namespace

void ManagerServer::publish() {
  const std::scoped_lock guard(servers_mutex());
  // relaxed: as in are_here()
  if (servers_process.exchange(own_pid(), std::memory_order_relaxed) != own_pid()) {
    servers().clear();
  }
  servers().push_back(this);
}

void ManagerServer::unpublish() noexcept {
  const std::scoped_lock guard(servers_mutex());
  std::erase(servers(), this);
}

std::shared_ptr<ManagerServer> ManagerServer::server_at(const Object& address,
                                                        std::shared_ptr<SharedObject>& object,
                                                        const std::string& id) {
  if (!are_here()) return nullptr;
  std::vector<std::shared_ptr<ManagerServer>> all;
  {
    const std::scoped_lock guard(servers_mutex());
    for (const ManagerServer* const each : servers()) all.push_back(each->self_);
  }
  for (auto& each : all) {
    object = each->find(id);
    const Object& own = each->reach_.address;
    if (own == address || (object != nullptr && same_port(own, address))) return std::move(each);
  }
  object = nullptr;
  return nullptr;
}

std::shared_ptr<SharedObject> ManagerServer::object_at(const Object& address,
                                                       const std::string& id) {
  std::shared_ptr<SharedObject> object;
  if (server_at(address, object, id) == nullptr) return nullptr;
  if (object == nullptr) throw KeyError(Object(id).repr());
  return object;
}

std::uint64_t ManagerServer::depart_own(const SharedObject& object) {
  if (!object.is_here()) return 0;
  const auto server = object.server_.lock();
  if (server == nullptr) return 0;
  std::shared_ptr<ManagerClient> itself;
  {
    const std::scoped_lock guard(server->mutex_);
    if (server->itself_ == nullptr) {
      server->itself_ = std::make_shared<ManagerClient>();
      fill_random(&server->itself_->id, sizeof server->itself_->id);
      server->itself_->id |= 1;
      server->clients_[server->itself_->id] = server->itself_;
    }
    itself = server->itself_;
  }
  ManagerCaller caller(itself);
  server->depart(caller, object.id);
  return itself->id;
}

bool ManagerServer::discard_own(const Object& address, const std::string& id, std::uint64_t maker) {
  std::shared_ptr<SharedObject> object;
  const auto server = server_at(address, object, id);
  if (server != nullptr) server->discard(maker, id);
  return server != nullptr;
}

}  // namespace millrace::runtime
