// A process that dies at every instruction of put, get and task_done, while others go on.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/queues.hpp>
#include <optional>
#include <string>
#include <vector>

#include "shm/queue_parts.hpp"
#include "shm/reaper.hpp"
#include "tests/stress/step_kill.hpp"

namespace mp = millrace;

namespace millrace {
namespace {

using stress::step_kill;
using stress::StepKillResult;

void report(const char* what, const StepKillResult& r) {
  std::printf("%-32s instructions=%ld kills=%ld broken=%ld\n", what, r.instructions, r.kills,
              r.broken);
  EXPECT_EQ(r.broken, 0);
  EXPECT_GT(r.instructions, 50) << "the operation was not finished";
}

// The usual stride, or the finer one by MILLRACE_STRESS_STRIDE=fine.
long stride_of(long usual, long fine) {
  const char* const wish = std::getenv("MILLRACE_STRESS_STRIDE");
  return wish != nullptr && std::strcmp(wish, "fine") == 0 ? fine : usual;
}

using Texts = std::vector<std::string>;

constexpr std::size_t kBlock = 200;  // too long for a slot
// Items in each of the three segments that a queue of texts begins with.
constexpr int kSegmentItems =
    static_cast<int>((8192 - sizeof(shm::QueueSegment)) >> shm::kQueueCellShift);

// A queue of texts that a victim puts to or gets from.
class QueueKill : public ::testing::Test {
 protected:
  void fresh(int maxsize, int filling) {
    queue_.emplace(maxsize);
    filling_ = filling;
    for (int i = 0; i < filling; ++i) queue_->put(std::to_string(i));
  }
  // The victim's preparations: an id, and each path walked once.
  static void be_known() {
    const mp::Queue<std::string> other;
    other.put(std::string(kBlock, 'x'));
    (void)other.get();
  }
  [[nodiscard]] Texts drained() const {
    Texts got;
    while (auto text = queue_->try_get()) got.push_back(*std::move(text));
    return got;
  }
  // What was put before, what the victim may have put, what was put while it stood still.
  [[nodiscard]] bool is_whole(const Texts& got, const std::string& middle, bool finished) const {
    const auto filling = static_cast<std::size_t>(filling_);
    if (got.size() < filling + 1 || got.size() > filling + 2) return false;
    for (std::size_t i = 0; i < filling; ++i) {
      if (got[i] != std::to_string(i)) return false;
    }
    int middles = 0;
    int others = 0;
    for (std::size_t i = filling; i < got.size(); ++i) {
      middles += got[i] == middle;
      others += got[i] == "other";
    }
    return others == 1 && middles == static_cast<int>(got.size() - filling) - 1 &&
           middles >= static_cast<int>(finished);
  }
  // The queue can be filled and emptied as if nothing had been.
  [[nodiscard]] bool is_usable(int items) const {
    for (int i = 0; i < items; ++i) {
      if (!queue_->try_put("again") || queue_->qsize() != static_cast<std::size_t>(i + 1)) {
        return false;
      }
    }
    return drained() == Texts(static_cast<std::size_t>(items), "again") && queue_->empty();
  }

  long kill_putters(const char* what, int maxsize, int filling, const std::string& middle,
                    long stride = 1, long first = 0) {
    const StepKillResult result =
        step_kill({.setup = [&] { fresh(maxsize, filling); },
                   .prepare = be_known,
                   .operation = [&] { queue_->put(middle); },
                   .frozen = [&](long) { return queue_->try_put("other"); },
                   .check =
                       [&](long, bool finished) {
                         shm::reap_all_dead();
                         return is_whole(drained(), middle, finished) &&
                                is_usable(maxsize > 0 ? maxsize : 100);
                       },
                   .stride = stride,
                   .first = first});
    report(what, result);
    return result.instructions;
  }
  // Another process takes the next item while the victim stands still; `before` items were taken
  // before that. `gone` counts those that went with a victim that had them and had not returned.
  void kill_getters(const char* what, int maxsize, int filling, int before = 0, long stride = 3) {
    long gone = 0;
    Texts taken;
    Texts frozen;
    report(what, step_kill({.setup =
                                [&] {
                                  fresh(maxsize, filling);
                                  taken.clear();
                                  for (int i = 0; i < before; ++i) taken.push_back(queue_->get());
                                },
                            .prepare = be_known,
                            .operation = [&] { (void)queue_->get(); },
                            .frozen =
                                [&](long) {
                                  frozen.clear();
                                  if (auto text = queue_->try_get()) frozen.push_back(*text);
                                  return frozen.size() == 1;
                                },
                            .check =
                                [&](long, bool finished) {
                                  shm::reap_all_dead();
                                  Texts got = drained();
                                  got.push_back(frozen[0]);
                                  got.insert(got.end(), taken.begin(), taken.end());
                                  const auto all = static_cast<std::size_t>(filling);
                                  gone += got.size() == all - 1 && !finished;
                                  return holds_each_once(got, all, finished) &&
                                         is_usable(maxsize > 0 ? maxsize : 100);
                                },
                            .stride = stride}));
    std::printf("  %ld items went with their reader\n", gone);
  }
  // All but at most one of the texts, each once.
  static bool holds_each_once(const Texts& got, std::size_t all, bool finished) {
    if (got.size() + 1 < all || got.size() > all || (finished && got.size() == all)) return false;
    std::vector<int> seen(all);
    for (const std::string& text : got) ++seen.at(std::stoul(text));
    for (const int times : seen) {
      if (times > 1) return false;
    }
    return true;
  }

  std::optional<mp::Queue<std::string>> queue_;
  int filling_ = 0;
};

TEST_F(QueueKill, PutOfASmallItem) { kill_putters("put, bounded", 5, 2, "middle"); }
TEST_F(QueueKill, PutOfALargeItem) {
  kill_putters("put of a block", 5, 2, std::string(kBlock, 'm'), 5);
}
TEST_F(QueueKill, PutThatGoesOnToTheNextSegment) {
  kill_putters("put, next segment", 0, kSegmentItems, "m", 7);
}
TEST_F(QueueKill, Get) { kill_getters("get, bounded", 5, 4); }
// The queue's own three segments are full: memory is asked for and zeroed, which is most of it,
// then cut up, listed and linked.
TEST_F(QueueKill, PutThatMakesTheQueueGrow) {
  const long all = kill_putters("put, growing", 0, 3 * kSegmentItems, "m", stride_of(16001, 1009));
  kill_putters("put, growing, its end", 0, 3 * kSegmentItems, "m", stride_of(199, 1), all - 800);
}
// The first segment is used up: the getter crosses to the next one and retires it.
TEST_F(QueueKill, GetThatCrossesToTheNextSegment) {
  kill_getters("get, next segment", 0, kSegmentItems + 3, kSegmentItems, stride_of(31, 1));
}
TEST_F(QueueKill, GetOfTheLastItem) { kill_getters("get, unbounded", 0, 3); }

// The count of a JoinableQueue is that of its items, and ends at 0.
class JoinableKill : public ::testing::Test {
 protected:
  static bool counts_well(const mp::JoinableQueue<int>& queue, int at_least) {
    int got = 0;
    while (queue.try_get()) {
      queue.task_done();
      ++got;
    }
    queue.join();  // hangs if the count is too high
    try {
      queue.task_done();
      return false;
    } catch (const mp::ValueError&) {
      return got >= at_least;
    }
  }
  std::optional<mp::JoinableQueue<int>> queue_;
};

TEST_F(JoinableKill, Put) {
  report("joinable put", step_kill({.setup =
                                        [&] {
                                          queue_.emplace(4);
                                          queue_->put(1);
                                        },
                                    .prepare =
                                        [] {
                                          const mp::JoinableQueue<int> other;
                                          other.put(1);
                                        },
                                    .operation = [&] { queue_->put(2); },
                                    .check =
                                        [&](long, bool finished) {
                                          shm::reap_all_dead();
                                          queue_->put(3);
                                          return counts_well(*queue_, finished ? 3 : 2) &&
                                                 queue_->empty();
                                        },
                                    .stride = 3}));
}

TEST_F(JoinableKill, TaskDone) {
  report("task_done", step_kill({.setup =
                                     [&] {
                                       queue_.emplace();
                                       queue_->put(1);
                                       queue_->put(2);
                                     },
                                 .prepare =
                                     [] {
                                       const mp::JoinableQueue<int> other;
                                       other.put(1);
                                       other.task_done();
                                     },
                                 .operation = [&] { queue_->task_done(); },
                                 .check =
                                     [&](long, bool finished) {
                                       shm::reap_all_dead();
                                       queue_->task_done();
                                       try {  // the victim's, if it came so far
                                         queue_->task_done();
                                         if (finished) return false;
                                       } catch (const mp::ValueError&) {
                                       }
                                       queue_->join();
                                       return true;
                                     },
                                 .stride = 3}));
}

}  // namespace
}  // namespace millrace
