// Connection's calls over whatever end is behind it.
#include <array>
#include <cstring>
#include <limits>
#include <millrace/connection.hpp>
#include <new>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include "runtime/channels/auth.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/values/pickle.hpp"
#include "runtime/values/pickle_handles.hpp"

namespace millrace {
namespace runtime {

void OutgoingValue::set_functions(FunctionId to_object, FunctionId discard) noexcept {
  std::memcpy(data() + offsetof(ValueHead, to_object), &to_object, sizeof to_object);
  std::memcpy(data() + offsetof(ValueHead, discard), &discard, sizeof discard);
}

void OutgoingValue::send(ConnectionEnd& end) {
  const FramePart part(data(), size());
  end.send(FrameKind::value, {&part, 1});
  clear();
}

struct ValueMessage::State {
  FrameBuffer frame;
  ValueHead head{};
  std::optional<Object> object;  // that of a pickle
  bool taken = false;

  [[nodiscard]] wire::Reader content() const noexcept {
    return {frame.data() + sizeof head, frame.size() - sizeof head};
  }
};

ValueMessage::State& ValueMessage::state() noexcept {
  static_assert(sizeof(State) <= kStateBytes && alignof(State) <= 16);
  return *std::launder(reinterpret_cast<State*>(state_));
}
const ValueMessage::State& ValueMessage::state() const noexcept {
  return *std::launder(reinterpret_cast<const State*>(state_));
}

namespace {

Object value_of_pickle(const FrameBuffer& frame, const PickleLimits& limits) {
  const std::string_view bytes(reinterpret_cast<const char*>(frame.data()), frame.size());
  if (bytes.starts_with(kChallenge)) {
    throw UnpicklingError(
        "the message is no value but a challenge: the peer wants an authkey: give it to Client() "
        "or to answer_challenge()");
  }
  return unpickle(bytes, limits);
}

}  // namespace

ValueMessage::ValueMessage(ConnectionEnd& end) {
  struct Made {  // a constructor that throws destroys nothing by itself
    State* state;
    ~Made() {
      if (state != nullptr) state->~State();
    }
  } made{::new (static_cast<void*>(state_)) State};
  State& all = *made.state;
  end.check_readable();
  const FrameKind kind = end.receive(all.frame, std::numeric_limits<std::size_t>::max());
  if (end.python_wire()) {
    PickleLimits limits;
    limits.handles = end.peer_is_known();
    all.object = value_of_pickle(all.frame, limits);
  } else if (kind != FrameKind::value || all.frame.size() < sizeof(ValueHead)) {
    throw TypeError("a message of send_bytes() is no value: receive it by recv_bytes()");
  } else {
    std::memcpy(&all.head, all.frame.data(), sizeof all.head);
  }
  made.state = nullptr;
}

ValueMessage::~ValueMessage() {
  State& all = state();
  if (!all.taken && all.head.discard != 0) {
    try {
      wire::Reader in = all.content();
      reinterpret_cast<void (*)(wire::Reader&)>(resolve_function(all.head.discard))(in);
    } catch (...) {
      // What cannot be decoded cannot be given back either: it stays until the program ends.
    }
  }
  all.~State();
}

bool ValueMessage::is(std::uint64_t type) const noexcept {
  return !state().object && state().head.type == type;
}

wire::Reader ValueMessage::take() noexcept {
  state().taken = true;
  return state().content();
}

Object ValueMessage::object(std::string_view wanted) {
  State& all = state();
  if (all.object) return std::move(*all.object);
  if (all.head.to_object == 0) refuse(wanted);
  wire::Reader in = take();
  return reinterpret_cast<Object (*)(wire::Reader&)>(resolve_function(all.head.to_object))(in);
}

void ValueMessage::refuse(std::string_view wanted) const {
  throw TypeError("the message is no " + std::string(wanted) +
                  ": receive it as the type that it was sent as");
}

bool speaks_python(const ConnectionEnd& end) noexcept { return end.python_wire(); }

void send_pickled(ConnectionEnd& end, const Object& value) {
  end.check_writable();
  wire::Writer out;
  DepartingHandles handles;
  pickle(out, value);
  const FramePart part(out.data(), out.size());
  end.send(FrameKind::bytes, {&part, 1});
  handles.stay();
}

void throw_not_pythons(std::string_view type) {
  throw TypeError("a " + std::string(type) +
                  " has no counterpart in Python: it cannot be sent over a socket");
}

void throw_as_type_error() {
  try {
    throw;
  } catch (const TypeError&) {
    throw;
  } catch (const std::exception& error) {
    throw TypeError(std::string("the message does not fit: ") + error.what());
  }
}

namespace {

// What recv_bytes() gives for a value: the bytes that CPython would have sent.
Bytes pickle_of(FrameBuffer& frame) {
  ValueHead head{};
  if (frame.size() < sizeof head) throw Corrupt("a value message without its head");
  std::memcpy(&head, frame.data(), sizeof head);
  wire::Reader in(frame.data() + sizeof head, frame.size() - sizeof head);
  if (head.to_object == 0) {
    if (head.discard != 0) {
      reinterpret_cast<void (*)(wire::Reader&)>(resolve_function(head.discard))(in);
    }
    throw TypeError("the message is a value that Python does not know, no bytes");
  }
  wire::Writer out;
  pickle(out, reinterpret_cast<Object (*)(wire::Reader&)>(resolve_function(head.to_object))(in));
  return {out.data(), out.size()};
}

// The bytes that recv_bytes() would give, into `room` if they fit, else into `rest`; their number.
std::size_t receive_bytes(ConnectionEnd& end, std::span<std::byte> room, FrameBuffer& rest) {
  if (end.receive(rest, std::numeric_limits<std::size_t>::max()) == FrameKind::value) {
    const Bytes pickled = pickle_of(rest);
    std::memcpy(rest.resize(pickled.size()), pickled.data(), pickled.size());
  }
  if (rest.size() != 0 && rest.size() <= room.size()) {
    std::memcpy(room.data(), rest.data(), rest.size());
  }
  return rest.size();
}

[[noreturn]] void bad_value(const char* what, std::ptrdiff_t value) {
  throw ValueError(std::string(what) + " (" + std::to_string(value) + ")");
}

}  // namespace
}  // namespace runtime

Object Connection::recv() const { return recv<Object>(); }

void Connection::send_bytes(const runtime::ByteView& bytes, std::ptrdiff_t offset,
                            std::optional<std::ptrdiff_t> size) const {
  runtime::ConnectionEnd& end = runtime::end_of(*this);
  end.check_writable();
  const auto all = static_cast<std::ptrdiff_t>(bytes.size());
  if (offset < 0) runtime::bad_value("offset is negative", offset);
  if (offset > all) runtime::bad_value("buffer length < offset", offset);
  if (size && *size < 0) runtime::bad_value("size is negative", *size);
  if (size && *size > all - offset) runtime::bad_value("buffer length < offset + size", *size);
  const auto count = static_cast<std::size_t>(size ? *size : all - offset);
  const runtime::FramePart part(bytes.data() + offset, count);
  end.send(runtime::FrameKind::bytes, {&part, 1});
}

Bytes Connection::recv_bytes(std::optional<std::ptrdiff_t> maxlength) const {
  runtime::ConnectionEnd& end = runtime::end_of(*this);
  end.check_readable();
  if (maxlength && *maxlength < 0) runtime::bad_value("negative maxlength", *maxlength);
  std::string bytes;
  runtime::FrameBuffer frame(bytes);
  const std::size_t most =
      maxlength ? static_cast<std::size_t>(*maxlength) : std::numeric_limits<std::size_t>::max();
  const runtime::FrameKind kind = end.receive(frame, most);
  if (kind != runtime::FrameKind::value) return {std::move(bytes)};
  Bytes pickled = runtime::pickle_of(frame);
  if (pickled.size() <= most) return pickled;
  end.refuse_rest();
  runtime::throw_bad_message_length();
}

std::size_t Connection::receive_into(std::byte* buffer, std::size_t bytes,
                                     std::ptrdiff_t offset) const {
  runtime::ConnectionEnd& end = runtime::end_of(*this);
  end.check_readable();
  if (offset < 0) runtime::bad_value("negative offset", offset);
  const auto skipped = static_cast<std::size_t>(offset);
  if (skipped > bytes) runtime::bad_value("offset too large", offset);
  runtime::FrameBuffer rest;
  const std::span<std::byte> room(buffer + skipped, bytes - skipped);
  // A socket's goes into the room as it comes.
  const std::size_t got =
      end.python_wire() ? end.receive_into(room, rest) : runtime::receive_bytes(end, room, rest);
  if (got > bytes - skipped) throw BufferTooShort(Bytes(rest.data(), rest.size()));
  return got;
}

bool Connection::poll(Timeout timeout) const {
  runtime::ConnectionEnd& end = runtime::end_of(*this);
  end.check_readable();
  return end.poll(timeout);
}

int Connection::fileno() const { return runtime::end_of(*this).fileno(); }

std::ostream& operator<<(std::ostream& out, const Connection& connection) {
  return out << connection.repr();
}

}  // namespace millrace
