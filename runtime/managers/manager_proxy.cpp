#include "runtime/managers/manager_proxy.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <millrace/errors.hpp>
#include <millrace/pool_proxy.hpp>
#include <millrace/process.hpp>
#include <millrace/proxies.hpp>
#include <mutex>
#include <ostream>
#include <system_error>
#include <utility>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/managers/manager_objects.hpp"
#include "runtime/managers/manager_session.hpp"
#include "runtime/managers/manager_travel.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/pickle_handles.hpp"
#include "shm/immortal.hpp"

namespace millrace {

namespace runtime {

namespace {

// The C++ type for each class of Python's.
struct ProxyType {
  HandlePickler pickler;
  const char* python_class = nullptr;
  Object (*make)(ProxyRef state) = nullptr;
  const ProxyType* next = nullptr;
};
constinit std::atomic<const ProxyType*> g_types{nullptr};
constexpr std::string_view kAutoProxy = "AutoProxy";

// Proxies of Python's types arrive also where the program never sent one.
[[maybe_unused]] const std::array g_declared{
    kProxyDeclared<IteratorProxy>, kProxyDeclared<ListProxy>,      kProxyDeclared<DictProxy>,
    kProxyDeclared<SetProxy>,      kProxyDeclared<NamespaceProxy>, kProxyDeclared<ValueProxy>,
    kProxyDeclared<ArrayProxy>,    kProxyDeclared<AcquirerProxy>,  kProxyDeclared<ConditionProxy>,
    kProxyDeclared<EventProxy>,    kProxyDeclared<BarrierProxy>,   kProxyDeclared<PoolProxy>};

ProxyRef state_in(const Object& value) {
  if (!is_kind(value, ValueKind::handle)) return nullptr;
  auto* const node = Access::node<HandleNode>(value);
  // OBSERVE type: it is complete
  for (auto* each = g_types.load(std::memory_order_acquire); each != nullptr; each = each->next) {
    if (each->pickler.type != node->ops->type) continue;
    return ProxyAccess::place(*static_cast<const BaseProxy*>(node->handle())).state();
  }
  return nullptr;
}

// Null: its proxies are BaseProxies, or of a type of the program's own.
const ProxyType* type_of_class(std::string_view python_class) {
  if (python_class == kAutoProxy) return nullptr;
  // OBSERVE type: it is complete
  for (auto* each = g_types.load(std::memory_order_acquire); each != nullptr; each = each->next) {
    if (each->python_class == python_class) return each;
  }
  return nullptr;
}

// Of the links that states have in forked children.
ForkMutex& childs_mutex() {
  static shm::Immortal<ForkMutex> mutex(ForkMutex::Level::names);
  return *mutex;
}

std::vector<std::string> names_in(const Object& names) {
  return names.is_none() ? std::vector<std::string>() : names.as<std::vector<std::string>>();
}

// Python's class of the proxies of a type; those of Queue are AutoProxies to Python.
std::string class_of(const TokenValue& token) {
  static const ManagerTypes known = python_manager_types();
  const auto type = known.find(token.typeid_name);
  return type == known.end() ? std::string(kAutoProxy) : type->second.proxy_class;
}

Object python_of_proxy(const Object& handle) {
  const ProxyRef held = state_in(handle);
  const ProxyState& state = *held;
  if (encoding_session() != nullptr) encoding_session()->names_object();
  Dict keywords;
  if (state.python_class == kAutoProxy) {
    std::vector<Object> names(state.exposed.begin(), state.exposed.end());
    keywords.set("exposed", Object(Tuple(std::span<Object>(names))));
  }
  return made_by_python(
      "multiprocessing.managers", "RebuildProxy",
      Object(Tuple{python_global("multiprocessing.managers", state.python_class),
                   object_of_token(state.token), Object("pickle"), Object(std::move(keywords))}));
}

// RebuildProxy(class, token, 'pickle', keywords)
Object proxy_of_python(Object made, HandleArrival&) {
  const auto call = python_call(made);
  if (!call || call->arguments->size() != 4) return made;
  const auto parts = to_items(*call->arguments);
  const auto name = python_name(parts[0]);
  if (!name || !parts[3].is<Dict>()) return made;
  const auto keywords = parts[3].as<Dict>();
  const Object key = keywords.get("authkey");
  TokenValue token = token_of_object(parts[1]);
  std::optional<ManagerLink::Target> target;
  if (is_byte_run(key)) {
    target = ManagerLink::Target{address_of_object(token.address), to_bytes(key), true};
  }
  return object_of_proxy(proxy_of_token(std::move(token), std::string(name->name),
                                        keywords.get("exposed"), target ? &*target : nullptr));
}

const bool g_rebuilds = [] {
  static HandleRebuilder entry{"RebuildProxy", &proxy_of_python};
  add_handle_rebuilder(entry);
  return true;
}();

}  // namespace

// Which server a token is of: the one that `known` says; the one that is replying, if the token
// is its own; else the one at the token's address with this process's key, as in CPython.
std::shared_ptr<ManagerLink> link_of(const TokenValue& token, const ManagerLink::Target* known) {
  if (known != nullptr) return ManagerLink::to(*known);
  ManagerLink* const replying = replying_link();
  const connection::Address address = address_of_object(token.address);
  if (replying != nullptr && replying->target().address == address) {
    return replying->shared_from_this();
  }
  return ManagerLink::to({address, current_process().authkey(), true});
}

ProxyRef proxy_of_token(TokenValue token, std::string python_class, const Object& exposed,
                        const ManagerLink::Target* known) {
  if (auto object = ManagerServer::object_at(token.address, token.id)) {
    return std::make_shared<ProxyState>(std::move(object), std::move(token));
  }
  const auto link = link_of(token, known);
  link->incref(token.id);
  return std::make_shared<ProxyState>(link, std::move(token), std::move(python_class),
                                      names_in(exposed));
}

bool declare_proxy(std::string_view type, const char* python_class,
                   Object (*make)(ProxyRef state)) {
  auto* const entry = new ProxyType{{type, &python_of_proxy}, python_class, make};
  const ProxyType* first = g_types.load(std::memory_order_relaxed);
  do {
    entry->next = first;
    // PUBLISH type: complete before it can be found
  } while (!g_types.compare_exchange_weak(first, entry, std::memory_order_release,
                                          std::memory_order_relaxed));
  add_handle_pickler(entry->pickler);
  return true;
}

ProxyState::ProxyState(std::shared_ptr<ManagerLink> of, TokenValue at, std::string class_name,
                       std::vector<std::string> names)
    : link(std::move(of)),
      token(std::move(at)),
      python_class(std::move(class_name)),
      exposed(std::move(names)),
      heirloom_(nullptr) {}

ProxyState::ProxyState(std::shared_ptr<SharedObject> of, TokenValue at)
    : object(std::move(of)),
      token(std::move(at)),
      python_class(object->type->proxy_class),
      exposed(object->exposed),
      heirloom_(object) {}

ProxyState::~ProxyState() {
  if (parcel_maker == own_pid()) leave_parcel(parcel.payload());
  if (link != nullptr) link->decref(token.id);
  if (childs_ != nullptr) childs_->decref(token.id);
}

Object ProxyState::call(std::string_view method, std::vector<Object> arguments) const {
  if (object != nullptr && object->is_here()) return call_own(method, std::move(arguments));
  const auto via = server_link();  // a forked child's copy of an object serves nobody
  ManagerReply reply = via->call_object(token.id, method, std::move(arguments));
  if (reply.kind != "#PROXY") return returned(std::move(reply));
  if (!is_sequence(reply.value) || reply.value.size() != 2) {
    throw TypeError("a reply of kind #PROXY that is no pair");
  }
  return object_of_proxy(adopted_proxy(via, token_of_object(reply.value[1]), reply.value[0]));
}

std::shared_ptr<ManagerLink> ProxyState::server_link() const {
  if (link != nullptr) return link;
  {
    const std::scoped_lock guard(childs_mutex());
    if (childs_ != nullptr) return childs_;
  }
  auto made = ManagerLink::to(reached_target(*this));
  made->incref(token.id);  // asks the server
  std::shared_ptr<ManagerLink> theirs;
  {
    const std::scoped_lock guard(childs_mutex());
    if (childs_ == nullptr) return childs_ = std::move(made);
    theirs = childs_;
  }
  made->decref(token.id);  // another thread was first
  return theirs;
}

Object ProxyState::call_own(std::string_view method, std::vector<Object> arguments) const {
  ManagerCaller here(std::make_shared<ManagerClient>());
  here.speak_pickle(false);
  ManagerCall call{method, std::move(arguments), {}, here};
  if (method == "#GETVALUE") return object->referent->value(here);
  if (method == "__repr__") return Object(object->referent->repr());
  if (!object->referent->has_method(method)) throw AttributeError(std::string(method));
  try {
    ManagerAnswer answer = object->referent->call(call);
    const auto made = object->type->method_to_typeid.find(std::string(method));
    const auto server = object->server();
    if (made == object->type->method_to_typeid.end() || server == nullptr) {
      return std::move(answer.value);
    }
    return object_of_proxy(
        own_proxy(*server, here, server->share(here, made->second, answer).object));
  } catch (const RaisedValue& raised) {
    raise(raised.exception);
  }
}

ProxyRef own_proxy(ManagerServer& server, ManagerCaller& caller,
                   const std::shared_ptr<SharedObject>& object) {
  auto proxy = std::make_shared<ProxyState>(object, token_of_object(server.token_of(*object)));
  server.decref(caller, object->id);  // proxies of its own process hold it
  return proxy;
}

std::optional<ManagerLink::Target> target_of(const ProxyState& state) {
  if (state.link != nullptr) return state.link->target();
  const auto reach = state.object->reach();
  if (!reach) return std::nullopt;
  if (reach->address.is_none()) {
    throw TypeError("the objects of a dummy manager stay in the process that made them");
  }
  return ManagerLink::Target{address_of_object(reach->address), reach->authkey, reach->legacy_md5};
}

ManagerLink::Target reached_target(const ProxyState& state) {
  if (state.token.address.is_none()) {
    throw ForkedError("an object of a dummy manager cannot be used in a forked child");
  }
  if (auto target = target_of(state)) return std::move(*target);
  throw std::system_error(ECONNREFUSED, std::generic_category(),
                          "the manager's server at " + state.token.address.repr() + " has ended");
}

ProxyRef adopted_proxy(const std::shared_ptr<ManagerLink>& link, TokenValue token,
                       const Object& exposed) {
  link->adopt(token.id);
  token.address = object_of_address(link->target().address);
  std::string python_class = class_of(token);
  return std::make_shared<ProxyState>(link, std::move(token), std::move(python_class),
                                      names_in(exposed));
}

Object object_of_proxy(ProxyRef state) {
  if (state->python_class == kAutoProxy &&
      (state->token.typeid_name == "Queue" || state->token.typeid_name == "JoinableQueue")) {
    return Object(QueueProxy(std::move(state)));
  }
  const ProxyType* const type = type_of_class(state->python_class);
  return type != nullptr ? type->make(std::move(state)) : Object(BaseProxy(std::move(state)));
}

ProxyRef proxy_in(const Object& value) {
  ProxyRef state = state_in(value);
  if (state == nullptr) throw TypeError("a proxy was expected, not " + value.type_name());
  return state;
}

ProxyRef proxy_as(const Object& value, const char* python_class, std::string_view type) {
  ProxyRef state = state_in(value);
  if (state == nullptr) throw_no_handle(value, type);
  const ProxyType* const own = type_of_class(state->python_class);
  const bool fits = own == nullptr ? python_class == kAutoProxy : own->python_class == python_class;
  if (!fits) throw_no_handle(value, type);
  return state;
}

std::shared_ptr<Referent> referent_of_proxy(const Object& value) {
  const ProxyRef state = state_in(value);
  return state == nullptr || state->object == nullptr ? nullptr : state->object->referent;
}

Object plain_of(const Object& value) {
  const ProxyRef state = state_in(value);
  if (state == nullptr) return value;
  return state->call("#GETVALUE", {});
}

}  // namespace runtime

Object BaseProxy::call_method(std::string_view method, std::vector<Object> arguments) const {
  if (place_.here() != nullptr) return place_.here()->call(method, std::move(arguments));
  return place_.state()->call(method, std::move(arguments));
}

Object BaseProxy::getvalue() const { return call_method("#GETVALUE", {}); }

Token BaseProxy::token() const {
  const runtime::TokenValue token = place_.state()->token;
  return {token.typeid_name, runtime::address_of_object(token.address), token.id};
}

std::string BaseProxy::repr() const {
  const runtime::ProxyRef state = place_.state();
  return "<" +
         (state->python_class == runtime::kAutoProxy ? "AutoProxy[" + state->token.typeid_name + "]"
                                                     : state->python_class) +
         " object, typeid " + Object(state->token.typeid_name).repr() + " at " +
         runtime::address_text(state.get()) + ">";
}

std::string BaseProxy::str() const { return call_method("__repr__", {}).as<std::string>(); }

bool BaseProxy::is(const BaseProxy& other) const {
  const runtime::ProxyRef mine = place_.state();
  const runtime::ProxyRef theirs = other.place_.state();
  return mine == theirs ||
         (mine->token.id == theirs->token.id && mine->token.address == theirs->token.address);
}

std::ostream& operator<<(std::ostream& out, const BaseProxy& proxy) {
  std::string text;
  try {
    text = proxy.str();
  } catch (const std::exception&) {
    text = proxy.repr();
    text.replace(text.size() - 1, 1, "; '__str__()' failed>");
  }
  return out << text;
}

std::optional<Object> IteratorProxy::next() const {
  try {
    return call("__next__");
  } catch (const RemoteError& error) {
    if (error.type_name().ends_with("StopIteration")) return std::nullopt;
    throw;
  }
}

List ListProxy::reversed() const {
  const Object value = call("__reversed__");
  if (value.is<List>()) return value.as<List>();
  // As CPython pickles its iterator: reversed(list).
  const auto made = runtime::python_call(value);
  if (!made || made->arguments->size() == 0) {
    throw TypeError("__reversed__ gave " + value.type_name());
  }
  List list = runtime::to_items(*made->arguments)[0].as<List>();
  list.reverse();
  return list;
}

bool AcquirerProxy::acquire(Timeout timeout) const {
  if (timeout.infinite()) return call<bool>("acquire", true);
  return call<bool>("acquire", true, runtime::seconds_of(timeout));
}

Object runtime::seconds_of(Timeout timeout) {
  if (timeout.infinite()) return {};
  return Object(std::chrono::duration<double>(timeout.duration()).count());
}

}  // namespace millrace
