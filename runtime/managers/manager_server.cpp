#include "runtime/managers/manager_server.hpp"

#include <algorithm>

#include "runtime/base/own_pid.hpp"
#include "runtime/base/random.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/managers/manager_watch.hpp"
#include "runtime/managers/manager_wire.hpp"

namespace millrace::runtime {

namespace {

// Python's list(names) + list(method_to_typeid).
std::vector<std::string> exposed_by(const ManagerType& type, const Referent& referent) {
  std::vector<std::string> names = type.exposed ? *type.exposed : referent.public_methods();
  for (const auto& [method, made] : type.method_to_typeid) names.push_back(method);
  return names;
}

}  // namespace

SharedObject::SharedObject(ManagerServer& server, std::string of)
    : id(std::move(of)), server_(server.self_), process_(own_pid()) {}

SharedObject::~SharedObject() {
  if (!is_here()) return;
  if (const auto server = server_.lock()) server->forget(*this);
}

bool SharedObject::is_here() const noexcept { return process_ == own_pid(); }

std::optional<ServerReach> SharedObject::reach() const {
  const auto server = server_.lock();
  return server == nullptr ? std::nullopt : std::optional(server->reach_);
}

bool SharedObject::exposes(std::string_view method) const noexcept {
  return std::ranges::find(exposed, method) != exposed.end();
}

// Ids look like CPython's addresses; they begin at random and are never used again.
namespace {

std::uint64_t first_id() {
  std::uint64_t number = 0;
  fill_random(&number, sizeof number);
  return number >> 17 & ~std::uint64_t{15};
}

}  // namespace

ManagerServer::ManagerServer(ManagerTypes types)
    : types_(std::move(types)),
      process_(own_pid()),
      last_id_(first_id()),
      self_(this, [](ManagerServer* ended) {
        if (ended->process_ != own_pid()) return;
        const std::unique_lock guard(ended->users_);
        ended->unused_ = true;
        ended->users_.changed();
      }) {}

ManagerServer::~ManagerServer() {
  if (process_ != own_pid()) return;
  unpublish();
  self_.reset();
  {
    std::unique_lock guard(users_);
    users_.wait_for([this] { return unused_; }, Timeout::Clock::time_point::max());
  }
  Objects last;
  {
    const std::scoped_lock guard(mutex_);
    last.swap(objects_);
  }
}

const ManagerType& ManagerServer::type_of(const std::string& typeid_name) const {
  const auto type = types_.find(typeid_name);
  if (type == types_.end()) throw KeyError(Object(typeid_name).repr());
  return type->second;
}

std::shared_ptr<SharedObject> ManagerServer::entry_of(const std::string& typeid_name,
                                                      std::shared_ptr<Referent> referent) {
  const ManagerType& type = type_of(typeid_name);
  const void* const identity = referent->identity();
  std::shared_ptr<SharedObject> entry;
  {
    const std::scoped_lock guard(mutex_);
    if (const auto same = by_identity_.find(identity); same != by_identity_.end()) {
      entry = same->second.lock();
    }
    if (entry == nullptr) {
      last_id_ += 16;
      entry = std::make_shared<SharedObject>(*this, hex_of(last_id_));
      entry->type_id = typeid_name;
      entry->type = &type;
      entry->exposed = exposed_by(type, *referent);
      entry->referent = std::move(referent);
      known_[entry->id] = entry;
      by_identity_[identity] = entry;
    }
    objects_[entry->id] = entry;
  }
  return entry;
}

namespace {

Object names_of(const std::vector<std::string>& names) {
  std::vector<Object> all(names.begin(), names.end());
  return Object(Tuple(std::span<Object>(all)));
}

}  // namespace

CreatedObject ManagerServer::create(ManagerCall& call, const std::string& typeid_name) {
  const ManagerType& type = type_of(typeid_name);
  if (!type.make) {
    if (call.arguments.size() != 1 || !call.keywords.empty()) {
      throw ValueError("Without callable, must have one non-keyword argument");
    }
    ManagerAnswer of(call.arguments[0]);
    return share(call.caller, typeid_name, of);
  }
  const std::shared_ptr<SharedObject> entry = entry_of(typeid_name, type.make(call));
  incref(call.caller, entry->id);
  return {entry, names_of(entry->exposed)};
}

CreatedObject ManagerServer::share(ManagerCaller& caller, const std::string& typeid_name,
                                   ManagerAnswer& of) {
  const ManagerType& type = type_of(typeid_name);
  std::shared_ptr<Referent> referent = std::move(of.referent);
  if (referent == nullptr && type.make) {
    ManagerCall making{typeid_name, {of.value}, {}, caller};
    referent = type.make(making);
  }
  if (referent == nullptr) referent = make_iterator_referent(of.value);
  const std::shared_ptr<SharedObject> entry = entry_of(typeid_name, std::move(referent));
  incref(caller, entry->id);
  return {entry, names_of(entry->exposed)};
}

std::shared_ptr<SharedObject> ManagerServer::find(const std::string& id) {
  const std::scoped_lock guard(mutex_);
  const auto found = known_.find(id);
  return found == known_.end() ? nullptr : found->second.lock();
}

// The object lives, by a client's reference or by a proxy inside the server.
void ManagerServer::add_reference(const std::string& id) {
  const std::shared_ptr<SharedObject> object = find(id);
  if (object == nullptr) throw KeyError(Object(id).repr());
  const std::scoped_lock guard(mutex_);
  objects_[id] = object;
  ++object->references;
}

// False when none is left. The last one destroys it.
bool ManagerServer::take_reference(const std::string& id) {
  std::shared_ptr<SharedObject> last;  // destroyed behind the lock
  const std::scoped_lock guard(mutex_);
  const auto found = objects_.find(id);
  if (found == objects_.end()) {
    if (known_.contains(id)) return false;  // held by a proxy inside the server
    throw KeyError(Object(id).repr());
  }
  std::uint64_t& count = found->second->references;
  if (count > 0) --count;
  if (count == 0) {
    last = std::move(found->second);
    objects_.erase(found);
  }
  return true;
}

void ManagerServer::incref(ManagerCaller& caller, const std::string& id) {
  add_reference(id);
  ManagerClient& client = caller.client();
  if (!client.ends_with_process) return;
  const std::scoped_lock guard(client.mutex);
  ++client.references[id];
}

// A client that is counted gives back what it has: what it says twice, or behind the end of the
// connections by which it had it, would be another's.
void ManagerServer::decref(ManagerCaller& caller, const std::string& id) {
  ManagerClient& client = caller.client();
  if (client.ends_with_process) {
    if (find(id) == nullptr) throw KeyError(Object(id).repr());
    const std::scoped_lock guard(client.mutex);
    const auto own = client.references.find(id);
    if (own == client.references.end()) return;
    if (--own->second == 0) client.references.erase(own);
  }
  take_reference(id);
}

void ManagerServer::depart(ManagerCaller& caller, const std::string& id) {
  add_reference(id);
  const std::scoped_lock guard(caller.client().mutex);
  ++caller.client().departed[id];
}

void ManagerServer::discard(std::uint64_t maker, const std::string& id) {
  std::shared_ptr<ManagerClient> client;
  {
    const std::scoped_lock guard(mutex_);
    if (const auto found = clients_.find(maker); found != clients_.end()) {
      client = found->second.lock();
    }
  }
  if (client == nullptr) return;
  {
    const std::scoped_lock guard(client->mutex);
    const auto departed = client->departed.find(id);
    if (departed == client->departed.end()) return;
    if (--departed->second == 0) client->departed.erase(departed);
  }
  take_reference(id);
}

void ManagerServer::forget(const SharedObject& object) {
  const std::scoped_lock guard(mutex_);
  known_.erase(object.id);
  const auto same = by_identity_.find(object.referent->identity());
  if (same != by_identity_.end() && same->second.expired()) by_identity_.erase(same);
}

std::size_t ManagerServer::number_of_objects() {
  const std::scoped_lock guard(mutex_);
  return objects_.size();
}

std::string ManagerServer::debug_info() {
  std::vector<std::shared_ptr<SharedObject>> all;
  {
    const std::scoped_lock guard(mutex_);
    for (const auto& [id, object] : objects_) all.push_back(object);
  }
  std::ranges::sort(all, {}, [](const auto& each) { return each->id; });
  std::string out;
  for (const auto& each : all) {
    if (!out.empty()) out += '\n';
    std::uint64_t references = 0;
    {
      const std::scoped_lock guard(mutex_);
      references = each->references;
    }
    out += "  " + each->id + ":       refcount=" + std::to_string(references) + "\n    " +
           each->referent->str().substr(0, 75);
  }
  return out;
}

Object ManagerServer::token_of(const SharedObject& object) const {
  return object_of_token({object.type_id, reach_.address, object.id});
}

std::shared_ptr<ManagerClient> ManagerServer::client(std::uint64_t number, pid_t pid,
                                                     std::uint64_t parent) {
  std::shared_ptr<ManagerClient> from;
  std::shared_ptr<ManagerClient> client;
  {
    const std::scoped_lock guard(mutex_);
    std::erase_if(clients_, [](const auto& each) { return each.second.expired(); });
    client = clients_[number].lock();
    if (client == nullptr) {
      client = std::make_shared<ManagerClient>();
      client->id = number;
      client->ends_with_process = true;
      clients_[number] = client;
      if (const auto found = clients_.find(parent); found != clients_.end()) {
        from = found->second.lock();
      }
    }
    client->pid = pid != 0 ? pid : client->pid;
  }
  {
    const std::scoped_lock guard(client->mutex);
    ++client->connections;
  }
  if (from == nullptr) return client;
  std::unordered_map<std::string, std::uint64_t> inherited;
  {
    const std::scoped_lock guard(from->mutex);
    inherited = from->references;
  }
  ManagerCaller heir(client);
  for (const auto& [id, count] : inherited) {
    for (std::uint64_t i = 0; i < count; ++i) {
      if (find(id) != nullptr) incref(heir, id);
    }
  }
  return client;
}

void ManagerServer::disconnect(const std::shared_ptr<ManagerClient>& client) {
  std::unordered_map<std::string, std::uint64_t> left;
  std::unordered_map<std::string, std::uint64_t> departed;
  std::vector<std::weak_ptr<Referent>> held;
  {
    const std::scoped_lock guard(client->mutex);
    if (--client->connections > 0) return;
    left = client->references;
    departed.swap(client->departed);
    held.swap(client->held);
  }
  for (const auto& each : held) {
    if (const auto referent = each.lock()) referent->client_gone(*client);
  }
  ManagerCaller gone(client);
  // What others have taken off already, who may call anything, is left alone.
  for (const auto& [id, count] : left) {
    for (std::uint64_t i = 0; i < count && find(id) != nullptr; ++i) decref(gone, id);
  }
  for (const auto& [id, count] : departed) {
    for (std::uint64_t i = 0; i < count && find(id) != nullptr; ++i) take_reference(id);
  }
}

void ManagerServer::hold(Descriptor until,
                         std::vector<std::shared_ptr<SharedObject>> objects) noexcept {
  const std::scoped_lock guard(mutex_);
  if (watch_ != nullptr) watch_->hold(std::move(until), objects);
}

void ManagerServer::watched_by(ManagerWatch* watch) noexcept {
  const std::scoped_lock guard(mutex_);
  watch_ = watch;
}

void ManagerServer::stop() {
  const std::unique_lock guard(stopped_);
  // PUBLISH stop: to threads that serve (manager_server.hpp); who waits has the monitor's lock
  stopping_.store(true, std::memory_order_release);
  stopped_.changed();
}

void ManagerServer::wait_stopped() {
  const std::unique_lock guard(stopped_);
  stopped_.wait_for([this] { return stopping(); }, Timeout::Clock::time_point::max());
}

}  // namespace millrace::runtime
