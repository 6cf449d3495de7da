#include "runtime/managers/manager_session.hpp"

#include <stdexcept>
#include <utility>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/throw_trace.hpp"
#include "runtime/channels/program_proof.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

thread_local ManagerSession* g_encoding = nullptr;

struct Encoding {
  explicit Encoding(ManagerSession* session) { g_encoding = session; }
  Encoding(const Encoding&) = delete;
  ~Encoding() { g_encoding = nullptr; }
};

Object reply_of(const char* kind, Object value) {
  return Object(Tuple{Object(kind), std::move(value)});
}

// What CPython has from traceback.format_exc(): the last line names the exception.
Object traceback_of(const std::exception_ptr& error) {
  std::string last;
  try {
    std::rethrow_exception(error);
  } catch (const RaisedValue& raised) {
    last = raised.exception.type_name() + ": " + raised.exception.str();
  } catch (const KeyError& missing) {
    last = std::string("KeyError: ") + missing.what();  // which has the key's repr already
  } catch (...) {
    const Object exception = object_of_exception(error);
    last = exception.type_name() + ": " + exception.str();
  }
  return reply_of("#TRACEBACK", Object("Traceback (most recent call last):\n  in the manager's "
                                       "server\n" +
                                       last + "\n"));
}

Object error_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const RaisedValue& raised) {
    return reply_of("#ERROR", raised.exception);
  } catch (...) {
    return reply_of("#ERROR", object_of_exception(error));
  }
}

constexpr const char* kFunctions[] = {"shutdown",    "create",     "accept_connection",
                                      "get_methods", "debug_info", "number_of_objects",
                                      "dummy",       "incref",     "decref",
                                      "depart",      "discard",    "open_line"};

bool is_function(const std::string& name) {
  for (const char* each : kFunctions) {
    if (name == each) return true;
  }
  return false;
}

Object list_text(const std::vector<std::string>& names) {
  List all;
  for (const std::string& each : names) all.append(each);
  return Object(std::move(all));
}

}  // namespace

ManagerSession* encoding_session() noexcept { return g_encoding; }

ManagerSession::ManagerSession(ManagerServer& server, ManagerCaller::Watch watch, std::string ends)
    : server_(server),
      caller_(std::make_shared<ManagerClient>(), std::move(watch)),
      ends_(std::move(ends)) {}

void ManagerSession::end() {
  if (std::exchange(millrace_, false)) server_.disconnect(caller_.shared_client());
}

ManagerSession::Next ManagerSession::serve(std::span<const std::byte> request,
                                           wire::Writer& reply) {
  const ThrowTraceScope traced;  // an exception is encoded where it is answered
  undo_ = nullptr;
  last_ = Object();
  names_object_ = false;
  reply_twice_ = false;
  Next next = accepted_ ? Next::go_on : Next::hang_up;
  const bool own = own_frames_ && !request.empty() && request[0] == kOwnFrame;
  caller_.speak_pickle(!own);
  Object answer = reply_to(request, next);
  const Encoding encoding(this);
  try {
    put_frame(reply, answer, own);
  } catch (const std::exception&) {
    if (undo_) std::exchange(undo_, nullptr)();
    const Object text = traceback_of(std::current_exception())[1];
    put_frame(reply, reply_of("#UNSERIALIZABLE", text), own);
  }
  if (names_object_) last_ = std::move(answer);
  return next;
}

void ManagerSession::not_sent() {
  if (undo_) std::exchange(undo_, nullptr)();
}

Object ManagerSession::reply_to(std::span<const std::byte> frame, Next& next) {
  try {
    Request request = parse(value_of_frame(frame, own_frames_));
    if (!refusal_.empty() && request.method != "shutdown") throw std::runtime_error(refusal_);
    const bool for_server = !accepted_ || (millrace_ && request.ident.is_none());
    return for_server ? control(request, next) : call(request);
  } catch (const CallerGone&) {
    throw;
  } catch (...) {
    return traceback_of(std::current_exception());
  }
}

ManagerSession::Request ManagerSession::parse(const Object& value) {
  if (!is_sequence(value)) throw TypeError("cannot unpack a request of " + value.type_name());
  const auto parts = to_items(value);
  if (parts.size() != 4) {
    throw ValueError("a request has 4 parts, not " + std::to_string(parts.size()));
  }
  if (!is_text(parts[1])) throw TypeError("a method's name is no " + parts[1].type_name());
  Request request{parts[0], parts[1].as<std::string>(), {}, parts[3].as<Dict>()};
  const auto arguments = to_items(parts[2]);
  request.arguments.assign(arguments.begin(), arguments.end());
  return request;
}

Object ManagerSession::control(Request& request, Next& next) {
  if (!is_function(request.method)) {
    throw AssertionError(Object(request.method).repr() + " unrecognized");
  }
  if (request.method == "accept_connection") {
    next = Next::go_on;
    return reply_of("#RETURN", accept(request));
  }
  const auto text = [&](std::size_t i) {
    if (request.arguments.size() <= i) {
      throw TypeError(request.method + "() missing a required argument");
    }
    return request.arguments[i].as<std::string>();
  };
  Object value;
  if (request.method == "open_line" && own_frames_) {
    if (request.arguments.size() != 1) throw TypeError("open_line() takes 1 argument");
    line_ = ManagerLine::arrive(request.arguments[0].as<std::uint64_t>());
  } else if (request.method == "create") {
    const std::string type = text(0);
    ManagerCall call{type, {}, std::move(request.keywords), caller_};
    call.arguments.assign(request.arguments.begin() + 1, request.arguments.end());
    const CreatedObject made = server_.create(call, type);
    value = Object(Tuple{Object(made.object->id), made.exposed});
  } else if (request.method == "incref") {
    server_.incref(caller_, text(0));
  } else if (request.method == "decref") {
    server_.decref(caller_, text(0));
  } else if (request.method == "depart") {
    server_.depart(caller_, text(0));
  } else if (request.method == "discard") {
    server_.discard(number_of_hex(text(1)), text(0));
  } else if (request.method == "number_of_objects") {
    value = server_.number_of_objects();
  } else if (request.method == "debug_info") {
    value = server_.debug_info();
  } else if (request.method == "get_methods") {
    if (request.arguments.empty()) throw TypeError("get_methods() missing a required argument");
    const TokenValue token = token_of_object(request.arguments[0]);
    const auto object = server_.find(token.id);
    if (object == nullptr) throw KeyError(Object(token.id).repr());
    value = Object(Tuple(list_text(object->exposed).as<List>()));
  } else if (request.method == "shutdown") {
    reply_twice_ = !millrace_;
    server_.stop();
  }
  return reply_of("#RETURN", std::move(value));
}

Object ManagerSession::accept(Request& request) {
  ManagerHello hello;
  const bool known = !accepted_ && request.arguments.size() == 1 && is_text(request.arguments[0]) &&
                     hello_of_text(request.arguments[0].as<std::string>(), hello);
  accepted_ = true;
  if (!known) return {};
  millrace_ = true;
  caller_.become(server_.client(hello.client, hello.pid, hello.parent));
  own_frames_ = proves_program(hello.proof, "client", ends_);
  return Object(reply_to_hello(program_proof("server", ends_)));
}

Object ManagerSession::call(Request& request) {
  const std::shared_ptr<SharedObject> object =
      is_text(request.ident) ? server_.find(request.ident.as<std::string>()) : nullptr;
  if (object == nullptr) throw KeyError(request.ident.repr());
  ManagerCall call{request.method, std::move(request.arguments), std::move(request.keywords),
                   caller_};
  if (object->exposes(request.method) && object->referent->has_method(request.method)) {
    return call_method(*object, call);
  }
  return fall_back(*object, call);
}

Object ManagerSession::call_method(SharedObject& object, ManagerCall& call) {
  ManagerAnswer answer;
  try {
    answer = object.referent->call(call);
  } catch (const CallerGone&) {
    throw;
  } catch (...) {
    return error_of(std::current_exception());
  }
  const auto& types = object.type->method_to_typeid;
  const auto made = types.find(std::string(call.method));
  if (made == types.end()) {
    undo_ = std::move(answer.undo);
    if (answer.referent != nullptr) throw TypeError("this method's result cannot be sent");
    return reply_of("#RETURN", std::move(answer.value));
  }
  const CreatedObject shared = server_.share(caller_, made->second, answer);
  return reply_of("#PROXY", Object(Tuple{shared.exposed, server_.token_of(*shared.object)}));
}

Object ManagerSession::fall_back(SharedObject& object, ManagerCall& call) {
  Object value;
  if (call.method == "__str__") {
    value = object.referent->str();
  } else if (call.method == "__repr__") {
    value = object.referent->repr();
  } else if (call.method == "#GETVALUE") {
    value = object.referent->value(caller_);
  } else if (!object.exposes(call.method)) {
    throw AttributeError("method " + Object(call.method).repr() + " of '" +
                         object.referent->class_name() +
                         "' object is not in exposed=" + list_text(object.exposed).repr());
  } else {
    throw KeyError(Object(call.method).repr());
  }
  return reply_of("#RETURN", std::move(value));
}

}  // namespace millrace::runtime
