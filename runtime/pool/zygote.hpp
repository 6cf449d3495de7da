// The zygote: a small single-threaded process, made with the pool, that forks workers and their
// replacements. Under fork it is what the parent was when the pool was made, under spawn and
// forkserver the program executed anew (zygote_start.hpp): a replacement started by the parent
// itself would have to be forked from a process with threads and gigabytes.
//
// It waits for its workers, writes how each ended into the process table before anyone relies on
// it, forks the replacement and rings the parent's bell. Workers ask the kernel to end them with
// the zygote (it has one thread, so the signal means what it says); the zygote watches the parent
// by pidfd and ends its workers, then itself, when the parent is gone.
//
// Death between any two steps: parent -> the zygote's pidfd poll returns, all workers are ended;
// zygote -> the kernel ends the workers, the parent finds it dead by pidfd, establishes the deaths
// of its workers and makes another; worker -> the zygote reaps it; zygote and parent at once -> the
// kernel ends the workers.
#pragma once

#include <sys/types.h>

#include <memory>
#include <millrace/job.hpp>
#include <millrace/ref.hpp>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/pool/pool_shared.hpp"
#include "runtime/process/child.hpp"

namespace millrace::runtime {

class SpawnMessage;

/// What the zygote and its workers have from the parent: by fork, or by message.
struct PoolPlan {
  struct Worker {
    std::vector<int> cpus{};  ///< to be bound to; empty: wherever the kernel likes
    int node = -1;            ///< operating-system index of the node, -1: none
    int lane = 0;             ///< whose task ring comes first
    int home = -1;            ///< cpu it rests on, see sched/homes.hpp
    std::string source{};
  };
  std::vector<Worker> workers{};
  std::vector<std::vector<int>> steal_order{};  ///< per lane, lanes by distance, itself first
  const void* probe = nullptr;                  ///< a word of the parent's private memory
  bool apply_binding = true;                    ///< false on a substituted topology
  bool report_bindings = false;
  Ref<Initializer> initializer{};
  std::string method = "fork";  ///< how the zygote starts
  ParentIdentity parent{};      ///< of the workers, as they see it
  std::string name_prefix{};    ///< "ForkPoolWorker-"
  int first_number = 1;
};

/// What the zygote's process runs; returns only by ending the process.
[[noreturn]] void run_zygote(PoolShared& shared, const PoolPlan& plan, int poke_fd);

/// A descriptor that is readable once process `pid` has ended; -1 where the kernel has none.
int open_pidfd(pid_t pid) noexcept;

/// The parent's handle on its zygote.
class Zygote {
 public:
  /// Starts the zygote and waits until it has forked the first workers. std::system_error when the
  /// system refuses; std::runtime_error when an executed one ends at once, as when main() does not
  /// call freeze_support().
  Zygote(PoolShared& shared, const PoolPlan& plan);
  Zygote(const Zygote&) = delete;
  Zygote& operator=(const Zygote&) = delete;
  /// Ends it with all workers if it still runs.
  ~Zygote();

  /// Makes it look at kill requests and at `closing`.
  void poke() noexcept;
  /// True while it runs. Asks the kernel.
  [[nodiscard]] bool alive() const noexcept;
  /// Ends all workers (SIGTERM, then SIGKILL) and the zygote, and waits for it.
  void end() noexcept;
  /// Waits until it has exited by itself (its workers have left). Several threads may wait, and
  /// another may end() it meanwhile.
  void wait_exit() noexcept;
  [[nodiscard]] int pidfd() const noexcept { return pidfd_; }

 private:
  void start(const PoolPlan& plan, SpawnMessage* message);
  bool wait_for(int limit_ms) const noexcept;
  void reap() noexcept;

  PoolShared& shared_;
  pid_t pid_ = 0;  // constant, as are the descriptors: they are closed by the destructor
  shm::ProcessId id_ = 0;
  int pidfd_ = -1;
  int poke_fd_ = -1;
  std::mutex reaping_;
  bool reaped_ = false;  // under reaping_
  int status_ = 0;       // likewise, how it ended
};

}  // namespace millrace::runtime
