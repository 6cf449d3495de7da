// One connection to a manager's server: a request out, its reply in.
#include <poll.h>

#include <stdexcept>
#include <utility>

#include "runtime/channels/connection_end.hpp"
#include "runtime/managers/manager_link.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

thread_local ManagerLink* g_replying = nullptr;
struct Replying {
  explicit Replying(ManagerLink* link) : before(g_replying) { g_replying = link; }
  Replying(const Replying&) = delete;
  ~Replying() { g_replying = before; }
  ManagerLink* before;
};

}  // namespace

Object manager_request(Object ident, std::string_view method, std::vector<Object> arguments) {
  return Object(Tuple{std::move(ident), Object(method), Object(Tuple(std::span<Object>(arguments))),
                      Object(Dict())});
}

Object returned(ManagerReply reply) {
  if (reply.kind == "#RETURN") return std::move(reply.value);
  if (reply.kind == "#ERROR") {
    if (is_kind(reply.value, ValueKind::exception)) raise(reply.value);
    throw RemoteError(reply.value.type_name(), reply.value.str());
  }
  if (reply.kind == "#TRACEBACK" || reply.kind == "#UNSERIALIZABLE") {
    if (!is_text(reply.value)) {
      throw TypeError("a reply of kind " + reply.kind + " that is no str but " +
                      reply.value.type_name());
    }
    const auto text = reply.value.as<std::string>();
    // The last line is "Type: what".
    const std::size_t end = text.find_last_not_of('\n');
    const std::size_t begin = end == std::string::npos ? 0 : text.rfind('\n', end) + 1;
    const std::string last = text.substr(begin, end == std::string::npos ? 0 : end + 1 - begin);
    const std::size_t colon = last.find(": ");
    const std::string what = reply.kind == "#UNSERIALIZABLE" ? "Unserializable message: " : "";
    throw RemoteError(last.substr(0, colon), what + last, text);
  }
  throw ValueError("Unrecognized message type " + Object(reply.kind).repr());
}

ManagerLink* replying_link() noexcept { return g_replying; }

ManagerRequest::ManagerRequest(const ManagerChannel& to, const Object& request) {
  put_frame(frame, request, to.peer() == ManagerChannel::Peer::own_program);
}
ManagerRequest::~ManagerRequest() { frame.revert(0); }

ManagerChannel::ManagerChannel(Connection connection) : connection_(std::move(connection)) {
  end_of(connection_).read_ahead({});
}

ManagerReply ManagerChannel::exchange(const Object& request, ManagerLink* link, Timeout limit) {
  ManagerRequest encoded(*this, request);
  return exchange(encoded, link, limit);
}

ManagerReply ManagerChannel::exchange(ManagerRequest& request, ManagerLink* link, Timeout limit) {
  wire::Writer& out = request.frame;
  take_owed({});
  broken_ = true;
  line_.watch();
  if (!line_.offer({out.data(), out.size()})) {
    connection_.send_bytes(std::string_view(reinterpret_cast<const char*>(out.data()), out.size()));
  }
  out.clear();  // what it refers to belongs to the message
  Bytes far;
  const std::span<const std::byte> frame = receive(far, limit);
  broken_ = false;
  const Replying replying(link);
  const Object reply = value_of_frame(frame, peer_ == Peer::own_program);
  if (!is_sequence(reply) || to_items(reply).size() != 2 || !is_text(to_items(reply)[0])) {
    throw TypeError("a manager's reply is a pair, not " + reply.type_name());
  }
  const auto parts = to_items(reply);
  return {parts[0].as<std::string>(), parts[1]};
}

void ManagerChannel::take_owed(Timeout limit) {
  if (!owed_) return;
  if (!limit.infinite() && !connection_.poll(limit)) {
    throw TimeoutError("a manager's server does not answer");
  }
  broken_ = true;
  connection_.recv_bytes();
  broken_ = false;
  owed_ = false;
}

// Through the line, or into `far`.
std::span<const std::byte> ManagerChannel::receive(Bytes& far, Timeout limit) {
  if (line_.look(line_.advised()) && line_.take(taken_)) return taken_;
  if (!limit.infinite()) {
    owed_ = true;  // over the socket, as nobody looks at the line
    broken_ = false;
    if (!connection_.poll(limit)) throw TimeoutError("a manager's server does not answer");
    broken_ = true;
    owed_ = false;
  }
  // Asleep at once: in a crowd recv_bytes() would wait awake for a second time, at others' cost.
  if (line_ && !line_.advised()) static_cast<void>(connection_.poll(Timeout()));
  far = connection_.recv_bytes();
  return {far.data(), far.size()};
}

void ManagerChannel::open_line(Timeout limit) {
  ManagerLine line = ManagerLine::make();
  const std::uint64_t departed = line.depart();
  try {
    returned(exchange(manager_request({}, "open_line", {Object(departed)}), nullptr, limit));
  } catch (...) {
    if (!broken_ && !owed_) ManagerLine::drop(departed);  // the server has refused it
    throw;
  }
  line_ = std::move(line);
}

bool ManagerChannel::use() noexcept {
  int known = uses_.load(std::memory_order_relaxed);  // checked by the exchange
  while (known != kTaken) {
    // USE: acquire, pairs with take_away(), behind which this thread has no channel
    if (uses_.compare_exchange_weak(known, known + 1, std::memory_order_acquire,
                                    std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

void ManagerChannel::used() noexcept {
  uses_.fetch_sub(1, std::memory_order_release);  // USE: what the call did lies before it
}

void ManagerChannel::note(const std::string& id, std::string_view method,
                          const ManagerReply& reply) noexcept {
  if (reply.kind != "#RETURN") return;
  // relaxed: the thread's own use keeps the channel its own meanwhile
  if (method == "acquire" || method == "__enter__") {
    if (reply.value == Object(false)) return;
    try {
      const bool none = held_.empty();
      ++held_[id];
      if (!none) return;
    } catch (...) {
      static_cast<void>(0);  // without memory for it: in use for good
    }
    uses_.fetch_add(1, std::memory_order_relaxed);
  } else if (method == "release" || method == "__exit__") {
    const auto held = held_.find(id);
    if (held == held_.end() || --held->second > 0) return;
    held_.erase(held);
    if (held_.empty()) uses_.fetch_sub(1, std::memory_order_relaxed);
  }
}

bool ManagerChannel::take_away() noexcept {
  int idle = 0;
  // USE: acquire, behind the last call of its thread
  if (!uses_.compare_exchange_strong(idle, kTaken, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
    return false;
  }
  close();
  return true;
}

bool ManagerChannel::hung_up() const noexcept {
  try {
    pollfd event{connection_.fileno(), POLLRDHUP, 0};
    return ::poll(&event, 1, 0) > 0;
  } catch (...) {
    return true;  // closed
  }
}

}  // namespace millrace::runtime
