// The side of fork_server.hpp that starts processes, and the server itself when there is none.
#include "runtime/process/fork_server.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/logging.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/descriptor.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/context_state.hpp"
#include "runtime/process/served_child.hpp"
#include "shm/above_streams.hpp"
#include "shm/arena.hpp"
#include "shm/interrupt.hpp"
#include "shm/liveness.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kKind = 3;
constexpr int kAttempts = 20;  // servers that may be lost in a row, each while it was asked

// No descriptor of ours has the number of a standard stream that is closed: those are a child's.
Descriptor above_streams(Descriptor fd) noexcept {
  return Descriptor(shm::above_streams(fd.release()));
}

// The streams that the server replaces are all there.
void open_streams() noexcept {
  Descriptor fd;
  do {
    (void)fd.release();
    fd.reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
  } while (fd.get() >= 0 && fd.get() <= STDERR_FILENO);
}

sockaddr_un address_of(const std::string& path) noexcept {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

Descriptor new_socket() {
  Descriptor fd = above_streams(Descriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));
  if (fd.get() >= 0) return fd;
  throw std::system_error(errno, std::generic_category(), "socket of a fork server");
}

// Where a server's clients come.
Descriptor listen_in(const ServerFolder& folder) {
  Descriptor listener = new_socket();
  const sockaddr_un address = address_of(folder.socket());
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(address.sun_path, S_IRUSR | S_IWUSR) != 0 ||  // whatever the umask
      ::listen(listener.get(), SOMAXCONN) != 0 ||
      ::fcntl(listener.get(), F_SETFL, O_NONBLOCK) != 0) {
    throw std::system_error(errno, std::generic_category(), "bind " + folder.socket());
  }
  return listener;
}

// Another process may have its pid by now: then nobody listens where the note says, and it is
// forgotten. Comparing start times as well was a tenth of a start.
bool runs(std::uint64_t word) noexcept {
  return !shm::process_gone(static_cast<pid_t>(word >> 2U), 0);
}

// Executes the program and waits until its server exists. Returns the server's pid, 0 when the
// process that was to make it was killed.
pid_t launch(ForkServerNote& note) {
  note.made.store(0, std::memory_order_relaxed);
  SpawnMessage message;
  wire::encode(message.writer(), shm::self());
  wire::encode(message.writer(), forkserver_preload());
  shm::ProcessTable& table = shm::ProcessTable::instance();
  const shm::ProcessId id = message.id();
  const pid_t between = message.send(StartKind::fork_server);
  int status = shm::kUnknownStatus;
  while (::waitpid(between, &status, 0) < 0 && errno == EINTR) {
  }
  table.mark_dead(id, status);
  shm::reap(id);
  // relaxed: its end orders this before the look of the process that waits for it
  const pid_t made = note.made.load(std::memory_order_relaxed);
  if (made > 0) return made;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return 0;
  throw std::runtime_error("no fork server comes up (what it says of the reason is on stderr). " +
                           std::string(freeze_support_idiom()));
}

// A running server, as the note had it.
struct Announced {
  std::string path;
  std::uint64_t word;
};

// Makes a server when there is none. None when it was killed meanwhile.
std::optional<Announced> ensure_server() {
  ForkServerNote& note = ForkServerNote::instance();
  const std::uint64_t mine = kServerStarts | std::uint64_t{shm::self()} << 2U;
  for (;;) {
    // NOTE server: acquire, the path was written before
    std::uint64_t seen = note.word.load(std::memory_order_acquire);
    if ((seen & kKind) == kServerRuns && runs(seen)) return Announced{note.get_path(), seen};
    if ((seen & kKind) == kServerStarts &&
        shm::ProcessTable::instance().check_alive(static_cast<shm::ProcessId>(seen >> 2U))) {
      shm::BlockingCall().check();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    // NOTE server: acq_rel, after whatever the previous holder of the word did
    if (!note.word.compare_exchange_strong(seen, mine, std::memory_order_acq_rel,
                                           std::memory_order_relaxed)) {
      continue;
    }
    if ((seen & kKind) == kServerRuns) get_logger().info("the fork server has died: relaunching");
    try {
      const pid_t pid = launch(note);
      if (pid == 0) {
        note.word.store(kNoServer, std::memory_order_release);  // NOTE server: given back
        return std::nullopt;
      }
      // NOTE server: release
      note.word.store(kServerRuns | static_cast<std::uint64_t>(pid) << 2U,
                      std::memory_order_release);
    } catch (...) {
      note.word.store(kNoServer, std::memory_order_release);  // NOTE server: given back
      throw;
    }
  }
}

// Nobody listens where the note says: another process has the server's pid by now, or of two that
// came up at once, for a process that was killed meanwhile and for its successor, the note has the
// one's pid and the other's path.
void forget(const Announced& server) noexcept {
  std::uint64_t seen = server.word;
  // NOTE server: acq_rel, as in ensure_server(); another one stays
  ForkServerNote::instance().word.compare_exchange_strong(
      seen, kNoServer, std::memory_order_acq_rel, std::memory_order_relaxed);
}

// Connects to a server of this user. None when it is not there any more.
bool connect_to(int fd, const std::string& path) {
  const sockaddr_un address = address_of(path);
  int result = 0;
  do {
    result = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    if (errno == ECONNREFUSED || errno == ENOENT || errno == ECONNRESET) return false;
    throw std::system_error(errno, std::generic_category(), "connect to the fork server " + path);
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != ::geteuid()) {
    throw std::system_error(EPERM, std::generic_category(),
                            "the fork server " + path + " is another user's");
  }
  return true;
}

StartRequest request_for(StartBlock* start, bool daemon) noexcept {
  StartRequest request{};
  request.magic = StartRequest::kMagic;
  request.start = start;
  request.id = start->id.load(std::memory_order_relaxed);  // this thread has set it
  request.parent = shm::self();
  request.daemon = daemon ? 1 : 0;
  request.group = ::getpgrp();
  ::pthread_sigmask(SIG_SETMASK, nullptr, &request.mask);
  return request;
}

// What a child is to be in. While it is sent its number is kept for the pidfd that comes back.
Descriptor working_folder() {
  Descriptor folder = above_streams(Descriptor(::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)));
  if (folder.get() >= 0) return folder;
  throw std::system_error(errno, std::generic_category(), "open of the working folder");
}

// Sends a request with the streams of this process and its folder.
bool send_request(int fd, StartRequest request, int folder) noexcept {
  std::array<int, kMaxRequestDescriptors> descriptors{};
  std::size_t count = 0;
  const auto add = [&](int descriptor, StartRequest::Has bit) {
    if (descriptor < 0 || ::fcntl(descriptor, F_GETFD) < 0) return;
    descriptors[count++] = descriptor;
    request.has |= bit;
  };
  add(STDOUT_FILENO, StartRequest::kOutput);
  add(STDERR_FILENO, StartRequest::kErrors);
  add(folder, StartRequest::kFolder);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptors)] = {};
  iovec part{&request, sizeof request};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (count != 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* const at = CMSG_FIRSTHDR(&message);
    at->cmsg_level = SOL_SOCKET;
    at->cmsg_type = SCM_RIGHTS;
    at->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(at), descriptors.data(), count * sizeof(int));
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(fd, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == sizeof request;
}

// Waits for the answer; none when the server ends before it.
std::optional<StartReply> receive_reply(int fd, int& pidfd) noexcept {
  StartReply answer{};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec part{&answer, sizeof answer};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = 0;
  do {
    got = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got != sizeof answer) return std::nullopt;
  if (const cmsghdr* const at = CMSG_FIRSTHDR(&message);
      at != nullptr && at->cmsg_type == SCM_RIGHTS) {
    std::memcpy(&pidfd, CMSG_DATA(at), sizeof pidfd);
    pidfd = shm::above_streams(pidfd);
  }
  return answer;
}

// Waits until there is an answer. KeyboardInterrupt, which a server that is stopped is left by,
// calls the child off; where it exists already the request stays for the next call that waits.
void wait_for_reply(int fd, shm::ProcessId child) {
  if (!shm::interrupts_enabled()) return;
  std::array<pollfd, 1> answered{{{fd, POLLIN, 0}}};
  try {
    (void)shm::BlockingCall().poll(answered, Timeout::Clock::time_point::max());
  } catch (const KeyboardInterrupt&) {
    if (shm::ProcessTable::instance().revoke(child)) throw;
    (void)shm::request_interrupt();
  } catch (const std::exception&) {  // no memory to look with: the answer is waited for as it is
  }
}

// One request. None when the server has died and the child does not exist, or was killed before it
// did anything: try again.
std::optional<ServedChild> ask(SpawnMessage& message, bool daemon) {
  // The message first: a parent that is killed while a server comes up has left it with the child.
  ServedChild child;
  child.id = message.id();
  StartBlock* const start = message.place(StartKind::served_process);
  const std::optional<Announced> server = ensure_server();
  if (!server) return std::nullopt;
  Descriptor connection = new_socket();
  if (!connect_to(connection.get(), server->path)) {
    forget(*server);
    return std::nullopt;
  }
  Descriptor folder = working_folder();
  std::optional<StartReply> answer;
  if (send_request(connection.get(), request_for(start, daemon), folder.get())) {
    wait_for_reply(connection.get(), child.id);  // throws: the server will find nobody to fork for
    folder.reset();
    answer = receive_reply(connection.get(), child.pidfd);
  }
  if (answer && answer->pid <= 0) {
    throw std::system_error(answer->error, std::generic_category(),
                            "the fork server, starting a child process");
  }
  if (!answer) {
    // A child that has adopted its id answers before all else, so this one is dead. The message
    // waits with it for the next.
    if (!shm::ProcessTable::instance().revoke(child.id)) {
      shm::ProcessTable::instance().mark_dead(child.id, shm::kUnknownStatus);
    }
    return std::nullopt;
  }
  message.hand_over();
  child.pid = answer->pid;
  if (child.pidfd >= 0) return child;
  connection.reset();  // whose number can now be the sentinel's
  try {
    child.pidfd = sentinel_of(child);
  } catch (...) {
    end_unwatched(child);
    throw;
  }
  return child;
}

}  // namespace

ForkServerNote& ForkServerNote::instance() {
  shm::Arena& arena = shm::Arena::instance();
  auto& place = arena.root().word[shm::ArenaRoot::kForkServer];
  // INSTALL note: acquire, of the zeroed memory
  if (const std::uint64_t found = place.load(std::memory_order_acquire); found != 0) {
    return *reinterpret_cast<ForkServerNote*>(found);
  }
  void* const made = arena.allocate_zeroed(sizeof(ForkServerNote));
  arena.give(made, shm::kNobody);
  std::uint64_t expected = 0;
  // INSTALL note: release of the zeroed memory; of two who come at once one frees its own
  if (place.compare_exchange_strong(expected, reinterpret_cast<std::uint64_t>(made),
                                    std::memory_order_acq_rel, std::memory_order_acquire)) {
    return *static_cast<ForkServerNote*>(made);
  }
  arena.deallocate(made);
  return *reinterpret_cast<ForkServerNote*>(expected);
}

void ForkServerNote::set_path(const std::string& text) noexcept {
  std::array<char, sizeof path> bytes{};
  text.copy(bytes.data(), bytes.size() - 1);
  for (std::size_t i = 0; i < path.size(); ++i) {
    std::uint64_t part = 0;
    std::memcpy(&part, bytes.data() + i * sizeof part, sizeof part);
    path[i].store(part, std::memory_order_relaxed);  // ordered by NOTE server
  }
}

std::string ForkServerNote::get_path() const {
  std::array<char, sizeof path + 1> bytes{};
  for (std::size_t i = 0; i < path.size(); ++i) {
    const std::uint64_t part = path[i].load(std::memory_order_relaxed);  // ordered by NOTE server
    std::memcpy(bytes.data() + i * sizeof part, &part, sizeof part);
  }
  return bytes.data();
}

ServedChild start_by_server(SpawnMessage& message, bool daemon) {
  flush_std_streams();
  for (int i = 0; i < kAttempts; ++i) {
    if (const std::optional<ServedChild> child = ask(message, daemon)) return *child;
    // Its end is on its way: to the table of processes, or to the note.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    message.readdress();
  }
  throw std::system_error(ECONNREFUSED, std::generic_category(),
                          "start of a process: every fork server dies while it is asked");
}

void become_fork_server(wire::Reader& in) {
  const auto starter = wire::decode<shm::ProcessId>(in);
  const auto libraries = wire::decode<std::vector<std::string>>(in);
  open_streams();
  ServerFolder folder;
  try {
    const Descriptor listener = listen_in(folder);
    ForkServerNote& note = ForkServerNote::instance();
    note.set_path(folder.socket());
    const pid_t server = fork_process(shm::ProcessTable::instance().reserve());
    if (server == 0) {
      load_libraries(libraries);
      serve(listener.get(), folder, starter);
    }
    folder.let_go();
    // relaxed: the end of this process orders it before the look of the one that waits for it
    note.made.store(server, std::memory_order_relaxed);
  } catch (...) {
    folder.remove();
    throw;
  }
}

}  // namespace millrace::runtime
