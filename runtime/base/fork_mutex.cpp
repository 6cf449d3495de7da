#include "runtime/base/fork_mutex.hpp"

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdlib>

#include "shm/fork_hooks.hpp"

namespace millrace::runtime {

// Reached by fork() of any thread. Constant-initialised: a library's constructor may fork.
struct ForkHandlers {
  static constexpr std::size_t kHooks = 16;

  static constinit std::mutex list_mutex;  // held from prepare to parent/child, and to register
  static constinit ForkMutex* first;
  static constinit std::array<void (*)() noexcept, kHooks> hooks;
  static constinit std::size_t hook_count;

  static void prepare() noexcept {
    list_mutex.lock();
    for (ForkMutex* m = first; m != nullptr; m = m->next_) m->mutex_.lock();
  }

  [[gnu::hot]] static void release() noexcept {
    for (ForkMutex* m = first; m != nullptr; m = m->next_) m->mutex_.unlock();
    list_mutex.unlock();
  }

  [[gnu::hot]] static void child() noexcept {
    release();
    for (std::size_t i = 0; i < hook_count; ++i) hooks[i]();
  }

  static void install() noexcept {
    // Failure means no memory while the program loads; going on would risk a deadlock later.
    // The layer below comes first: handlers run last in, first out before a fork, so these locks
    // are taken before that layer's, as every other thread takes them.
    static const int installed =
        (shm::install_fork_hooks(), ::pthread_atfork(&prepare, &release, &child));
    if (installed != 0) std::abort();
  }

  static void add(ForkMutex& mutex) noexcept {
    install();
    const std::lock_guard guard(list_mutex);
    ForkMutex** at = &first;
    while (*at != nullptr && (*at)->level_ <= mutex.level_) at = &(*at)->next_;
    mutex.next_ = *at;
    *at = &mutex;
  }

  static void add(void (*hook)() noexcept) noexcept {
    install();
    const std::lock_guard guard(list_mutex);
    if (hook_count == kHooks) std::abort();  // raise kHooks: the hooks are the library's own
    hooks[hook_count++] = hook;
  }
};

constinit std::mutex ForkHandlers::list_mutex;
constinit ForkMutex* ForkHandlers::first = nullptr;
constinit std::array<void (*)() noexcept, ForkHandlers::kHooks> ForkHandlers::hooks{};
constinit std::size_t ForkHandlers::hook_count = 0;

ForkMutex::ForkMutex(Level level) noexcept : level_(level) { ForkHandlers::add(*this); }

void run_after_fork_in_child(void (*hook)() noexcept) { ForkHandlers::add(hook); }

}  // namespace millrace::runtime
