#include "shm/fork_hooks.hpp"

#include <pthread.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <system_error>
#include <vector>

#include "shm/object.hpp"
#include "shm/process_heap.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "shm/ref_table.hpp"
#include "shm/slab_heap.hpp"

namespace millrace::shm {
namespace {

using Clock = std::chrono::steady_clock;

// The child of the fork in progress, 0 when it gets no id before its first use of the library.
// Written and read by the forking thread, which holds `forking`.
std::mutex forking;
ProcessId next_child = 0;

// Children that fork() gave references. Nobody may ever wait for them through the library, so
// each fork looks after a few of the earlier ones.
struct Child {
  ProcessId id;
  Clock::time_point forked;
  bool doubtful;  // fork() may have failed
  pid_t pid;      // 0 until name_child()
};
std::vector<Child> children;
thread_local constinit ProcessId last_child = 0;  // of this thread
std::size_t next_look = 0;
constexpr int kLooks = 4;
constexpr auto kFirstBreath = std::chrono::seconds(2);

void look_after_children() {
  ProcessTable& table = ProcessTable::instance();
  for (int k = 0; k < kLooks && !children.empty(); ++k) {
    next_look = (next_look + 1) % children.size();
    const Child child = children[next_look];
    // A child adopts its id before fork() returns in it. One that has not for so long, after a
    // fork() that left an error behind, was never made.
    const bool unborn =
        child.doubtful && table.pid(child.id) == 0 && Clock::now() - child.forked > kFirstBreath;
    if (!unborn && table.check_alive(child.id)) continue;
    reap(child.id);
    children[next_look] = children.back();
    children.pop_back();
  }
}

// Gives the next child the references that this process holds now. False: no id, no references.
bool prepare_child() {
  RefTable& mine = RefTable::of(self());
  next_child = ProcessTable::instance().reserve();
  lock_references();
  const NoReaping no_reaping;
  try {
    RefTable::of(next_child).copy(mine, next_child);
    children.push_back({next_child, Clock::now(), false, 0});
  } catch (...) {
    unlock_references();
    throw;
  }
  return true;
}

// Ends with the references locked, whether the child gets some or not.
void lock_and_hand_down_references() noexcept {
  next_child = 0;
  const ProcessId me = this_process_id.load(std::memory_order_relaxed);
  try {
    if (me != 0) look_after_children();
    if (me != 0 && RefTable::of(me).holds_anything()) {
      prepare_child();
      errno = 0;
      return;
    }
  } catch (const std::exception&) {
    // No entry or no memory: the child's copies of handles do not count, as after exec.
    if (next_child != 0) reap(next_child);
    next_child = 0;
  }
  lock_references();
}

void before_fork() noexcept {
  forking.lock();
  lock_heap();
  lock_and_hand_down_references();
  first_use().lock();  // last: who holds one of the others may use something for the first time
}

void after_fork_in_parent() noexcept {
  // fork() has no way to tell this handler that it failed but for the error it is about to return.
  if (next_child != 0 && (errno == EAGAIN || errno == ENOMEM)) children.back().doubtful = true;
  last_child = next_child;
  first_use().unlock();
  unlock_references();
  unlock_heap();
  forking.unlock();
}

[[gnu::hot]] void after_fork_in_child() noexcept {
  const ProcessId child = next_child;
  children.clear();
  this_process_id.store(0, std::memory_order_relaxed);
  reserved_process_id.store(0, std::memory_order_relaxed);
  forget_slab_position();
  forget_heap();
  first_use().unlock();
  unlock_references();
  unlock_heap();
  forking.unlock();
  if (child != 0) ProcessTable::instance().adopt(child);
}

const bool installed_at_load = (install_fork_hooks(), true);

}  // namespace

std::mutex& first_use() noexcept {
  static constinit std::mutex mutex;
  return mutex;
}

void name_child(pid_t pid) noexcept {
  const std::lock_guard guard(forking);
  for (Child& child : children) {
    if (last_child != 0 && child.id == last_child) child.pid = pid;
  }
}

void child_ended(pid_t pid) noexcept {
  ProcessId id = 0;
  {
    const std::lock_guard guard(forking);
    const auto found = std::find_if(children.begin(), children.end(),
                                    [pid](const Child& child) { return child.pid == pid; });
    if (found == children.end()) return;
    id = found->id;
    *found = children.back();
    children.pop_back();
  }
  ProcessTable& table = ProcessTable::instance();
  if (table.revoke(id) || !table.check_alive(id)) reap(id);
}

void install_fork_hooks() {
  static std::once_flag once;
  std::call_once(once, [] {
    const int error = ::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    if (error != 0) throw std::system_error(error, std::generic_category(), "pthread_atfork");
  });
}

}  // namespace millrace::shm
