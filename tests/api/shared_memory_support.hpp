// What the tests of named memory share: names of their own, CPython, the tracker's pid.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <system_error>

#include "runtime/segments/segment_registry.hpp"
#include "tests/api/process_support.hpp"

namespace millrace::test {

inline bool exists(const std::string& name) {
  struct stat file {};
  return ::stat(("/dev/shm/" + name).c_str(), &file) == 0;
}

/// A name that no other run of the tests uses.
inline std::string own_name(const std::string& what) { return own_prefix() + what; }

/// The errno of the system_error that `call` throws, which must name `name`; 0 when it throws none.
template <class Call>
int error_of(Call call, const std::string& name) {
  try {
    call();
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    return error.code().value();
  }
  return 0;
}

/// Runs CPython.
inline Outcome python(const std::string& program) {
  return run_program([&] {
    ::execlp("python3", "python3", "-c", program.c_str(), nullptr);
    ::_exit(127);
  });
}

/// Runs shared_memory_program.cpp, a program of its own with an arena of its own.
inline Outcome program(const std::string& what, const std::string& name,
                       const std::string& more = "") {
  return run_program([&] {
    ::execl(MILLRACE_SHARED_MEMORY_PROGRAM, "program", what.c_str(), name.c_str(), more.c_str(),
            nullptr);
    ::_exit(127);
  });
}

/// The pid of this program's tracker; 0 when there is none, or when it is dead.
inline pid_t tracker_pid() {
  // acquire: START tracker, resource_tracker.cpp
  const auto word = runtime::SegmentRegistry::instance().tracker.load(std::memory_order_acquire);
  const auto pid = static_cast<pid_t>(word >> 2U);
  return (word & 3U) == 2 && ::access(("/proc/" + std::to_string(pid) + "/cwd").c_str(), F_OK) == 0
             ? pid
             : 0;
}

class NamedMemory : public ProcessTest {};

}  // namespace millrace::test
