// The threads of a manager's server: as many as there is something to do for, not one for each
// client.
//
// Invariants
// 1. A task is with one thread, or in the queue, once.
// 2. Tasks wait in the queue only while no thread is idle; the oldest is taken first, and a task
//    whose turn has ended goes behind the others: so each gets its turn, however much one has to
//    do.
// 3. Up to kAtWork threads are at work at once, those that stand aside (their call waits, or they
//    wait for their client) not counted. When the queue does not move, look() adds one more: calls
//    of user code may wait where nobody sees it. A thread is added only for a task that waits
//    while none is idle.
// 4. Threads that find nothing to do for kIdle end, but for kKept.
// 5. A thread keeps nothing of a task whose last turn has ended.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace millrace::runtime {

struct ManagerTalk;

class ManagerCrew {
 public:
  using Task = std::shared_ptr<ManagerTalk>;
  /// One turn of a task; must not throw. True: it wants another one.
  using Turn = std::function<bool(const Task& task)>;

  static constexpr std::size_t kAtWork = 32;
  static constexpr std::size_t kKept = 2;
  static constexpr auto kIdle = std::chrono::seconds(1);

  explicit ManagerCrew(Turn turn) : turn_(std::move(turn)) {}
  ManagerCrew(const ManagerCrew&) = delete;
  ManagerCrew& operator=(const ManagerCrew&) = delete;
  /// After dismiss(), or when nothing was ever given.
  ~ManagerCrew() = default;

  /// Gives it its turn soon, on a thread of the crew.
  void give(Task task);
  /// A hint: others wait for their turn, so turns should be short.
  [[nodiscard]] bool crowded() const noexcept {
    return crowded_.load(std::memory_order_relaxed);  // a hint
  }
  /// The calling thread, in its turn, begins (ends) to wait for somebody else.
  void stand_aside(bool on) noexcept;
  /// From time to time while crowded(): one thread more when the queue does not move.
  void look() noexcept;
  /// No task is given any more: waits until all have had their turns and all threads have ended.
  void dismiss();

 private:
  struct Worker {
    std::condition_variable wake;
    Task task;
  };

  void work(Task task);
  // With the lock.
  Task next(Worker& me, std::unique_lock<std::mutex>& guard);
  Task take() noexcept;
  void start() noexcept;
  [[nodiscard]] bool may_start() const noexcept;

  const Turn turn_;
  std::atomic<bool> crowded_{false};  // as the queue is, changed under the lock
  std::atomic<std::size_t> aside_{0};
  std::mutex mutex_;  // guards what follows
  std::deque<Task> queue_;
  std::vector<Worker*> idle_;  // the last one is woken first: the others may end
  std::size_t threads_ = 0;
  std::uint64_t turns_ = 0;   // that have ended
  std::uint64_t looked_ = 0;  // at which look() saw the queue
  bool dismissed_ = false;
  std::condition_variable ended_;
};

}  // namespace millrace::runtime
