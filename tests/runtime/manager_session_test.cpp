// CPython's manager protocol (PYTHON.md 2c): what a server answers to each request. G04-G09,
// X01-X11. Python: managers.Server, test_multiprocessing's _TestMyManager, _TestRemoteManager.
#include <millrace/proxies.hpp>

#include "runtime/channels/program_proof.hpp"
#include "tests/runtime/manager_peer.hpp"

namespace millrace::test {
namespace {

using ManagerSessionTest = ManagerCore;

TEST_F(ManagerSessionTest, DummyReturnsNoneAndTheServerHangsUp) {
  Peer peer(server);
  EXPECT_TRUE(peer.value({}, "dummy").is_none());
  EXPECT_TRUE(peer.hung_up());
}

TEST_F(ManagerSessionTest, CreateGivesIdAndExposedNames) {
  Peer peer(server);
  const Object made = peer.value({}, "create", {Object("Queue")});
  EXPECT_EQ(made[1], Object(Tuple{"empty", "full", "get", "get_nowait", "join", "put", "put_nowait",
                                  "qsize", "task_done"}));
  EXPECT_EQ(server.number_of_objects(), 1U);
}

TEST_F(ManagerSessionTest, ADictExposesIterTwiceAsInCPython) {
  Peer peer(server);
  const Object names = peer.value({}, "create", {Object("dict")})[1];
  EXPECT_EQ(std::count(names.begin(), names.end(), Object("__iter__")), 2);
}

TEST_F(ManagerSessionTest, UnknownFunctionIsATracebackOfAnAssertionError) {
  Peer peer(server);
  const auto [kind, text] = peer.ask({}, "exec");
  EXPECT_EQ(kind, "#TRACEBACK");
  EXPECT_TRUE(text.as<std::string>().ends_with("AssertionError: 'exec' unrecognized\n"));
}

TEST_F(ManagerSessionTest, UnknownTypeAndIdsAreTracebacksOfKeyErrors) {
  for (const char* name : {"create", "incref", "decref"}) {
    const auto [kind, text] = Peer(server).ask({}, name, {Object("zz")});
    EXPECT_EQ(kind, "#TRACEBACK");
    EXPECT_NE(text.as<std::string>().find("KeyError"), std::string::npos) << text;
  }
}

TEST_F(ManagerSessionTest, TheLastDecrefDropsTheObject) {
  const std::string id = make("list");
  Peer(server).value({}, "incref", {Object(id)});
  Peer(server).value({}, "decref", {Object(id)});
  EXPECT_EQ(Peer(server).value({}, "number_of_objects"), Object(1));
  Peer(server).value({}, "decref", {Object(id)});
  EXPECT_EQ(Peer(server).value({}, "number_of_objects"), Object(0));
}

TEST_F(ManagerSessionTest, AcceptedConnectionsCallMethods) {
  const std::string id = make("list", {Object(List{1, 2})});
  auto peer = client();
  EXPECT_FALSE(peer->hung_up());
  EXPECT_TRUE(peer->value(id, "append", {3}).is_none());
  EXPECT_EQ(peer->value(id, "__getitem__", {2}), Object(3));
  EXPECT_EQ(peer->value(id, "#GETVALUE"), Object(List{1, 2, 3}));
  EXPECT_EQ(peer->value(id, "__str__"), Object("[1, 2, 3]"));
  EXPECT_FALSE(peer->hung_up());
}

TEST_F(ManagerSessionTest, MethodsThatAreNotExposedAreTracebacks) {
  const std::string id = make("list");
  auto peer = client();
  const auto [kind, text] = peer->ask(id, "__class__");
  EXPECT_EQ(kind, "#TRACEBACK");
  EXPECT_NE(text.as<std::string>().find("AttributeError"), std::string::npos);
  EXPECT_EQ(peer->value(id, "__len__"), Object(0)) << "the connection lives";
}

TEST_F(ManagerSessionTest, ARequestForNoObjectIsATraceback) {
  auto peer = client();
  EXPECT_EQ(peer->ask(Object("77"), "append", {1}).first, "#TRACEBACK");
  EXPECT_EQ(peer->ask({}, "append", {1}).first, "#TRACEBACK") << "CPython's peers name an object";
}

TEST_F(ManagerSessionTest, WhatIsNoPickleIsATracebackAndTheConnectionLives) {
  const std::string id = make("list");
  auto peer = client();
  const std::string frames[] = {"", "x", "\x80\x04N.", "\x80\x04cos\nsystem\n(X\x01\0\0\0xtR.",
                                std::string("\x01\x09garbage", 9)};
  for (const std::string& each : frames) {
    EXPECT_EQ(peer->frame(std::as_bytes(std::span(each))).first, "#TRACEBACK");
  }
  EXPECT_EQ(peer->value(id, "__len__"), Object(0));
}

TEST_F(ManagerSessionTest, ExceptionsOfMethodsAreErrors) {
  const std::string list = make("list");
  const std::string dict = make("dict");
  auto peer = client();
  EXPECT_EQ(peer->error(list, "pop"), "IndexError");
  EXPECT_EQ(peer->error(list, "remove", {7}), "ValueError");
  EXPECT_EQ(peer->error(list, "append"), "TypeError");
  const auto [kind, error] = peer->ask(dict, "__getitem__", {Object(7)});
  EXPECT_EQ(error.repr(), "KeyError(7)") << "the key itself, as in Python";
}

TEST_F(ManagerSessionTest, MethodToTypeidMakesAProxy) {
  const std::string id = make("dict", {Dict{{"a", 1}, {"b", 2}}});
  auto peer = client();
  const auto [kind, value] = peer->ask(id, "__iter__");
  ASSERT_EQ(kind, "#PROXY");
  EXPECT_EQ(value[0], Object(Tuple{"__next__", "send", "throw", "close"}));
  const auto token = runtime::token_of_object(value[1]);
  EXPECT_EQ(token.typeid_name, "Iterator");
  EXPECT_EQ(server.number_of_objects(), 2U);
  EXPECT_EQ(peer->value(token.id, "__next__"), Object("a"));
  EXPECT_EQ(peer->value(token.id, "__next__"), Object("b"));
  EXPECT_EQ(peer->error(token.id, "__next__"), "StopIteration");
}

TEST_F(ManagerSessionTest, IteratingOverADictThatGrowsIsARuntimeError) {
  const std::string id = make("dict", {Dict{{"a", 1}, {"b", 2}}});
  auto peer = client();
  const auto token = runtime::token_of_object(peer->ask(id, "__iter__").second[1]);
  peer->value(token.id, "__next__");
  peer->value(id, "__setitem__", {"c", 3});
  EXPECT_EQ(peer->error(token.id, "__next__"), "RuntimeError");
}

TEST_F(ManagerSessionTest, GetMethodsAnswersATokensNames) {
  const std::string id = make("Event");
  const Object token = runtime::object_of_token({"Event", Object("/nowhere"), id});
  EXPECT_EQ(Peer(server).value({}, "get_methods", {token}),
            Object(Tuple{"is_set", "set", "clear", "wait"}));
}

TEST_F(ManagerSessionTest, DebugInfoNamesEachObject) {
  const std::string id = make("list", {Object(List{1})});
  EXPECT_EQ(Peer(server).value({}, "debug_info"),
            Object("  " + id + ":       refcount=1\n    [1]"));
}

TEST_F(ManagerSessionTest, ShutdownStopsTheServerAndIsAnsweredTwice) {
  Peer peer(server);
  EXPECT_TRUE(peer.value({}, "shutdown").is_none());
  EXPECT_TRUE(peer.session().reply_twice());
  EXPECT_TRUE(server.stopping());
}

TEST_F(ManagerSessionTest, AProxyInsideAContainerIsTheObjectItself) {
  const std::string inner = make("list", {Object(List{1})});
  const std::string outer = make("list");
  auto peer = client();
  const Object token = runtime::object_of_token({"list", Object("/nowhere"), inner});
  const Object proxy = runtime::made_by_python(
      "multiprocessing.managers", "RebuildProxy",
      Object(Tuple{runtime::python_global("multiprocessing.managers", "ListProxy"), token,
                   Object("pickle"), Object(Dict())}));
  peer->value(outer, "append", {proxy});
  Peer(server).value({}, "decref", {Object(inner)});
  EXPECT_EQ(server.number_of_objects(), 1U) << "held by a nested proxy only";
  peer->value(inner, "append", {2});
  EXPECT_EQ(peer->value(inner, "__len__"), Object(2)) << "it is alive";
  Peer(server).value({}, "incref", {Object(inner)});
  EXPECT_EQ(server.number_of_objects(), 2U) << "and can be had again";
  Peer(server).value({}, "decref", {Object(inner)});
  peer->value(outer, "clear");
  EXPECT_EQ(peer->ask(inner, "__len__").first, "#TRACEBACK") << "its last holder is gone";
}

TEST_F(ManagerSessionTest, AClientThatEndsDropsItsReferences) {
  auto session = process(7);
  const Object made = session->value({}, "create", {Object("list")});
  auto other = process(7);
  session.reset();
  EXPECT_EQ(server.number_of_objects(), 1U) << "one of its connections is open";
  other.reset();
  EXPECT_EQ(server.number_of_objects(), 0U);
}

TEST_F(ManagerSessionTest, AForkedClientBeginsWithItsParentsReferences) {
  auto parent = process(7);
  const Object made = parent->value({}, "create", {Object("list")});
  auto child = process(8, 7);
  parent.reset();
  EXPECT_EQ(server.number_of_objects(), 1U);
  child.reset();
  EXPECT_EQ(server.number_of_objects(), 0U);
}

TEST_F(ManagerSessionTest, AnItemWhoseAnswerIsNotSentGoesBack) {
  const std::string id = make("Queue");
  auto peer = client();
  peer->value(id, "put", {1});
  peer->value(id, "put", {2});
  EXPECT_EQ(peer->value(id, "get"), Object(1));
  peer->session().not_sent();
  EXPECT_EQ(peer->value(id, "get"), Object(1));
}

// A frame of the program's own, which may hold addresses.
Object reply_to_own_frame(Peer& peer) {
  wire::Writer frame;
  runtime::put_frame(frame, Object(Tuple{None, "number_of_objects", Tuple{}, Dict{}}), true);
  wire::Writer reply;
  peer.session().serve({frame.data(), frame.size()}, reply);
  return runtime::value_of_frame({reply.data(), reply.size()}, true)[1];
}

TEST_F(ManagerSessionTest, WhoProvesToBeOfTheProgramMaySpeakItsFrames) {
  Peer peer(server, "7 /path");
  const std::string proof = runtime::program_proof("client", "7 /path");
  peer.value({}, "accept_connection", {Object(runtime::text_of_hello("P", {proof, 1, 0, 7}))});
  EXPECT_EQ(reply_to_own_frame(peer), Object(0));
}

TEST_F(ManagerSessionTest, WhatAServerOrAClientSaysOfItselfProvesNothingForOthers) {
  Peer first(server, "7 /path");
  const Object reply = first.value({}, "accept_connection",
                                   {Object(runtime::text_of_hello("P", {"unknown", 1, 0, 7}))});
  const std::string servers = runtime::proof_in_reply(reply).value();
  const std::string elsewhere = runtime::program_proof("client", "7 /other");
  for (const std::string& said : {servers, elsewhere, std::string()}) {
    Peer peer(server, "7 /path");
    peer.value({}, "accept_connection", {Object(runtime::text_of_hello("P", {said, 2, 0, 7}))});
    EXPECT_NE(reply_to_own_frame(peer).repr().find("UnpicklingError"), std::string::npos) << said;
  }
  Peer unknown(server);
  unknown.value({}, "accept_connection", {Object(runtime::text_of_hello("P", {"", 3, 0, 7}))});
  EXPECT_NE(reply_to_own_frame(unknown).repr().find("UnpicklingError"), std::string::npos);
}

TEST_F(ManagerSessionTest, AProcessGivesBackOnlyWhatItHasX07) {
  auto maker = process(1);
  auto other = process(2);
  const Object id = maker->value({}, "create", {Object("list")})[0];
  other->value({}, "incref", {id});
  maker->value({}, "decref", {id});
  maker->value({}, "decref", {id});
  process(3)->value({}, "decref", {id});
  EXPECT_EQ(server.number_of_objects(), 1U);
  other->value({}, "decref", {id});
  EXPECT_EQ(server.number_of_objects(), 0U);
}

TEST_F(ManagerSessionTest, ManyObjectsComeAndGoAndNothingIsLeft) {
  auto peer = process(9);
  for (int i = 0; i < 20000; ++i) {
    const Object id = peer->value({}, "create", {Object("dict")})[0];
    peer->value({}, "decref", {id});
  }
  EXPECT_EQ(server.number_of_objects(), 0U);
}

}  // namespace
}  // namespace millrace::test
