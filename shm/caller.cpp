#include "shm/caller.hpp"

#include <unistd.h>

namespace millrace::shm {

namespace callers {
thread_local constinit Caller current [[gnu::tls_model("initial-exec")]]{};
}  // namespace callers

const Caller& enter_caller() {
  static std::atomic<std::uint32_t> threads{0};
  Caller& caller = callers::current;
  caller.id = self();
  caller.pid = static_cast<std::uint32_t>(::getpid());
  // A forked child goes on with its thread's number, and with the count.
  if (caller.thread == 0) caller.thread = threads.fetch_add(1, std::memory_order_relaxed) + 1;
  return caller;
}

}  // namespace millrace::shm
