// Threads and processes that a signal is not meant for.
#pragma once

#include <signal.h>

#include <initializer_list>

namespace millrace::runtime {

/// While it lives this thread blocks all signals, but those excepted: what it makes meanwhile
/// begins so.
class SignalsBlocked {
 public:
  explicit SignalsBlocked(std::initializer_list<int> excepted = {}) noexcept {
    sigset_t blocked;
    ::sigfillset(&blocked);
    for (const int signal : excepted) ::sigdelset(&blocked, signal);
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace millrace::runtime
