// One connection's conversation with a manager's server, without the connection: frames in, frames
// out. CPython's protocol, X01, PYTHON.md 2c:
//   request (ident or None, name, arguments, keywords), reply (kind, value).
// The first request of a connection is for the server itself and, but for accept_connection, the
// only one; after that one requests are for objects. A client of millrace's may go on calling the
// server's functions, and, when it is of this program, may speak its own frames and have a line.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <millrace/wire/buffer.hpp>
#include <span>
#include <string>
#include <utility>

#include "runtime/managers/manager_line.hpp"
#include "runtime/managers/manager_server.hpp"

namespace millrace::runtime {

class ManagerSession {
 public:
  /// `ends`: of the socket (ends_seen_by_server()), by which the peer may prove to be of this
  /// program; empty: it cannot.
  ManagerSession(ManagerServer& server, ManagerCaller::Watch watch = {}, std::string ends = {});
  ManagerSession(const ManagerSession&) = delete;
  ManagerSession& operator=(const ManagerSession&) = delete;
  /// end()
  ~ManagerSession() { end(); }
  /// Once: gives back what the client held if this was its last connection.
  void end();

  enum class Next { go_on, hang_up };
  /// Serves one request; appends the reply. Throws CallerGone when nobody listens any more.
  Next serve(std::span<const std::byte> request, wire::Writer& reply);
  /// Its first request is answered by this RuntimeError, unless it is `shutdown`; it is the last.
  void refuse(std::string reason) { refusal_ = std::move(reason); }
  /// The reply to the last request has been sent, or could not be.
  void sent() noexcept { undo_ = nullptr; }
  void not_sent();
  /// The reply of `shutdown` is sent twice, as CPython's server does.
  [[nodiscard]] bool reply_twice() const noexcept { return reply_twice_; }
  [[nodiscard]] ManagerCaller& caller() noexcept { return caller_; }
  /// Whether it is an object of the server that this session is with.
  [[nodiscard]] bool serves(const SharedObject& object) const noexcept {
    return server_.owns(object);
  }
  /// The reply that is being encoded names an object of the server, which lives until the client
  /// asks again: by then it has been counted for it.
  void names_object() noexcept { names_object_ = true; }
  /// None until the client asks for one.
  [[nodiscard]] ManagerLine& line() noexcept { return line_; }

 private:
  struct Request {
    Object ident;
    std::string method;
    std::vector<Object> arguments;
    Dict keywords;
  };
  static Request parse(const Object& value);
  Object reply_to(std::span<const std::byte> frame, Next& next);
  Object control(Request& request, Next& next);
  Object call(Request& request);
  Object call_method(SharedObject& object, ManagerCall& call);
  Object fall_back(SharedObject& object, ManagerCall& call);
  Object accept(Request& request);

  ManagerServer& server_;
  ManagerCaller caller_;
  const std::string ends_;
  bool accepted_ = false;    // requests are for objects
  bool millrace_ = false;    // the peer is no CPython
  bool own_frames_ = false;  // and of this program
  bool reply_twice_ = false;
  std::string refusal_;
  std::function<void()> undo_;
  bool names_object_ = false;
  Object last_;  // the reply that does, until the next request
  ManagerLine line_;
};

/// The session whose reply this thread encodes: proxies in it are counted for its client.
ManagerSession* encoding_session() noexcept;

}  // namespace millrace::runtime
