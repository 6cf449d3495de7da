// The handler of SIGINT that install_sigint() installs; shm/interrupt.hpp has what it sets in
// motion.
#include <signal.h>

#include <cerrno>
#include <millrace/interrupt.hpp>
#include <system_error>

#include "shm/interrupt.hpp"

namespace millrace {
namespace {

// Async-signal-safe throughout.
void on_sigint(int) {
  if (shm::request_interrupt()) return;
  // Nobody listens. The signal is blocked while its handler runs: this one ends the process then.
  ::signal(SIGINT, SIG_DFL);
  ::raise(SIGINT);
}

}  // namespace

void install_sigint() {
  shm::enable_interrupts();
  struct sigaction action {};
  action.sa_handler = &on_sigint;
  action.sa_flags = SA_RESTART;  // the user's own system calls go on; ours need no EINTR
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(SIGINT, &action, nullptr) != 0) {
    throw std::system_error(errno, std::generic_category(), "sigaction for SIGINT");
  }
}

}  // namespace millrace
