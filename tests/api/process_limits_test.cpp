// start() where the system refuses processes or descriptors, under each start method; and who may
// open what the library makes visible (P03, C02, L01, H01).
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <millrace/millrace.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "tests/api/forkserver_support.hpp"
#include "tests/api/ported_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

class ProcessLimits : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, ProcessLimits, all_methods(), method_name);

rlimit soft_limit(__rlimit_resource resource, rlim_t value) {
  rlimit before{};
  if (::getrlimit(resource, &before) != 0) std::abort();
  const rlimit now{value, before.rlim_max};
  if (::setrlimit(resource, &now) != 0) std::abort();
  return before;
}

// The number of the error that start() throws, 0 for none; `said` is what it says.
int refused(Process& p, std::string* said = nullptr) {
  try {
    p.start();
    return 0;
  } catch (const std::system_error& error) {
    if (said != nullptr) *said = error.what();
    return error.code().value();
  }
}

// What is said of a program that goes on after a refusal: nothing left, and the same Process
// starts.
void say_what_is_left(Process& p, const std::set<std::string>& before) {
  const bool same = names_in("/proc/self/fd") == before;
  const std::size_t children = active_children().size();
  end_server();  // it has the limits that were in force when it was started
  p.start();
  p.join();
  std::printf("%s %zu %d;", same ? "same" : "more", children, p.exitcode().value_or(-1));
}

TEST_P(ProcessLimits, RefusedProcessesAreErrorsThatLeaveNothing) {
  const auto outcome = run_program([] {
    ::alarm(100);
    end_server();  // one that runs is not bound by the limit
    auto p = spawn().Process([] { throw mp::SystemExit(7); });
    const auto before = names_in("/proc/self/fd");
    const rlimit usual = soft_limit(RLIMIT_NPROC, 0);
    const bool root = ::geteuid() == 0;  // who is exempt, but not as another user
    if (root && ::setresuid(65534, 65534, 0) != 0) std::abort();
    std::printf("%d ", refused(p));
    if (root && ::setresuid(0, 0, 0) != 0) std::abort();
    ::setrlimit(RLIMIT_NPROC, &usual);
    say_what_is_left(p, before);
  });
  EXPECT_EQ(outcome.out, std::to_string(EAGAIN) + " same 0 7;") << outcome.err;
  EXPECT_EQ(outcome.exitcode, 0);
}

// With any number of descriptors that is too small.
TEST_P(ProcessLimits, RefusedDescriptorsAreErrorsThatLeaveNothing) {
  const auto outcome = run_program([] {
    ::alarm(100);
    for (rlim_t more = 0;; ++more) {
      end_server();
      auto p = spawn().Process([] { throw mp::SystemExit(7); });
      const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      ::close(next);
      const auto before = names_in("/proc/self/fd");
      const rlimit usual = soft_limit(RLIMIT_NOFILE, static_cast<rlim_t>(next) + more);
      const int error = refused(p);
      ::setrlimit(RLIMIT_NOFILE, &usual);
      if (error == 0) {
        p.join();
        std::printf("enough");
        break;
      }
      if (error != EMFILE) std::printf("error %d ", error);
      say_what_is_left(p, before);
    }
  });
  std::string rest = outcome.out;
  int rounds = 0;
  for (const std::string said = "same 0 7;"; rest.starts_with(said); ++rounds) {
    rest.erase(0, said.size());
  }
  EXPECT_EQ(rest, "enough") << outcome.err;
  EXPECT_GT(rounds, 0);
  EXPECT_EQ(outcome.exitcode, 0);
}

// A sentinel with the number of a standard stream that is closed would be read, or printed into.
TEST_P(ProcessLimits, ASentinelIsNoClosedStandardStream) {
  const auto outcome = run_program([] {
    ::alarm(100);
    ::close(STDIN_FILENO);
    auto p = spawn().Process([] { throw mp::SystemExit(7); });
    p.start();
    std::printf("%d %d ", p.sentinel() > STDERR_FILENO, ::fcntl(STDIN_FILENO, F_GETFD));
    p.join();
    std::printf("%d", p.exitcode().value_or(-1));
  });
  EXPECT_EQ(outcome.out, "1 -1 7") << outcome.err;
}

// Nor is that by which a daemon watches its parent.
TEST_P(ProcessLimits, ADaemonHasNoClosedStandardStream) {
  const auto outcome = run_program([] {
    ::alarm(100);
    ::close(STDOUT_FILENO);
    auto p = spawn().Process({.daemon = true}, [] {
      throw mp::SystemExit(::fcntl(STDOUT_FILENO, F_GETFD) == -1 ? 7 : 8);
    });
    p.start();
    p.join();
    std::fprintf(stderr, "%d", p.exitcode().value_or(-1));
  });
  EXPECT_EQ(outcome.err, "7");
}

class SpawnLimits : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, SpawnLimits, methods(), method_name);

// The numbers at which an executed child finds what it is given are beyond this limit, of which
// dup2() says EBADF.
TEST_P(SpawnLimits, ALimitBelowWhatAChildBeginsWithIsNamed) {
  const auto outcome = run_program([] {
    ::alarm(100);
    end_server();
    auto p = spawn().Process([] { throw mp::SystemExit(7); });
    const rlimit usual = soft_limit(RLIMIT_NOFILE, 6);
    std::string said;
    const int error = refused(p, &said);
    ::setrlimit(RLIMIT_NOFILE, &usual);
    const bool named = said.find("RLIMIT_NOFILE is 6; raise it") != std::string::npos;
    std::printf("%d %d %s", error, named, said.c_str());
  });
  EXPECT_EQ(outcome.out.substr(0, 5), std::to_string(EMFILE) + " 1 ") << outcome.out << outcome.err;
}

unsigned mode_of(const std::string& path) {
  struct stat file {};
  return ::lstat(path.c_str(), &file) == 0 ? file.st_mode & 07777U : ~0U;
}

// The modes of everything with a name that this process makes.
void print_modes(const std::string& folder) {
  const auto print = [](const std::string& path) { std::printf("%o ", mode_of(path)); };
  const auto above = [](const std::string& path) { return path.substr(0, path.rfind('/')); };
  const mp::SharedMemory memory({.create = true, .size = 8});
  print("/dev/shm/" + memory.name());
  memory.unlink();
  const mp::ShareableList list({1});
  print("/dev/shm/" + list.shm().name());
  list.shm().unlink();
  const mp::connection::Listener own;
  print(own.address().path());
  print(above(own.address().path()));
  const mp::connection::Listener named({.address = folder + "/s"});
  print(folder + "/s");
  auto child = forkserver().Process([] {});
  child.start();
  child.join();
  print(above(server_socket()));
  auto manager = mp::Manager();
  print(manager.address().path());
  print(above(manager.address().path()));
}

class Modes : public LeakCheck {
 protected:
  void SetUp() override {
    // The tracker of segments lives as long as this program: not to be started by another.
    mp::SharedMemory({.create = true, .size = 8}).unlink();
    LeakCheck::SetUp();
  }
};

TEST_F(Modes, NothingIsOpenToOthersWhateverTheUmask) {
  for (const mode_t mask : {0U, 022U, 077U, 0777U}) {
    std::string folder = "/tmp/millrace-test-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    const auto outcome = run_program([&] {
      ::alarm(100);
      end_server();
      ::umask(mask);
      print_modes(folder);
    });
    EXPECT_EQ(outcome.out, "600 600 600 700 600 700 600 700 ") << mask << outcome.err;
    EXPECT_EQ(outcome.exitcode, 0);
    std::filesystem::remove(folder);
  }
}

}  // namespace
}  // namespace millrace::test
