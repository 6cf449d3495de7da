// Ends (or freezes) a process at every machine instruction of one operation, and looks at the
// shared state after each.
//
//   const auto r = stress::step_kill({
//       .setup = [&] { ... },                        // makes fresh shared state
//       .prepare = [&] { ... },                      // in the victim, before the first instruction
//       .operation = [&] { ... },                    // in the victim, the one under test
//       .frozen = [&](long k) { return ...; },       // the victim stands still after k
//       instructions:
//                                                    // what others must be able to do all the same
//       .check = [&](long k, bool finished) { ... }  // it is dead and waited for: recover, verify
//   });
//   EXPECT_EQ(r.broken, 0);
//
// The victim is a child forked for each k, stepped by ptrace and then ended by SIGKILL: every place
// where SIGKILL or the out-of-memory killer can land. A check that hangs ends the test by SIGALRM.
// Not under ThreadSanitizer, whose runtime does not survive it.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>

namespace millrace::stress {

struct StepKillCase {
  std::function<void()> setup = [] {};
  std::function<void()> prepare = [] {};
  std::function<void()> operation;
  std::function<bool(long)> frozen = [](long) { return true; };
  std::function<bool(long, bool)> check = [](long, bool) { return true; };
  long stride = 1;             // look at every stride-th instruction
  long longest = 200000;       // give up when the operation takes more instructions
  unsigned hang_seconds = 20;  // a frozen() or check() that takes longer hangs
};

struct StepKillResult {
  long instructions = 0;  // of the whole operation, the two marks included
  long kills = 0;
  long broken = 0;  // frozen() or check() said false; -1: the victim could not be traced
};

/// The victim's pid, for prepare() and the checks.
inline pid_t step_kill_victim = 0;

namespace step_kill_parts {

inline void mark() {
#if defined(__x86_64__)
  asm volatile("int3" ::: "memory");
#else
  ::raise(SIGTRAP);
#endif
}

[[noreturn]] inline void be_victim(const StepKillCase& c) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  c.prepare();
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(3);
  mark();
  c.operation();
  mark();
  ::_exit(0);
}

// One instruction. True when the victim has come to the second mark, or has ended.
inline bool step(pid_t victim) {
  int status = 0;
  if (::ptrace(PTRACE_SINGLESTEP, victim, nullptr, nullptr) != 0) return true;
  if (::waitpid(victim, &status, 0) != victim || !WIFSTOPPED(status)) return true;
  siginfo_t info{};
  if (::ptrace(PTRACE_GETSIGINFO, victim, nullptr, &info) != 0) return true;
  return info.si_signo == SIGTRAP && info.si_code != TRAP_TRACE && info.si_code != TRAP_BRKPT;
}

inline void end(pid_t victim) {
  if (victim <= 1) std::abort();
  ::kill(victim, SIGKILL);
  int status = 0;
  while (::waitpid(victim, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace step_kill_parts

inline StepKillResult step_kill(const StepKillCase& c) {
  namespace parts = step_kill_parts;
  StepKillResult r;
  for (long k = 0; k < c.longest; k += c.stride) {
    c.setup();
    const pid_t victim = ::fork();
    if (victim < 0) std::abort();
    if (victim == 0) parts::be_victim(c);
    step_kill_victim = victim;
    int status = 0;
    if (::waitpid(victim, &status, 0) != victim || !WIFSTOPPED(status)) {
      r.broken = -1;
      return r;
    }
    ::ptrace(PTRACE_SETOPTIONS, victim, nullptr, PTRACE_O_EXITKILL);
    bool finished = false;
    long steps = 0;
    while (steps < k && !finished) {
      finished = parts::step(victim);
      ++steps;
    }
    ::alarm(c.hang_seconds);
    const bool going_on = c.frozen(k);
    parts::end(victim);
    ++r.kills;
    const bool recovered = c.check(k, finished);
    ::alarm(0);
    if (!going_on) std::fprintf(stderr, "step_kill: others blocked at instruction %ld\n", k);
    if (!recovered) std::fprintf(stderr, "step_kill: broken by a kill at instruction %ld\n", k);
    r.broken += !going_on + !recovered;
    if (finished) {
      r.instructions = steps;
      break;
    }
  }
  return r;
}

}  // namespace millrace::stress
