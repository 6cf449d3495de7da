// The server's own side of fork_server.hpp: everything here runs in its process, in its only
// thread, or in a child that it has just forked.
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/process/child.hpp"
#include "runtime/process/fork_server.hpp"
#include "shm/arena.hpp"
#include "shm/reaper.hpp"
#include "shm/signals.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kMaxPending = 256;  // peers that have connected and not asked yet
constexpr int kRetry = 10;                // milliseconds, when there are no descriptors left

int open_pidfd(pid_t pid) noexcept { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U)); }

// A request as it came, and who sent it.
struct Packet {
  StartRequest request{};
  ucred peer{};
  std::vector<int> descriptors;
};

// The outcomes of a look at a connection.
enum class Arrival { nothing_yet, complete, cut_short, over };

Arrival receive(int connection, Packet& packet) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxRequestDescriptors)];
  iovec part{&packet.request, sizeof packet.request};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(connection, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Arrival::nothing_yet;
  for (cmsghdr* at = got < 0 ? nullptr : CMSG_FIRSTHDR(&message); at != nullptr;
       at = CMSG_NXTHDR(&message, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    packet.descriptors.resize((at->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(packet.descriptors.data(), CMSG_DATA(at), packet.descriptors.size() * sizeof(int));
  }
  socklen_t size = sizeof packet.peer;
  const bool known = ::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &packet.peer, &size) == 0;
  const bool asks =
      known && got == sizeof packet.request && packet.request.magic == StartRequest::kMagic;
  const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;  // descriptors had no number here
  if (asks && !cut) return Arrival::complete;
  for (const int fd : packet.descriptors) ::close(fd);
  return asks ? Arrival::cut_short : Arrival::over;
}

// False when the peer cannot be told, although it is there.
bool reply(int connection, StartReply answer, int pidfd) noexcept {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{&answer, sizeof answer};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (pidfd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const at = CMSG_FIRSTHDR(&message);
    at->cmsg_level = SOL_SOCKET;
    at->cmsg_type = SCM_RIGHTS;
    at->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(at), &pidfd, sizeof pidfd);
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(connection, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  // A parent that has gone away needs no answer.
  return sent == sizeof answer || errno == EPIPE || errno == ECONNRESET;
}

class Server {
 public:
  Server(int listener, ServerFolder& folder) : listener_(listener), folder_(folder) {}

  [[noreturn]] void run(shm::ProcessId starter);

 private:
  struct Client {
    shm::ProcessId id;
    int pidfd;
  };
  struct Child {
    pid_t pid;
    shm::ProcessId id;
    shm::ProcessId parent;
    bool daemon;
  };

  void prepare();
  [[noreturn]] void end() noexcept;
  int wait(std::vector<pollfd>& events);
  void accept_all();
  void look_at(int& connection);
  int watch_client(shm::ProcessId id, pid_t pid);
  int check(const Packet& packet);
  void start(const Packet& packet, int connection);
  [[noreturn]] void run_child(const Packet& packet, int connection) noexcept;
  void adopt_streams(const Packet& packet) const noexcept;
  void lose_client(const Client& client) noexcept;
  void reap();

  int listener_;
  ServerFolder& folder_;
  int signal_fd_ = -1;
  bool short_of_descriptors_ = false;
  struct sigaction interrupt_ {};  // what the program was started with
  struct sigaction child_end_ {};
  std::vector<Client> clients_;
  std::vector<Child> children_;
  std::vector<int> pending_;
};

void Server::prepare() {
  struct sigaction action {};
  action.sa_handler = SIG_IGN;  // of the terminal: it is the parents' to decide
  ::sigaction(SIGINT, &action, &interrupt_);
  action.sa_handler = SIG_DFL;
  ::sigaction(SIGCHLD, &action, &child_end_);
  sigset_t ended;
  ::sigemptyset(&ended);
  ::sigaddset(&ended, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &ended, nullptr);
  signal_fd_ = ::signalfd(-1, &ended, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd_ < 0) throw std::system_error(errno, std::generic_category(), "signalfd");
  // The children get the streams of their parents; the server holds nobody's open.
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) throw std::system_error(errno, std::generic_category(), "open /dev/null");
  ::dup2(null, STDOUT_FILENO);
  ::dup2(null, STDERR_FILENO);
  ::close(null);
  ::prctl(PR_SET_NAME, "millrace-forks");
}

void Server::run(shm::ProcessId starter) {
  prepare();
  (void)watch_client(starter, shm::ProcessTable::instance().pid(starter));
  std::vector<pollfd> events;
  for (;;) {
    if (clients_.empty() && children_.empty()) end();
    if (wait(events) < 0) continue;
    signalfd_siginfo info[8];
    if (events[1].revents != 0) (void)!::read(signal_fd_, info, sizeof info);
    reap();
    // In the order of `events`; what accept_all() adds is looked at in the next round.
    const std::size_t first_pending = 2 + clients_.size();
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      if (events[first_pending + i].revents != 0) look_at(pending_[i]);
    }
    std::erase(pending_, -1);
    std::erase_if(clients_, [this](const Client& client) {
      pollfd gone{client.pidfd, POLLIN, 0};
      if (::poll(&gone, 1, 0) != 1) return false;
      lose_client(client);
      return true;
    });
    if (events[0].revents != 0) accept_all();
  }
}

int Server::wait(std::vector<pollfd>& events) {
  const bool room = pending_.size() < kMaxPending && !std::exchange(short_of_descriptors_, false);
  events.assign({{room ? listener_ : -1, POLLIN, 0}, {signal_fd_, POLLIN, 0}});
  for (const Client& client : clients_) events.push_back({client.pidfd, POLLIN, 0});
  for (const int connection : pending_) events.push_back({connection, POLLIN, 0});
  const bool full = pending_.size() >= kMaxPending;
  return ::poll(events.data(), events.size(), room || full ? -1 : kRetry);
}

// Nobody is left. The note goes first, so that whoever comes now starts another server.
void Server::end() noexcept {
  ForkServerNote& note = ForkServerNote::instance();
  std::uint64_t mine = kServerRuns | static_cast<std::uint64_t>(::getpid()) << 2U;
  // NOTE server: release, see fork_server.cpp
  note.word.compare_exchange_strong(mine, kNoServer, std::memory_order_release,
                                    std::memory_order_relaxed);
  folder_.remove();
  ::_exit(0);
}

void Server::accept_all() {
  while (pending_.size() < kMaxPending) {
    int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      short_of_descriptors_ = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
      return;
    }
    look_at(connection);  // its request comes with it, as a rule
    if (connection >= 0) pending_.push_back(connection);
  }
}

// Takes the request of a connection and answers it. -1 when the connection is over.
void Server::look_at(int& connection) {
  Packet packet;
  const Arrival arrival = receive(connection, packet);
  if (arrival == Arrival::nothing_yet) return;
  const int mine = std::exchange(connection, -1);  // no longer one of those a child closes
  if (arrival == Arrival::complete) {
    start(packet, mine);
    for (const int fd : packet.descriptors) ::close(fd);
  } else if (arrival == Arrival::cut_short) {
    (void)reply(mine, {0, EMFILE}, -1);
  }
  ::close(mine);
}

// 0 when the process is watched, else an errno.
int Server::watch_client(shm::ProcessId id, pid_t pid) {
  if (std::ranges::any_of(clients_, [id](const Client& known) { return known.id == id; })) return 0;
  if (pid <= 0) return ESRCH;
  const int fd = open_pidfd(pid);
  if (fd < 0) return errno;
  // Asked afterwards: the descriptor is that process's.
  if (!shm::ProcessTable::instance().check_alive(id)) {
    ::close(fd);
    return ESRCH;
  }
  clients_.push_back({id, fd});
  return 0;
}

// Whether a request is what it should be, from whom it should be: 0, or an errno.
int Server::check(const Packet& packet) {
  const StartRequest& request = packet.request;
  shm::ProcessTable& table = shm::ProcessTable::instance();
  if (packet.peer.uid != ::geteuid()) return EPERM;
  if (table.pid(request.parent) != packet.peer.pid) return EPERM;
  if (!table.is_present(request.id) || !valid_start(request.start)) return EINVAL;
  // relaxed: set before the request was sent
  if (request.start->id.load(std::memory_order_relaxed) != request.id) return EINVAL;
  const auto sent = static_cast<std::size_t>(std::popcount(request.has));
  if (packet.descriptors.size() != sent || (request.has & StartRequest::kFolder) == 0)
    return EINVAL;
  return watch_client(request.parent, packet.peer.pid);
}

void Server::start(const Packet& packet, int connection) {
  const auto refuse = [connection](int error) { (void)reply(connection, {0, error}, -1); };
  if (const int error = check(packet); error != 0) return refuse(error);
  const StartRequest& request = packet.request;
  // Before the fork, so that a child that cannot be there does not exist. The folder comes last.
  if (::fchdir(packet.descriptors.back()) != 0) return refuse(errno);
  pid_t pid = -1;
  int failed = 0;
  try {
    children_.reserve(children_.size() + 1);
    pid = fork_process(request.id);
  } catch (const std::system_error& error) {
    failed = error.code().value();
  } catch (const std::bad_alloc&) {
    failed = ENOMEM;
  }
  if (pid == 0) run_child(packet, connection);
  (void)!::chdir("/");  // the server keeps nobody's folder in use
  if (pid < 0) return refuse(failed);
  children_.push_back({pid, request.id, request.parent, request.daemon != 0});
}

void Server::adopt_streams(const Packet& packet) const noexcept {
  std::size_t next = 0;
  const std::uint32_t has = packet.request.has;
  for (const auto& [bit, stream] : {std::pair{StartRequest::kOutput, STDOUT_FILENO},
                                    std::pair{StartRequest::kErrors, STDERR_FILENO}}) {
    if ((has & bit) != 0) {
      ::dup2(packet.descriptors[next++], stream);
    } else {
      ::close(stream);
    }
  }
  for (const int fd : packet.descriptors) ::close(fd);
}

// In the child: from here on it is what a spawned process is when it comes to freeze_support().
void Server::run_child(const Packet& packet, int connection) noexcept {
  shm::ProcessTable::instance().adopt(packet.request.id);
  // relaxed: this thread has set it, or has not. Too late: its parent has given up.
  if (shm::this_process_id.load(std::memory_order_relaxed) != packet.request.id) ::_exit(0);
  ::prctl(PR_SET_NAME, program_invocation_short_name);
  for (const Client& client : clients_) ::close(client.pidfd);
  for (const int other : pending_) {
    if (other >= 0) ::close(other);
  }
  ::close(listener_);
  ::close(signal_fd_);
  // Who has the reply may interrupt: from then on SIGINT is what it is for the program, and is
  // kept back only until the child is itself.
  sigset_t held;
  ::sigemptyset(&held);
  ::sigaddset(&held, SIGINT);
  ::sigprocmask(SIG_BLOCK, &held, nullptr);
  ::sigaction(SIGINT, &interrupt_, nullptr);
  // By itself, with a descriptor of itself: however it ends from here on, and whoever is killed
  // meanwhile, its parent learns how. Who cannot say that it is there must not be.
  const int self = open_pidfd(::getpid());
  if (!reply(connection, {::getpid(), 0}, self)) ::_exit(1);
  ::close(connection);
  if (self >= 0) ::close(self);
  folder_.let_go();
  adopt_streams(packet);
  if (::getpgrp() != packet.request.group) (void)::setpgid(0, packet.request.group);
  ::sigaction(SIGCHLD, &child_end_, nullptr);
  sigset_t mask = packet.request.mask;
  let_endings_through(mask);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  run_started(packet.request.start);
}

// A parent has ended: its daemonic children hear of it, and look for themselves.
void Server::lose_client(const Client& client) noexcept {
  for (const Child& child : children_) {
    if (child.daemon && child.parent == client.id) shm::send_signal(child.pid, SIGURG);
  }
  ::close(client.pidfd);
}

void Server::reap() {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  for (;;) {
    siginfo_t info{};
    // Left as it is until the table knows: a status is never lost with the server.
    const int outcome = ::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT);
    if (outcome != 0 && errno == EINTR) continue;
    if (outcome != 0 || info.si_pid == 0) return;
    const auto at = std::ranges::find(children_, info.si_pid, &Child::pid);
    if (at != children_.end()) {
      table.mark_dead(at->id, raw_status(info));
      if (!table.check_alive(at->parent)) shm::reap(at->id);
      children_.erase(at);
    }
    (void)::waitpid(info.si_pid, nullptr, 0);
  }
}

}  // namespace

void load_libraries(const std::vector<std::string>& libraries) noexcept {
  for (const std::string& library : libraries) {
    (void)::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  }
}

void serve(int listener, ServerFolder& folder, shm::ProcessId starter) noexcept {
  try {
    Server(listener, folder).run(starter);
  } catch (...) {  // no memory or descriptors: the next start makes another server
  }
  folder.remove();
  ::_exit(1);
}

}  // namespace millrace::runtime
