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
// The victim is a child forked for each k. It runs with the processor's trap flag set, so that a
// signal handler of its own counts its instructions and stops it after the k-th; then it is ended
// by SIGKILL: every place where SIGKILL or the out-of-memory killer can land, without the two
// process switches that a tracer needs for each step. A check that hangs ends the test by SIGALRM.
// For x86-64. Not under ThreadSanitizer, which defers signals to places of its own.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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
  long first = 0;              // from this one on
  long longest = 200000;       // give up when the operation takes more instructions
  unsigned hang_seconds = 60;  // a frozen() or check() that takes longer hangs
};

struct StepKillResult {
  long instructions = 0;  // of the whole operation; 0: it did not end
  long kills = 0;
  long broken = 0;  // frozen() or check() said false
};

/// The victim's pid, for frozen() and check().
inline pid_t step_kill_victim = 0;

namespace step_kill_parts {

// In memory that parent and victim share: how far the victim came.
struct Progress {
  volatile long steps;
  volatile bool counting;
  volatile bool finished;
};
inline Progress* progress = nullptr;
inline long last_step = 0;

inline void on_step(int) {
  if (!progress->counting) return;
  progress->steps = progress->steps + 1;
  if (progress->steps >= last_step) ::raise(SIGSTOP);
}

inline void start_stepping() {
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"  // below the red zone
      "pushfq\n\t"
      "orq $0x100, (%%rsp)\n\t"
      "popfq\n\t"
      "leaq 128(%%rsp), %%rsp" ::
          : "memory", "cc");
}

inline void stop_stepping() {
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"
      "pushfq\n\t"
      "andq $~0x100, (%%rsp)\n\t"
      "popfq\n\t"
      "leaq 128(%%rsp), %%rsp" ::
          : "memory", "cc");
}

[[noreturn]] inline void be_victim(const StepKillCase& c, long k) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  c.prepare();
  struct sigaction action {};
  action.sa_handler = on_step;
  ::sigaction(SIGTRAP, &action, nullptr);
  last_step = k;
  if (k == 0) ::raise(SIGSTOP);
  progress->counting = true;
  start_stepping();
  c.operation();
  progress->counting = false;
  stop_stepping();
  progress->finished = true;
  ::raise(SIGSTOP);
  ::_exit(0);
}

inline void end(pid_t victim) {
  if (victim <= 1) std::abort();
  ::kill(victim, SIGKILL);
  int status = 0;
  while (::waitpid(victim, &status, 0) < 0 && errno == EINTR) {
  }
}

// Forks a victim and waits until it stands still.
inline pid_t run_victim(const StepKillCase& c, long k) {
  progress->steps = 0;
  progress->counting = false;
  progress->finished = false;
  const pid_t victim = ::fork();
  if (victim < 0) std::abort();
  if (victim == 0) be_victim(c, k);
  int status = 0;
  while (::waitpid(victim, &status, WUNTRACED) < 0 && errno == EINTR) {
  }
  if (WIFSTOPPED(status)) return victim;
  std::fprintf(stderr, "step_kill: the victim ended by itself (status %#x)\n",
               static_cast<unsigned>(status));
  std::abort();
}

}  // namespace step_kill_parts

inline StepKillResult step_kill(const StepKillCase& c) {
  namespace parts = step_kill_parts;
  parts::progress = static_cast<parts::Progress*>(::mmap(
      nullptr, sizeof(parts::Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (parts::progress == MAP_FAILED) std::abort();
  StepKillResult r;
  for (long k = c.first; k < c.longest && r.instructions == 0; k += c.stride) {
    c.setup();
    const pid_t victim = parts::run_victim(c, k);
    step_kill_victim = victim;
    ::alarm(c.hang_seconds);
    const bool going_on = c.frozen(k);
    parts::end(victim);
    const bool finished = parts::progress->finished;
    const bool recovered = c.check(k, finished);
    ::alarm(0);
    ++r.kills;
    if (!going_on) std::fprintf(stderr, "step_kill: others blocked at instruction %ld\n", k);
    if (!recovered) std::fprintf(stderr, "step_kill: broken by a kill at instruction %ld\n", k);
    r.broken += !going_on + !recovered;
    if (finished) r.instructions = parts::progress->steps;
  }
  ::munmap(parts::progress, sizeof(parts::Progress));
  return r;
}

}  // namespace millrace::stress
