// The ends of connections that this process has open, and the handles that refer to them.
//
// A handle in this process's own memory names a place in the table, which counts such handles; the
// last one gives the place back and its end goes. A handle in shared memory (a capture's copy, a
// message) has no place anywhere: it keeps what depart() gave, by which any process opens the end.
//
// Invariants
//  1. A place is in use while its count is not 0. The count rises without the lock only by a handle
//     that is counted itself; from 0, and to 0, it goes under the lock.
//  2. Under the lock nothing of shm/ is called: a fork takes shm's locks before this one.
//  3. A forked child has a copy of the table and of the handles that are counted in it.
//
// When the process dies, shm's reference tables tell: the table is its own and needs no repair.
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <utility>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/channels/pipe_end.hpp"
#include "runtime/channels/socket_end.hpp"
#include "shm/arena.hpp"

namespace millrace {

namespace runtime {
namespace {

struct Place {
  std::atomic<std::uint32_t> handles{0};
  const void* object = nullptr;  // of the handles; with the lock
  ConnectionEnd* end = nullptr;  // set before the place is handed out, until the last handle goes
  std::uint32_t next_free = 0;   // place + 1; with the lock
};

constexpr std::size_t kChunk = 256;
constexpr std::size_t kChunks = 1024;

// Written with the lock, before a place in it is handed out; read without, at each call.
constinit std::array<std::atomic<Place*>, kChunks> g_chunks{};

// relaxed: whoever has a place's number got it behind the chunk's making
Place& at(std::uint32_t place) noexcept {
  return g_chunks[(place - 1) / kChunk].load(std::memory_order_relaxed)[(place - 1) % kChunk];
}

struct Table {
  ForkMutex mutex{ForkMutex::Level::names};
  std::uint32_t used = 0;  // places ever handed out; with the lock
  std::uint32_t free = 0;  // the first free one + 1; with the lock
  std::array<EndOps, 3> ops{EndOps{}, PipeEnd::ops(), SocketEnd::ops()};
};

// Written once, by whoever makes the table; relaxed: who has no connection need not see it.
std::atomic<bool> g_any{false};

// Never destroyed: handles of static storage end after everything else.
Table& table() {
  static Table& instance = (g_any.store(true, std::memory_order_relaxed), *new Table);
  return instance;
}

std::uint32_t take_place(Table& all) {
  if (all.free != 0) {
    const std::uint32_t place = all.free;
    all.free = at(place).next_free;
    return place;
  }
  const std::size_t chunk = all.used / kChunk;
  if (chunk == kChunks) {
    throw std::system_error(EMFILE, std::generic_category(),
                            "a connection: this process has too many");
  }
  if (all.used % kChunk == 0) {
    g_chunks[chunk].store(new Place[kChunk], std::memory_order_relaxed);  // see at()
  }
  return ++all.used;
}

// A place for the end, counted once.
std::uint32_t enter(std::unique_ptr<ConnectionEnd> end, const void* object) {
  Table& all = table();
  const std::lock_guard guard(all.mutex);
  const std::uint32_t place = take_place(all);
  Place& entry = at(place);
  entry.object = object;
  entry.end = end.release();
  entry.handles.store(1, std::memory_order_relaxed);  // handed out by the lock's release
  return place;
}

// The place of an end that is open already, counted once more; 0: there is none.
std::uint32_t find_open(const void* object) {
  Table& all = table();
  const std::lock_guard guard(all.mutex);
  for (std::uint32_t place = 1; place <= all.used; ++place) {
    Place& entry = at(place);
    // relaxed: the lock orders everything but counting up
    if (entry.handles.load(std::memory_order_relaxed) == 0 || entry.object != object) continue;
    if (entry.end->closed()) continue;
    entry.handles.fetch_add(1, std::memory_order_relaxed);
    return place;
  }
  return 0;
}

void leave(std::uint32_t place) noexcept {
  Table& all = table();
  std::unique_ptr<ConnectionEnd> last;
  {
    const std::lock_guard guard(all.mutex);
    Place& entry = at(place);
    if (entry.handles.fetch_sub(1, std::memory_order_relaxed) != 1) return;
    last.reset(std::exchange(entry.end, nullptr));
    entry.object = nullptr;
    entry.next_free = all.free;
    all.free = place;
  }
}

const EndOps& ops_of(const ConnectionObject& object) noexcept {
  return table().ops[static_cast<std::size_t>(object.kind) % 3];
}

}  // namespace

[[gnu::hot]] void close_connections() noexcept {
  if (!g_any.load(std::memory_order_relaxed)) return;  // a process need not make it to end
  Table& all = table();
  for (std::uint32_t place = 1;; ++place) {
    ConnectionEnd* end = nullptr;
    {
      const std::lock_guard guard(all.mutex);
      if (place > all.used) return;
      Place& entry = at(place);
      if (entry.handles.load(std::memory_order_relaxed) != 0) {  // under the lock
        entry.handles.fetch_add(1, std::memory_order_relaxed);
        end = entry.end;
      }
    }
    if (end == nullptr) continue;
    end->close();
    leave(place);
  }
}

}  // namespace runtime

// What the runtime may do with handles.
struct ConnectionAccess {
  static const runtime::ConnectionObject& object(const Connection& handle) noexcept {
    return *static_cast<const runtime::ConnectionObject*>(handle.object_.payload());
  }
  static bool shared(const Connection* handle) noexcept { return shm::Arena::contains(handle); }

  static Connection make(shm::ObjectRef object) { return Connection(std::move(object)); }
  static shm::ObjectRef& ref(Connection& handle) noexcept { return handle.object_; }
  static std::uint32_t& place(Connection& handle) noexcept { return handle.place_; }
  static runtime::ConnectionEnd* end(const Connection& handle) noexcept {
    return handle.place_ == 0 ? nullptr : runtime::at(handle.place_).end;
  }

  // What `from` keeps, or would keep if it were in shared memory; 0 when it is closed.
  static std::uint64_t keep(const Connection& from) {
    if (from.place_ == 0) {
      return from.kept_ == 0 ? 0
                             : runtime::ops_of(object(from)).duplicate(object(from), from.kept_);
    }
    runtime::ConnectionEnd& open = *end(from);
    return open.closed() ? 0 : open.depart();
  }
  // Makes `to`, whose object is set, a handle in this process's memory.
  static void open(Connection& to, std::uint64_t kept) {
    if (kept == 0) return;
    to.place_ = runtime::find_open(to.object_.payload());
    if (to.place_ == 0) {
      to.place_ =
          runtime::enter(runtime::ops_of(object(to)).open(object(to), kept), to.object_.payload());
    }
  }
  // Makes `to`, whose object is set and which has nothing else, like `from`.
  static void copy(Connection& to, const Connection& from) {
    if (shared(&to)) {
      to.kept_ = keep(from);
    } else if (from.place_ != 0) {
      // relaxed: `from` is counted
      runtime::at(from.place_).handles.fetch_add(1, std::memory_order_relaxed);
      to.place_ = from.place_;
    } else {
      open(to, from.kept_);
    }
  }
  static void let_go(Connection& handle) noexcept {
    const std::uint32_t place = std::exchange(handle.place_, 0);
    const std::uint64_t kept = std::exchange(handle.kept_, 0);
    if (place != 0) runtime::leave(place);
    if (kept != 0) runtime::ops_of(object(handle)).drop(object(handle), kept);
  }
  static void move(Connection& to, Connection& from) {
    if (shared(&to) == shared(&from)) {
      to.place_ = std::exchange(from.place_, 0);
      to.kept_ = std::exchange(from.kept_, 0);
    } else {
      copy(to, from);
      let_go(from);
    }
  }
};

namespace runtime {

Connection make_connection(std::unique_ptr<ConnectionEnd> end, shm::ObjectRef object) {
  Connection handle = ConnectionAccess::make(std::move(object));
  const void* const payload = ConnectionAccess::ref(handle).payload();
  ConnectionAccess::place(handle) = enter(std::move(end), payload);
  return handle;
}

Connection make_connection(std::unique_ptr<ConnectionEnd> end, EndKind kind) {
  shm::ObjectRef object(
      shm::ObjectRequest{sizeof(ConnectionObject), shm::object_type<Connection>(), 1});
  *static_cast<ConnectionObject*>(object.payload()) = {0, kind, 0, end->readable(),
                                                       end->writable()};
  return make_connection(std::move(end), std::move(object));
}

ConnectionEnd& end_of(const Connection& connection) {
  ConnectionEnd* const end = ConnectionAccess::end(connection);
  if (end == nullptr || end->closed()) throw_handle_closed();
  return *end;
}

}  // namespace runtime

Connection::Connection(const Connection& other) : object_(other.object_) {
  ConnectionAccess::copy(*this, other);
}

// Terminates when there is no memory left for a handle that moves out of a message or into one.
Connection::Connection(Connection&& other) noexcept : object_(other.object_) {
  ConnectionAccess::move(*this, other);
  other.object_ = shm::ObjectRef();
}

Connection& Connection::operator=(const Connection& other) {
  if (this != &other) *this = Connection(other);
  return *this;
}

Connection& Connection::operator=(Connection&& other) noexcept {
  if (this == &other) return *this;
  if (object_.payload() != nullptr) ConnectionAccess::let_go(*this);
  object_ = other.object_;
  ConnectionAccess::move(*this, other);
  other.object_ = shm::ObjectRef();
  return *this;
}

Connection::~Connection() {
  if (object_.payload() != nullptr) ConnectionAccess::let_go(*this);
}

void Connection::close() const noexcept {
  if (runtime::ConnectionEnd* end = ConnectionAccess::end(*this)) end->close();
}

bool Connection::closed() const noexcept {
  const runtime::ConnectionEnd* end = ConnectionAccess::end(*this);
  return end == nullptr || end->closed();
}

bool Connection::readable() const noexcept {
  if (const runtime::ConnectionEnd* end = ConnectionAccess::end(*this)) return end->readable();
  return object_.payload() != nullptr && ConnectionAccess::object(*this).readable;
}

bool Connection::writable() const noexcept {
  if (const runtime::ConnectionEnd* end = ConnectionAccess::end(*this)) return end->writable();
  return object_.payload() != nullptr && ConnectionAccess::object(*this).writable;
}

std::string Connection::repr() const {
  std::array<char, 80> text{};
  std::snprintf(text.data(), text.size(), "<multiprocessing.connection.Connection object at %p>",
                object_.payload());
  return text.data();
}

namespace wire {
namespace {

// What of a handle is in a message.
struct Kept {
  std::uint64_t object;
  std::uint64_t kept;
};

void* payload_of(const Kept& content) noexcept {
  void* payload = nullptr;
  std::memcpy(&payload, &content.object, sizeof payload);
  return payload;
}

void drop(std::byte* place) noexcept {
  Kept content{};
  std::memcpy(&content, place, sizeof content);
  const auto& object = *static_cast<const runtime::ConnectionObject*>(payload_of(content));
  if (content.kept != 0) runtime::ops_of(object).drop(object, content.kept);
  shm::drop_departed_object(payload_of(content));
}

}  // namespace

void Custom<Connection>::encode(Writer& out, const Connection& value) {
  Connection& handle = const_cast<Connection&>(value);  // nothing of it changes
  if (ConnectionAccess::ref(handle).payload() == nullptr) runtime::throw_handle_closed();
  Kept content{reinterpret_cast<std::uint64_t>(ConnectionAccess::ref(handle).payload()),
               ConnectionAccess::keep(value)};
  if (content.kept == 0) runtime::throw_handle_closed();
  const auto& object = ConnectionAccess::object(value);
  try {
    shm::depart_object(payload_of(content));
  } catch (...) {
    runtime::ops_of(object).drop(object, content.kept);
    throw;
  }
  try {
    const std::size_t offset = out.size();
    out.put(content);
    out.keep(offset, drop);
  } catch (...) {
    drop(reinterpret_cast<std::byte*>(&content));
    throw;
  }
}

Connection Custom<Connection>::decode(Reader& in) {
  const auto content = in.take<Kept>();
  // Checked, and referred to by this process, before what is in it is believed.
  Connection handle =
      ConnectionAccess::make(shm::ObjectRef(content.object, shm::object_type<Connection>(), false));
  struct Done {
    const Kept content;
    const bool taken;
    ~Done() {  // also of an end that cannot be opened here
      Kept kept = content;
      if (taken) drop(reinterpret_cast<std::byte*>(&kept));
    }
  } const done{content, in.references() == References::take};
  ConnectionAccess::open(handle, content.kept);
  return handle;
}

}  // namespace wire
}  // namespace millrace
