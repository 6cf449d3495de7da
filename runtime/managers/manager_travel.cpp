#include "runtime/managers/manager_travel.hpp"

#include <atomic>
#include <cstring>
#include <millrace/errors.hpp>
#include <optional>
#include <system_error>
#include <utility>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/channels/discarded_item.hpp"
#include "runtime/managers/manager_proxy.hpp"
#include "runtime/managers/manager_session.hpp"
#include "shm/arena.hpp"
#include "shm/immortal.hpp"
#include "shm/message_scope.hpp"

namespace millrace::runtime {

/// In front of the encoded parts.
struct ProxyParcel {
  std::atomic<std::uint64_t> holders;
  std::uint64_t maker;  // its number at the server; 0: the server has not counted it
  std::uint64_t bytes;
};

namespace {

thread_local bool g_by_name = false;

// Of the parcels that states have.
ForkMutex& parcels_mutex() {
  static shm::Immortal<ForkMutex> mutex(ForkMutex::Level::names);
  return *mutex;
}

// Token, class, names, and how to reach the server. A server's clients know how they reach it.
Object parts_of(const ProxyState& state) {
  std::vector<Object> names(state.exposed.begin(), state.exposed.end());
  ManagerSession* const reply = encoding_session();
  std::optional<ManagerLink::Target> target;
  if (reply == nullptr || state.object == nullptr || !reply->serves(*state.object)) {
    target = target_of(state);
  }
  if (reply != nullptr) reply->names_object();
  return Object(Tuple{object_of_token(state.token), Object(state.python_class),
                      Object(Tuple(std::span<Object>(names))),
                      target ? Object(target->authkey) : Object(),
                      Object(!target || target->legacy_md5)});
}

struct Parts {
  TokenValue token;
  std::string python_class;
  Object exposed;
  std::optional<ManagerLink::Target> target;
};

Parts take_parts(wire::Reader& in) {
  const Object all = decode_object(in);
  if (!all.is<Tuple>() || all.size() != 5) throw Corrupt("a proxy's message is damaged");
  Parts parts{token_of_object(all[0]), all[1].as<std::string>(), all[2], std::nullopt};
  if (!all[3].is_none()) {
    parts.target = ManagerLink::Target{address_of_object(parts.token.address), all[3].as<Bytes>(),
                                       all[4].as<bool>()};
  } else if (replying_link() != nullptr) {
    parts.target = replying_link()->target();  // it is an object of the server that sent it
  }
  return parts;
}

ProxyRef proxy_of_parts(Parts parts) {
  return proxy_of_token(std::move(parts.token), std::move(parts.python_class), parts.exposed,
                        parts.target ? &*parts.target : nullptr);
}

ProxyParcel& parcel_at(void* payload) noexcept { return *static_cast<ProxyParcel*>(payload); }

Parts parts_in(void* payload) {
  const ProxyParcel& parcel = parcel_at(payload);
  if (parcel.bytes + sizeof(ProxyParcel) != shm::prefix_of(payload).elements) {
    throw Corrupt("a proxy's parcel is damaged");
  }
  wire::Reader in(static_cast<const std::byte*>(payload) + sizeof(ProxyParcel), parcel.bytes,
                  wire::References::borrow);
  return take_parts(in);
}

void join_parcel(void* payload) noexcept {
  // relaxed: whoever adds a holder is one, or has the state that is one
  parcel_at(payload).holders.fetch_add(1, std::memory_order_relaxed);
}

// 0 when the server has ended: who opens the parcel will be told.
std::uint64_t depart(const ProxyState& state) {
  try {
    if (state.object != nullptr && state.object->is_here()) {
      return ManagerServer::depart_own(*state.object);
    }
    return state.server_link()->depart(state.token.id);
  } catch (const EOFError&) {
    return 0;
  } catch (const std::system_error& error) {
    if (!says_ended(error)) throw;
    return 0;
  }
}

shm::ObjectRef make_parcel(const ProxyState& state) {
  const shm::OutsideMessage outside;  // what is said to the server is no part of one
  wire::Writer content;
  encode_object(content, parts_of(state));
  content.end_session();
  const std::size_t bytes = sizeof(ProxyParcel) + content.size();
  shm::ObjectRef made(shm::ObjectRequest{bytes, shm::object_type<ProxyParcel>(), bytes, {}, 0});
  ProxyParcel& parcel = parcel_at(made.payload());
  parcel.holders.store(1, std::memory_order_relaxed);  // not shared yet
  parcel.bytes = content.size();
  std::memcpy(static_cast<std::byte*>(made.payload()) + sizeof(ProxyParcel), content.data(),
              content.size());
  parcel.maker = depart(state);
  return made;
}

// A message's hold.
void drop_message(std::byte* place) noexcept {
  void* payload = nullptr;
  std::memcpy(&payload, place, sizeof payload);
  leave_parcel(payload);
  shm::drop_departed_object(payload);
}

}  // namespace

ProxiesByName::ProxiesByName() noexcept : before_(std::exchange(g_by_name, true)) {}
ProxiesByName::~ProxiesByName() { g_by_name = before_; }

shm::ObjectRef parcel_of(ProxyState& state) {
  {
    const std::scoped_lock guard(parcels_mutex());
    if (state.parcel_maker == own_pid()) return state.parcel;
  }
  shm::ObjectRef made = make_parcel(state);  // asks the server
  shm::ObjectRef theirs;
  {
    const std::scoped_lock guard(parcels_mutex());
    if (state.parcel_maker == own_pid()) {
      theirs = state.parcel;
    } else {
      state.parcel = made;
      state.parcel_maker = own_pid();
    }
  }
  if (theirs.payload() == nullptr) return made;
  leave_parcel(made.payload());  // another thread was first
  return theirs;
}

void leave_parcel(void* payload) noexcept {
  // PUBLISH holders, OBSERVE holders: the last one goes on behind all the others.
  if (parcel_at(payload).holders.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const std::uint64_t maker = parcel_at(payload).maker;
  if (maker == 0) return;
  try {
    const Parts parts = parts_in(payload);
    if (ManagerServer::discard_own(parts.token.address, parts.token.id, maker)) return;
    link_of(parts.token, parts.target ? &*parts.target : nullptr)->discard(parts.token.id, maker);
  } catch (...) {
    static_cast<void>(0);  // no way to the server: it has ended
  }
}

void encode_proxy(wire::Writer& out, const BaseProxy& proxy) {
  if (g_by_name) {
    out.put(std::uint64_t{0});
    encode_object(out, parts_of(*ProxyAccess::place(proxy).state()));
    return;
  }
  const shm::ObjectRef parcel = ProxyAccess::place(proxy).parcel();
  void* const payload = parcel.payload();
  const std::size_t offset = out.size();
  out.put(reinterpret_cast<std::uint64_t>(payload));
  shm::depart_object(payload);
  join_parcel(payload);
  try {
    out.keep(offset, &drop_message);
  } catch (...) {
    leave_parcel(payload);
    shm::drop_departed_object(payload);
    throw;
  }
}

// Of a queue's item that is discarded: a proxy of nothing, and the parcel has lost its message.
ProxyRef decode_proxy(wire::Reader& in) {
  const bool discarded = DiscardedItem::is_read_by(in);
  const auto address = in.take<std::uint64_t>();
  if (address == 0) return proxy_of_parts(take_parts(in));
  const bool take = in.references() == wire::References::take;
  const shm::ObjectRef parcel(address, shm::object_type<ProxyParcel>(), take);
  struct Leave {
    void* payload;
    ~Leave() {
      if (payload != nullptr) leave_parcel(payload);
    }
  } const leave{take ? parcel.payload() : nullptr};
  if (discarded) return nullptr;
  return proxy_of_parts(parts_in(parcel.payload()));
}

ProxyPlace::ProxyPlace(const ProxyPlace& other) { fill(other); }

ProxyPlace::ProxyPlace(ProxyPlace&& other) { take(other); }

ProxyPlace& ProxyPlace::operator=(const ProxyPlace& other) {
  if (this != &other) fill(other);
  return *this;
}

ProxyPlace& ProxyPlace::operator=(ProxyPlace&& other) {
  if (this != &other) take(other);
  return *this;
}

ProxyPlace::~ProxyPlace() { clear(); }

ProxyRef ProxyPlace::state() const {
  if (state_ != nullptr) return state_;
  if (parcel_.payload() == nullptr) throw ValueError("the proxy has been moved from");
  return proxy_of_parts(parts_in(parcel_.payload()));
}

shm::ObjectRef ProxyPlace::parcel() const {
  if (parcel_.payload() != nullptr) return parcel_;
  if (state_ == nullptr) throw ValueError("the proxy has been moved from");
  return parcel_of(*state_);
}

// Becomes what the other is, in the form of its own place.
void ProxyPlace::fill(const ProxyPlace& other) {
  const bool empty = other.state_ == nullptr && other.parcel_.payload() == nullptr;
  if (empty || !shm::Arena::contains(this)) {
    ProxyRef next = empty ? nullptr : other.state();
    clear();
    state_ = std::move(next);
    return;
  }
  shm::ObjectRef next = other.parcel();
  join_parcel(next.payload());
  clear();
  parcel_ = std::move(next);
}

// Leaves the other without its state where it needs no parcel.
void ProxyPlace::take(ProxyPlace& other) {
  if (other.state_ != nullptr && !shm::Arena::contains(this)) {
    state_ = std::move(other.state_);
  } else {
    fill(other);
  }
}

void ProxyPlace::clear() noexcept {
  if (parcel_.payload() != nullptr) {
    leave_parcel(parcel_.payload());
    parcel_ = shm::ObjectRef();
  }
  state_.reset();
}

}  // namespace millrace::runtime
