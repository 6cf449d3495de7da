#include "runtime/process/child.hpp"

#include <cxxabi.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio_ext.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ext/stdio_sync_filebuf.h>
#include <iostream>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/logging.hpp>
#include <mutex>
#include <optional>
#include <system_error>
#include <typeinfo>
#include <utility>

#include "runtime/base/affinity_mask.hpp"
#include "runtime/base/exceptions.hpp"
#include "runtime/base/fd_bag.hpp"
#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/base/throw_trace.hpp"
#include "runtime/channels/connection_end.hpp"
#include "runtime/process/exit.hpp"
#include "runtime/process/process_record.hpp"
#include "shm/above_streams.hpp"
#include "shm/fork_hooks.hpp"
#include "shm/immortal.hpp"

namespace millrace::runtime {
namespace {

constexpr int kHasBackup = 0x0100;  // glibc's _IO_IN_BACKUP: characters that were put back

struct Naming {
  ForkMutex mutex{ForkMutex::Level::names};  // guards `name`
  std::unique_ptr<std::string> name = std::make_unique<std::string>("MainProcess");
};

// Never destroyed: exit handlers and other threads may ask for the name until the very end.
Naming& naming() {
  static shm::Immortal<Naming> instance;
  return *instance;
}
[[maybe_unused]] const Naming& g_made_before_threads = naming();

// The mask of the thread that forked this process; written in the child, while it has one thread.
AffinityMask& inherited_mask() {
  static shm::Immortal<AffinityMask> instance;
  return *instance;
}
[[maybe_unused]] AffinityMask& g_made_before_forks = inherited_mask();

// All signals are held back from just before the fork until child and parent are themselves again,
// so that no handler runs in a half-made child.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    in_child_ = before_;
    let_endings_through(in_child_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  // The mask to return to keeps none of the signals by which a process is ended or fails.
  void let_through_endings() noexcept { before_ = in_child_; }

 private:
  sigset_t before_{};
  sigset_t in_child_{};  // made by the parent, as all that can be: see fork_process()
};

// A stream of C's that nobody has read or written, or that was flushed and purged since.
bool is_empty(const std::FILE* stream) noexcept {
  return stream->_mode <= 0 && stream->_IO_read_ptr == stream->_IO_read_end &&
         stream->_IO_write_ptr == stream->_IO_write_base && (stream->_flags & kHasBackup) == 0;
}

// A stream of C++'s that hands on at once to one of C's, as all do unless the program changes that.
template <class C>
bool passes_on(std::basic_streambuf<C>* buffer, const std::FILE* to) noexcept {
  using Passing = __gnu_cxx::stdio_sync_filebuf<C>;
  return buffer != nullptr && typeid(*buffer) == typeid(Passing) &&
         static_cast<Passing*>(buffer)->file() == to;
}

// What the copied streams hold belongs to the parent, which prints it itself.
void drop_stream_contents() noexcept {
  for (std::FILE* stream : {stdin, stdout, stderr}) {
    if (!is_empty(stream)) ::__fpurge(stream);
  }
}

void read_stdin_from_null() noexcept {
  char device[] = "/dev/null";  // on the stack, where no fault is taken to read it
  const int null = ::open(device, O_RDONLY | O_CLOEXEC);
  if (null < 0) {
    ::close(STDIN_FILENO);
  } else if (null != STDIN_FILENO) {
    ::dup2(null, STDIN_FILENO);
    ::close(null);
  }
  if (::feof_unlocked(stdin) != 0 || ::ferror_unlocked(stdin) != 0) std::clearerr(stdin);
  if (!std::cin.good()) std::cin.clear();
  if (passes_on(std::cin.rdbuf(), stdin)) return;
  // What std::cin has read ahead (only after sync_with_stdio(false)) is the parent's input.
  if (const std::streamsize ahead = std::cin.rdbuf()->in_avail(); ahead > 0) std::cin.ignore(ahead);
}

// Whether stdin is /dev/null already, and neither C nor C++ has anything of it to forget.
bool stdin_is_null() noexcept {
  if (!is_empty(stdin) || ::feof_unlocked(stdin) != 0 || ::ferror_unlocked(stdin) != 0 ||
      !std::cin.good() || !passes_on(std::cin.rdbuf(), stdin)) {
    return false;
  }
  struct stat input {};
  const int mode = ::fcntl(STDIN_FILENO, F_GETFL);
  return mode >= 0 && (mode & O_ACCMODE) != O_WRONLY && ::fstat(STDIN_FILENO, &input) == 0 &&
         S_ISCHR(input.st_mode) && input.st_rdev == makedev(1, 3);
}

[[gnu::hot]] void become_child(shm::ProcessId id, AffinityMask&& parent_mask,
                               bool reads_null) noexcept {
  drop_stream_contents();
  if (!reads_null) read_stdin_from_null();
  inherited_mask() = std::move(parent_mask);
  // relaxed: this thread's fork has set it, or not
  if (shm::this_process_id.load(std::memory_order_relaxed) == 0) {
    shm::ProcessTable::instance().adopt_later(id);
  } else {
    shm::ProcessTable::instance().adopt(id);
  }
}

// True when flush_std_streams() would do nothing: it looks without touching anything.
[[gnu::hot]] bool std_streams_are_flushed() noexcept {
  return is_empty(stdout) && is_empty(stderr) && passes_on(std::cout.rdbuf(), stdout) &&
         passes_on(std::wcout.rdbuf(), stdout) && passes_on(std::cerr.rdbuf(), stderr) &&
         passes_on(std::clog.rdbuf(), stderr) && passes_on(std::wcerr.rdbuf(), stderr);
}

template <class Stream>
void flush_quietly(Stream& stream) noexcept {
  try {
    stream.flush();
  } catch (...) {
    // exceptions() of the stream are the user's; a stream that cannot be flushed is broken.
  }
}

int report_uncaught() noexcept {
  try {
    const std::exception_ptr error = std::current_exception();
    std::string text = "Process " + process_name() + ":\n" + throw_trace_text(error);
    if (const std::string remote = remote_traceback(error); !remote.empty()) {
      text += "after, in another process:\n" + remote;
    }
    print_error(text + describe_exception(error));
  } catch (...) {
    print_error("uncaught exception, and no memory to describe it\n");
  }
  return 1;
}

pid_t g_watched_parent = 0;  // written before the handler that reads it is installed

void on_parent_thread_end(int) {
  const int saved = errno;
  if (::getppid() != g_watched_parent) ::_exit(1);
  errno = saved;
}

// Written by fork_process() in the child.
pid_t g_forked_by = 0;
bool g_mask_kept = false;  // this thread's mask was not changed around the fork

// The distant parent's pidfd, written before the handler that reads it is installed.
int g_distant_parent = -1;
std::optional<timer_t> g_look;

void on_notice_of_distant_parent(int) {
  const int saved = errno;
  pollfd ended{g_distant_parent, POLLIN, 0};
  if (::poll(&ended, 1, 0) == 1) ::_exit(1);
  if (g_look && ::getppid() != g_forked_by) {
    const timespec often{0, 100'000'000};
    const itimerspec looks{often, often};
    ::timer_settime(*g_look, 0, &looks, nullptr);
  }
  errno = saved;
}

// SIGURG because it is ignored wherever nobody handles it, so a lost handler cannot end a child by
// mistake.
void handle_notices(void (*handler)(int)) noexcept {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGURG, &action, nullptr);
  sigset_t notice;
  ::sigemptyset(&notice);
  ::sigaddset(&notice, SIGURG);
  ::pthread_sigmask(SIG_UNBLOCK, &notice, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGURG);
}

}  // namespace

void let_endings_through(sigset_t& mask) noexcept {
  for (const int signal : {SIGTERM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP}) {
    ::sigdelset(&mask, signal);
  }
}

int raw_status(const siginfo_t& info) noexcept {
  if (info.si_code == CLD_EXITED) return (info.si_status & 0xff) << 8;
  return info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
}

void wait_for_status(int pidfd) noexcept {
  siginfo_t info{};
  while (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOWAIT) != 0 &&
         errno == EINTR) {
  }
}

[[gnu::hot]] pid_t fork_process(shm::ProcessId child_id) {
  flush_std_streams();
  open_needed_fd_bag();  // the child inherits it
  AffinityMask before = AffinityMask::of_this_thread();
  const pid_t maker = own_pid();
  const bool reads_null = stdin_is_null();
  pid_t pid = -1;
  int error = 0;
  // What the child does costs more than its instructions: the first use of a page of code, and the
  // first change of a page of data, is a fault of some microseconds. So the parent prepares what it
  // can, and the child leaves alone what needs no change.
  {
    SignalsBlocked blocked;
    const bool widened = AffinityMask::initial().apply_if_wider(before);
    pid = ::fork();
    if (pid == 0) {
      blocked.let_through_endings();
      g_forked_by = maker;
      g_mask_kept = !widened;
      become_child(child_id, std::move(before), reads_null);
      return 0;
    }
    error = errno;
    if (widened) before.apply();
  }
  if (pid > 0) {
    shm::ProcessTable::instance().entrust(child_id, pid);
    shm::name_child(pid);
  }
  if (pid < 0) {
    shm::ProcessTable::instance().cancel(child_id);
    throw std::system_error(error, std::generic_category(), "fork of a child process");
  }
  return pid;
}

[[gnu::hot]] void restore_affinity() noexcept {
  // One that is as wide as the program's has not been changed around the fork. Comparing the two
  // is a fault.
  if (g_mask_kept || inherited_mask() == AffinityMask::initial()) return;
  inherited_mask().apply();
}

void set_parent_affinity(AffinityMask mask) noexcept {
  inherited_mask() = std::move(mask);
  g_mask_kept = false;
}

[[gnu::hot]] int run_guarded(void (*body)(void*), void* argument) {
  const ThrowTraceScope traced;
  try {
    body(argument);
    return 0;
  } catch (const SystemExit& exit) {
    if (exit.has_text()) print_error(exit.text() + "\n");
    return exit.code();
  } catch (const abi::__forced_unwind&) {
    throw;  // pthread_exit: the thread ends, and with the last of them the process
  } catch (...) {
    return report_uncaught();
  }
}

[[gnu::hot]] void exit_process(int code) noexcept {
  run_exit_sequence();
  if (get_logger().enabled(logging::Level::info)) {
    get_logger().info("process exiting with exitcode " + std::to_string(code & 0xff));
  }
  close_connections();
  if (!std_streams_are_flushed()) {
    // A reader that has gone away must not change the exit code.
    sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    flush_std_streams();
  }
  ::_exit(code & 0xff);
}

void flush_std_streams() noexcept {
  if (std_streams_are_flushed()) return;
  for (std::ostream* stream : {&std::cout, &std::cerr, &std::clog}) flush_quietly(*stream);
  for (std::wostream* stream : {&std::wcout, &std::wcerr}) flush_quietly(*stream);
  std::fflush(stdout);
  std::fflush(stderr);
}

std::string process_name() {
  Naming& current = naming();
  const std::lock_guard guard(current.mutex);
  return *current.name;
}

void set_process_name(std::string name) {
  Naming& current = naming();
  const std::lock_guard guard(current.mutex);
  *current.name = std::move(name);
}

[[gnu::hot]] void exchange_process_name(std::unique_ptr<std::string>& name) noexcept {
  Naming& current = naming();
  const std::lock_guard guard(current.mutex);
  current.name.swap(name);
}

ParentIdentity as_parent() { return {own_pid(), shm::self(), process_name()}; }

void become_process(std::string name, bool daemon, const ParentIdentity& parent) {
  const RecordPtr self = new_child_record();
  self->class_name = "Process";
  self->name = std::move(name);
  self->daemon = daemon;
  self->may_have_children = true;
  become(self, parent);
}

void end_with_parent(pid_t parent_pid) noexcept {
  // The kernel's notice comes when the thread that forked ends, and again when each later one that
  // inherits the child does: only the handler can tell whether the process is gone.
  g_watched_parent = parent_pid;
  handle_notices(&on_parent_thread_end);
  if (::getppid() != parent_pid) ::_exit(1);  // it ended before the kernel was asked
}

void end_with_distant_parent(pid_t parent_pid, shm::ProcessId parent) noexcept {
  g_distant_parent =
      shm::above_streams(static_cast<int>(::syscall(SYS_pidfd_open, parent_pid, 0U)));
  // Asked afterwards: the descriptor is that process's.
  if (!shm::ProcessTable::instance().check_alive(parent)) ::_exit(1);
  sigevent notice{};
  notice.sigev_notify = SIGEV_SIGNAL;
  notice.sigev_signo = SIGURG;
  timer_t made{};
  if (::timer_create(CLOCK_MONOTONIC, &notice, &made) == 0) g_look = made;
  handle_notices(&on_notice_of_distant_parent);
  on_notice_of_distant_parent(0);  // what happened before it was installed
}

void print_error(const std::string& text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace millrace::runtime
