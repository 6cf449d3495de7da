// A peer of a manager's server without a socket: requests as CPython sends them go into a session,
// and its replies come out.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <millrace/object.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/managers/manager_session.hpp"
#include "runtime/managers/manager_wire.hpp"

namespace millrace::test {

using runtime::ManagerSession;

class Peer {
 public:
  explicit Peer(runtime::ManagerServer& server, std::string ends = {})
      : session_(server, {}, std::move(ends)) {}

  /// A request and its reply as values: kind and value.
  std::pair<std::string, Object> ask(Object ident, const std::string& name, List arguments = {},
                                     Dict keywords = {}) {
    wire::Writer request;
    runtime::put_frame(request,
                       Object(Tuple{std::move(ident), Object(name), Object(Tuple(arguments)),
                                    Object(std::move(keywords))}),
                       false);
    return frame({request.data(), request.size()});
  }
  std::pair<std::string, Object> frame(std::span<const std::byte> request) {
    wire::Writer reply;
    next_ = session_.serve(request, reply);
    const Object value = runtime::value_of_frame({reply.data(), reply.size()}, false);
    return {value[0].as<std::string>(), value[1]};
  }
  /// The value of '#RETURN'; the case fails for any other kind.
  Object value(Object ident, const std::string& name, List arguments = {}, Dict keywords = {}) {
    auto [kind, value] = ask(std::move(ident), name, std::move(arguments), std::move(keywords));
    EXPECT_EQ(kind, "#RETURN") << name << ": " << value.repr();
    return value;
  }
  /// The name of the exception of '#ERROR'.
  std::string error(Object ident, const std::string& name, List arguments = {},
                    Dict keywords = {}) {
    auto [kind, value] = ask(std::move(ident), name, std::move(arguments), std::move(keywords));
    EXPECT_EQ(kind, "#ERROR") << name << ": " << value.repr();
    return value.type_name();
  }
  [[nodiscard]] bool hung_up() const noexcept { return next_ == ManagerSession::Next::hang_up; }
  ManagerSession& session() noexcept { return session_; }

 private:
  ManagerSession session_;
  ManagerSession::Next next_ = ManagerSession::Next::go_on;
};

/// A server with Python's types, and what clients do.
class ManagerCore : public ::testing::Test {
 protected:
  ManagerCore() {
    server.reached_by({Object("/nowhere"), {}});
    server.publish();
  }

  /// Makes an object by a connection of its own, as CPython does.
  std::string make(const std::string& type, List arguments = {}, Dict keywords = {}) {
    List all{Object(type)};
    all.extend(Object(arguments));
    const Object made = Peer(server).value({}, "create", all, std::move(keywords));
    return made.is<Tuple>() ? made[0].as<std::string>() : std::string();
  }
  /// A peer that calls methods, whose name is `name`.
  std::unique_ptr<Peer> client(const std::string& name = "MainProcess") {
    auto peer = std::make_unique<Peer>(server);
    peer->value({}, "accept_connection", {Object(name)});
    return peer;
  }
  /// A client of millrace's, of a process with this number.
  std::unique_ptr<Peer> process(std::uint64_t number, std::uint64_t parent = 0) {
    return client(
        runtime::text_of_hello("P", {"elsewhere", number, parent, static_cast<int>(number)}));
  }

  runtime::ManagerServer server{runtime::python_manager_types()};
};

}  // namespace millrace::test
