// Processes that do not begin as a copy of their parent, and quickly: the start method
// "forkserver".
//
// A server, one a program, is the program executed anew (spawn.hpp): one thread, nothing of
// main()'s memory, the libraries of set_forkserver_preload() loaded. Whoever starts a process puts
// the same message into the arena as for spawn, connects to the server's socket and says where it
// lies; the server forks, the child decodes and runs. No process of the program keeps a descriptor
// of it, and a program that starts nothing by this method has neither server nor socket.
//
//     parent  reserve id -> message -> connect, send {id, message; stdout, stderr, cwd}
//     server  check the peer -> cwd of the child to be -> fork ... reap, mark dead with the status
//     child   adopt id (too late: it ends) -> reply {pid; pidfd} -> streams and signals of the
//             parent -> decode, run
//
// The server is nobody's child: the executed process binds the socket, forks the server and ends.
// Its socket lies in a folder of its own (mode 0700) and not in the abstract name space; peers of
// another user, and those that are not the process of the table they say they are, get nothing.
//
// Invariants
// 1. At most one server is announced in the arena; whoever finds it dead announces the next.
// 2. A request that got no reply has started nothing: the connection ends without one when server
//    and child are gone, or there is no child. One that comes too late finds its id revoked:
//    revoke() and adopt() race for one word of the process table.
// 3. A death's status is in the table before the server reaps it; until it is reaped, anybody can
//    read it in /proc.
//
// What happens when a process dies between any two steps:
//   parent, before the request: as in spawn.hpp. After it: its child runs; the server tells its
//     daemonic children, which end.
//   server, before the fork: the parent sees the connection end, revokes the id and starts another
//     server. After it: the child replies and goes on; its status is read from /proc, or from its
//     pidfd once init has reaped it (kernels before 6.15 have forgotten it then: exit code 255);
//     daemonic ones look after their parent themselves.
//   child, before its reply: the parent sees the connection end and starts another.
//   whoever starts the server: another process takes the announcement over; a server that was made
//     already has that one process to serve, sees its end, and ends.
//   nobody, but the server is stopped: starts wait. SIGINT (install_sigint) revokes the id and then
//     ends the start; where the child has adopted it, the start goes on.
// The server ends when all processes it has served or made have ended; it removes its folder. A
// killed server's folder is removed by the next server of the same user: it is not locked.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/process/server_folder.hpp"
#include "runtime/process/spawn.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {

/// The two low bits of ForkServerNote::word.
enum ServerState : std::uint64_t { kNoServer = 0, kServerStarts = 1, kServerRuns = 2 };

/// What the program knows of its server, in the arena. All bytes zero: there is none.
struct ForkServerNote {
  /// The program's; made on first use. Throws std::system_error (ENOMEM).
  static ForkServerNote& instance();

  /// Who serves: nobody (0), starting by process `word >> 2`, or running with pid `word >> 2`.
  std::atomic<std::uint64_t> word;
  /// The pid of a server just made, told by the process between it and the one that starts it.
  std::atomic<std::int32_t> made;
  /// The path of its socket. Written while `starting`, read while `running`; somebody who reads it
  /// later than that finds no server there.
  std::array<std::atomic<std::uint64_t>, 14> path;

  void set_path(const std::string& text) noexcept;
  [[nodiscard]] std::string get_path() const;
};

/// What a parent asks of the server, in one packet; with it go the descriptors that `has` names.
struct StartRequest {
  static constexpr std::uint64_t kMagic = 0x6d72'666f'726b'7331;
  enum Has : std::uint32_t { kOutput = 1, kErrors = 2, kFolder = 4 };

  std::uint64_t magic;
  StartBlock* start;
  shm::ProcessId id;      // of the child to be
  shm::ProcessId parent;  // who asks
  std::uint32_t has;
  std::uint32_t daemon;  // 1: it ends with its parent
  pid_t group;
  sigset_t mask;
};
inline constexpr std::size_t kMaxRequestDescriptors = 3;

/// What it gets: from the child its pid with a pidfd, or from the server an errno.
struct StartReply {
  pid_t pid;
  std::int32_t error;
};

/// A process that the server has made. The pidfd is the caller's.
struct ServedChild {
  shm::ProcessId id = 0;
  pid_t pid = 0;
  int pidfd = -1;
};

/// Starts the program with this message as a child of the server, which is started when there is
/// none. Blocks until the child exists. Throws std::system_error when the system refuses;
/// std::runtime_error when no server comes up, as when main() does not call freeze_support().
ServedChild start_by_server(SpawnMessage& message, bool daemon);

/// How a process that the server made has ended: its raw wait status, or kUnknownStatus.
int served_status(const ServedChild& child) noexcept;

/// Loads what set_forkserver_preload() names; what cannot be loaded is ignored.
void load_libraries(const std::vector<std::string>& libraries) noexcept;

/// What the executed process does: binds, forks the server, and returns for its own end.
void become_fork_server(wire::Reader& in);

/// Serves on `listener` until nobody is left to serve, then ends the process.
[[noreturn]] void serve(int listener, ServerFolder& folder, shm::ProcessId starter) noexcept;

}  // namespace millrace::runtime
