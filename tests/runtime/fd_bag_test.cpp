// When the bag of descriptors on their way is opened, and who gets it then. A program of its own:
// what was opened once stays open.
#include "runtime/base/fd_bag.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <millrace/connection.hpp>
#include <millrace/process.hpp>
#include <millrace/queues.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "shm/process_table.hpp"

namespace mp = millrace;
namespace {

int open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<int>(std::distance(begin(all), end(all)));
}

int open_sockets() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string to = std::filesystem::read_symlink(entry.path(), gone).string();
    if (to.rfind("socket:", 0) == 0) ++count;
  }
  return count;
}

// Those of all threads.
std::vector<pid_t> own_children() {
  std::vector<pid_t> all;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(thread.path() / "children");
    for (pid_t pid = 0; list >> pid;) all.push_back(pid);
  }
  return all;
}

const int g_sockets_of_others = open_sockets();  // before the first test
int g_sockets_before = 0;

void exits_with_new_sockets() { std::_Exit(open_sockets() - g_sockets_before); }
void exits_with_sockets() { std::_Exit(open_sockets() - g_sockets_of_others); }

ino_t inode_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

}  // namespace

// Counts in the program and in a child, which gives what it has seen as exit code.
TEST(FdBag, ProcessesLocksAndValuesOpenNoSocketAndStartNoHelper) {
  g_sockets_before = open_sockets();
  const mp::Lock lock;
  const mp::RLock rlock;
  const mp::Semaphore semaphore(2);
  const mp::BoundedSemaphore bounded(2);
  const mp::Condition condition;
  const mp::Event event;
  const mp::Barrier barrier(1);
  const mp::Value<int> value(1);
  const mp::Array<double> array(3);
  const mp::Queue<int> numbers;
  {
    const std::lock_guard held(lock);
    mp::Process child(exits_with_new_sockets);
    child.start();
    EXPECT_EQ(own_children(), std::vector<pid_t>{child.pid().value()});
    child.join();
    EXPECT_EQ(child.exitcode(), 0);
  }
  EXPECT_TRUE(own_children().empty());
  EXPECT_EQ(open_sockets(), g_sockets_before);
}

TEST(FdBag, PipesAndQueuesLeaveNoDescriptorWhereNobodyForks) {
  (void)mp::shm::self();  // the arena's descriptor stays
  const int before = open_descriptors();
  {
    auto [first, second] = mp::Pipe();
    mp::Queue<std::string> texts;
    first.send(std::string("text"));
    texts.put(second.recv<std::string>());
    EXPECT_EQ(texts.get(), "text");
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(FdBag, TheFirstForkBehindAPipeOpensIt) {
  const auto ends = mp::Pipe();
  mp::Process child(exits_with_sockets);
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 2);
  EXPECT_EQ(open_sockets(), g_sockets_of_others + 2);
}

// Or is told that it cannot, where processes may not look into each other.
TEST(FdBag, AChildForkedBeforeItWasOpenedTakesIt) {
  (void)mp::shm::self();
  std::array<int, 2> numbers{};
  ASSERT_EQ(::pipe(numbers.data()), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::array<std::uint64_t, 2> told{};  // the number, the inode
    if (::read(numbers[0], told.data(), sizeof told) != sizeof told) std::_Exit(1);
    const int parent = static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0U));
    const bool may_look = ::syscall(SYS_pidfd_getfd, parent, STDERR_FILENO, 0U) >= 0;
    try {
      const int fd = mp::runtime::fetch_fd(told[0]);
      std::_Exit(inode_of(fd) == told[1] ? 0 : 2);
    } catch (const std::system_error& lost) {
      std::_Exit(!may_look && lost.code().value() == ENOENT ? 0 : 3);
    }
  }
  const std::array<std::uint64_t, 2> told{mp::runtime::deposit_fd(numbers[0]),
                                          inode_of(numbers[0])};
  ASSERT_EQ(::write(numbers[1], told.data(), sizeof told), static_cast<ssize_t>(sizeof told));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  mp::runtime::discard_fd(told[0]);
  ::close(numbers[0]);
  ::close(numbers[1]);
  EXPECT_EQ(status, 0);
}

TEST(FdBag, ADeadOpenersPlaceIsTaken) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto ends = mp::runtime::open_fd_bag();
    std::_Exit(ends.in >= 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  const std::uint64_t number = mp::runtime::deposit_fd(STDERR_FILENO);
  const int fd = mp::runtime::withdraw_fd(number);
  EXPECT_EQ(inode_of(fd), inode_of(STDERR_FILENO));
  ::close(fd);
}

// Others' descriptors go back also where this process may have fewer open than are on the way.
TEST(FdBag, ALowLimitLosesNobodysDescriptor) {
  (void)mp::shm::self();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // The kernel asks nothing of root. Who is not root is nobody already.
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) std::_Exit(1);
    std::array<std::uint64_t, 60> numbers{};
    for (auto& each : numbers) each = mp::runtime::deposit_fd(STDERR_FILENO);
    rlimit own{};
    if (::getrlimit(RLIMIT_NOFILE, &own) != 0) std::_Exit(2);
    const rlimit low{40, own.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &low) != 0) std::_Exit(3);
    try {
      ::close(mp::runtime::fetch_fd(numbers.back()));
      rlimit after{};
      if (::getrlimit(RLIMIT_NOFILE, &after) != 0 || after.rlim_cur != 40) std::_Exit(4);
      for (const std::uint64_t each : numbers) ::close(mp::runtime::withdraw_fd(each));
    } catch (const std::system_error&) {
      std::_Exit(5);
    }
    std::_Exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
}
