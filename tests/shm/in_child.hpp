// Runs a piece of a test in a forked child, and what a test needs to know about the sanitizers.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#if defined(__has_feature)
#define MILLRACE_HAS_FEATURE(x) __has_feature(x)
#else
#define MILLRACE_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || MILLRACE_HAS_FEATURE(address_sanitizer)
#define MILLRACE_TEST_ASAN 1
#else
#define MILLRACE_TEST_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || MILLRACE_HAS_FEATURE(thread_sanitizer)
#define MILLRACE_TEST_TSAN 1
#else
#define MILLRACE_TEST_TSAN 0
#endif

namespace millrace::test {

inline int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

template <class Body>
pid_t start_child(Body&& body) {
  const pid_t child = ::fork();
  if (child < 0) std::abort();
  if (child != 0) return child;
  int code = 99;
  try {
    code = body();
  } catch (...) {
    code = 98;
  }
  ::_exit(code);
}

/// The exit code that `body` returned in a forked child: 98 for an exception, minus a signal.
template <class Body>
int in_child(Body&& body) {
  const int status = wait_for(start_child(body));
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace millrace::test
