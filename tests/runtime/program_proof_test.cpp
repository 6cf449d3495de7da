// How the ends of a socket prove to be processes of one program.
#include "runtime/channels/program_proof.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <millrace/listener.hpp>
#include <string>
#include <thread>
#include <utility>

namespace millrace::test {
namespace {

using runtime::ends_seen_by_client;
using runtime::ends_seen_by_server;
using runtime::program_proof;
using runtime::proves_program;

// What both sides of a connection to a listener at `address` see.
std::pair<std::string, std::string> ends_over(const connection::ListenerOptions& options,
                                              const std::string& host = {}) {
  const connection::Listener listener(options);
  connection::Address address = listener.address();
  if (!host.empty()) address = {host, address.port()};
  std::string client;
  std::thread dials([&] { client = ends_seen_by_client(connection::Client(address).fileno()); });
  const Connection accepted = listener.accept();
  dials.join();
  return {client, ends_seen_by_server(accepted.fileno())};
}

TEST(ProgramProof, BothEndsOfASocketSeeTheSame) {
  const auto [by_path, at_path] = ends_over({});
  EXPECT_EQ(by_path, at_path);
  EXPECT_EQ(by_path.find(std::to_string(::getpid()) + " /"), 0U) << by_path;
  const auto [by_port, at_port] = ends_over({.address = {"localhost", 0}});
  EXPECT_EQ(by_port, at_port);
  EXPECT_EQ(by_port.find("127.0.0.1 "), 0U) << by_port;
  const auto [mapped, at_both] =
      ends_over({.address = {"::", 0}, .family = "AF_INET6"}, "127.0.0.1");
  EXPECT_EQ(mapped, at_both) << "a socket of both families";
}

TEST(ProgramProof, EachConnectionHasItsOwnProof) {
  const auto [first, at_first] = ends_over({.address = {"localhost", 0}});
  const auto [second, at_second] = ends_over({.address = {"localhost", 0}});
  const std::string said = program_proof("client", first);
  EXPECT_TRUE(proves_program(said, "client", at_first));
  EXPECT_FALSE(proves_program(said, "client", at_second)) << "said elsewhere";
  EXPECT_FALSE(proves_program(said, "server", at_first)) << "said back";
  EXPECT_NE(said, program_proof("client", second));
}

TEST(ProgramProof, UnknownEndsProveNothing) {
  EXPECT_EQ(ends_seen_by_client(-1), "");
  EXPECT_EQ(ends_seen_by_server(-1), "");
  EXPECT_EQ(program_proof("client", ""), "");
  EXPECT_FALSE(proves_program("", "client", ""));
  EXPECT_FALSE(proves_program("", "client", "7 /path"));
}

}  // namespace
}  // namespace millrace::test
