// A fixture that leaves nothing behind: after each test no child, no descriptor and nothing in
// /dev/shm that was not there before. And programs run in a child, with what they print.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <millrace/connection.hpp>
#include <millrace/process.hpp>
#include <set>
#include <string>
#include <utility>

#include "tests/shared_folder.hpp"

namespace millrace::test {

class LeakCheck : public ::testing::Test {
 protected:
  void SetUp() override {
    (void)have_own_shared_folder();
    // The arena and whatever else is made once per program: behind a Pipe, what descriptors travel
    // in.
    (void)Pipe();
    Process warm([] {});
    warm.start();
    ASSERT_TRUE(warm.join());
    warm.close();
    descriptors_ = names_in("/proc/self/fd");
    shared_ = own_segments();
  }

  void TearDown() override {
    EXPECT_TRUE(active_children().empty());
    siginfo_t info{};
    EXPECT_EQ(::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT), -1);
    EXPECT_EQ(errno, ECHILD) << "a child is left";
    EXPECT_EQ(names_in("/proc/self/fd"), descriptors_);
    EXPECT_EQ(own_segments(), shared_);
  }

 private:
  std::set<std::string> descriptors_;
  std::set<std::string> shared_;
};

/// How a program went.
struct Outcome {
  int exitcode;  ///< or minus the signal
  std::string out;
  std::string err;
};

/// Runs `body` as the main process of a program of its own, ended by std::exit(0), and returns what
/// it and its children printed. It is over when the last of them has closed its streams.
template <class Body>
Outcome run_program(Body body) {
  std::array<std::array<int, 2>, 2> pipes{};
  for (auto& ends : pipes) {
    if (::pipe(ends.data()) != 0) std::abort();
  }
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(pipes[0][1], STDOUT_FILENO);
    ::dup2(pipes[1][1], STDERR_FILENO);
    for (const auto& ends : pipes) {
      for (const int fd : ends) ::close(fd);
    }
    body();
    std::exit(0);
  }
  Outcome outcome{};
  for (const auto& ends : pipes) ::close(ends[1]);
  std::array<pollfd, 2> open{pollfd{pipes[0][0], POLLIN, 0}, pollfd{pipes[1][0], POLLIN, 0}};
  while (open[0].fd >= 0 || open[1].fd >= 0) {
    if (::poll(open.data(), open.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (open[i].fd < 0 || open[i].revents == 0) continue;
      std::array<char, 4096> block{};
      const ssize_t got = ::read(open[i].fd, block.data(), block.size());
      if (got > 0) {
        (i == 0 ? outcome.out : outcome.err).append(block.data(), static_cast<std::size_t>(got));
      } else {
        ::close(std::exchange(open[i].fd, -1));
      }
    }
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  outcome.exitcode = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return outcome;
}

}  // namespace millrace::test
