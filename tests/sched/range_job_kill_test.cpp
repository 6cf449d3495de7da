// A range job's worker, reaper, canceller and starter ended at every instruction of what they do.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "sched/range_job.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace::sched {
namespace {

constexpr std::uint64_t kMany = 20;  // two grabs of two chunks, sixteen of one
constexpr std::uint64_t kFew = 2;    // each by itself
constexpr RangeJob::Capacity kCapacity{kMany, 1, 2};
constexpr std::uint32_t kVictim = 1;
constexpr std::uint32_t kSurvivor = 2;

// What the processes share.
class SharedJob {
 public:
  SharedJob()
      : memory_(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
        ran_(reinterpret_cast<std::atomic<int>*>(static_cast<char*>(memory_) + kBytes / 2)) {}
  ~SharedJob() { ::munmap(memory_, kBytes); }
  SharedJob(const SharedJob&) = delete;
  SharedJob& operator=(const SharedJob&) = delete;

  // A fresh job, in a record that has seen one before.
  void reset(std::uint64_t count) {
    chunks = count;
    job = RangeJob::create(memory_, kCapacity);
    for (std::uint64_t i = 0; i < kMany; ++i) ran_[i].store(0);
    const int workers = 2;
    job->start(1, chunks, {&workers, 1});
    job->cancel_all(1);
    job->start(2, chunks, {&workers, 1});
  }
  // Joins ahead of work(): join() writes nothing shared.
  void join(std::uint32_t owner, std::uint32_t generation = 2) {
    cursor.emplace(RangeSeat{owner, static_cast<int>(owner - 1), 0, {}});
    if (!job->join(generation, *cursor)) cursor.reset();
  }
  void work(std::uint64_t claims = ~std::uint64_t{0}) {
    for (; cursor && claims > 0; --claims) {
      const auto chunk = job->claim(*cursor);
      if (!chunk) return;
      ran_[*chunk].fetch_add(1, std::memory_order_relaxed);
      job->finish(*cursor);
    }
  }
  void work_as_survivor(std::uint32_t generation = 2) {
    join(kSurvivor, generation);
    work();
  }
  int ran(std::uint64_t chunk) const { return ran_[chunk].load(); }
  std::vector<bool> lost(std::uint32_t generation = 2) const {
    std::vector<bool> result(kMany, false);
    job->for_each_lost(generation, [&](std::uint64_t c, std::uint32_t) { result[c] = true; });
    return result;
  }
  // Every chunk ran once or, if it is lost, at most once.
  bool each_ran_once() const {
    const auto gone = lost();
    for (std::uint64_t i = 0; i < chunks; ++i) {
      if (ran(i) > 1 || (!gone[i] && ran(i) != 1)) return false;
    }
    return true;
  }

  RangeJob* job = nullptr;
  std::uint64_t chunks = 0;
  std::optional<RangeCursor> cursor;  // each process its own

 private:
  static constexpr std::size_t kBytes = 1 << 16;
  void* memory_;
  std::atomic<int>* ran_;
};

// How many chunks there are, and how many the victim runs: a grab of two and a part of the next, or
// single chunks to the end of the job.
struct Work {
  std::uint64_t chunks;
  std::uint64_t claims;
};
class RangeJobWorkerKill : public testing::TestWithParam<Work> {};
INSTANTIATE_TEST_SUITE_P(Grabs, RangeJobWorkerKill, testing::Values(Work{kMany, 3}, Work{kFew, 3}));

TEST_P(RangeJobWorkerKill, AWorkerLosesAtMostTheChunkItRan) {
  SharedJob shared;
  long lost_in = 0;
  const auto frozen = [&](long) {
    // All but what the victim runs, or has taken and not yet said so, can be run.
    shared.work_as_survivor();
    std::uint64_t left = 0;
    for (std::uint64_t i = 0; i < shared.chunks; ++i) left += shared.ran(i) == 0;
    return left <= 2;
  };
  const auto check = [&](long, bool finished) {
    std::uint64_t reported = 0;
    shared.job->repair(2, kVictim, 1, [&](std::uint64_t) { ++reported; });
    shared.job->repair(2, kVictim, 1, [&](std::uint64_t) { ++reported; });
    shared.work_as_survivor();
    const auto lost = shared.lost();
    const auto count = static_cast<std::uint64_t>(std::count(lost.begin(), lost.end(), true));
    lost_in += count > 0;
    return shared.each_ran_once() && shared.job->complete(2) && count <= 1 && count == reported &&
           !(finished && count > 0);
  };
  const auto result = stress::step_kill({.setup = [&] { shared.reset(GetParam().chunks); },
                                         .prepare = [&] { shared.join(kVictim); },
                                         .operation = [&] { shared.work(GetParam().claims); },
                                         .frozen = frozen,
                                         .check = check});
  EXPECT_EQ(result.broken, 0);
  EXPECT_GT(result.kills, 100);
  EXPECT_GT(lost_in, 0) << "no kill landed inside a chunk: the test shows nothing";
}

TEST_P(RangeJobWorkerKill, WithRetriesEveryChunkOfADeadWorkerIsRunAgain) {
  SharedJob shared;
  long twice = 0;
  const auto check = [&](long, bool) {
    shared.job->repair(2, kVictim, 2, nullptr);
    shared.work_as_survivor();
    for (std::uint64_t i = 0; i < shared.chunks; ++i) {
      if (shared.ran(i) < 1 || shared.ran(i) > 2 || shared.lost()[i]) return false;
      twice += shared.ran(i) == 2;
    }
    return shared.job->complete(2);
  };
  const auto result = stress::step_kill({.setup = [&] { shared.reset(GetParam().chunks); },
                                         .prepare = [&] { shared.join(kVictim); },
                                         .operation = [&] { shared.work(GetParam().claims); },
                                         .check = check});
  EXPECT_EQ(result.broken, 0);
  EXPECT_GT(twice, 0) << "no kill landed between a chunk and its DONE: the test shows nothing";
}

TEST(RangeJobKill, ADeadReapersWorkIsDoneByTheNext) {
  SharedJob shared;
  for (const unsigned attempts : {1U, 2U}) {
    const auto result =
        stress::step_kill({.setup =
                               [&] {
                                 shared.reset(kFew);
                                 RangeCursor dead({9, 0, 0, {}});
                                 if (!shared.job->join(2, dead)) std::abort();
                                 (void)shared.job->claim(dead);
                               },
                           .operation = [&] { shared.job->repair(2, 9, attempts, nullptr); },
                           .check =
                               [&](long, bool) {
                                 shared.job->repair(2, 9, attempts, nullptr);
                                 shared.work_as_survivor();
                                 for (std::uint64_t i = 0; i < shared.chunks; ++i) {
                                   const bool lost = i == 0 && attempts == 1;
                                   if (shared.lost()[i] != lost || shared.ran(i) != (lost ? 0 : 1))
                                     return false;
                                 }
                                 return shared.job->complete(2);
                               }});
    EXPECT_EQ(result.broken, 0);
    EXPECT_GT(result.kills, 50);
  }
}

TEST(RangeJobKill, ADeadCancellersJobIsCancelledOrRunToItsEnd) {
  SharedJob shared;
  const auto result = stress::step_kill({.setup = [&] { shared.reset(kFew); },
                                         .operation = [&] { shared.job->cancel_all(2); },
                                         .check =
                                             [&](long, bool) {
                                               shared.work_as_survivor();
                                               for (std::uint64_t i = 0; i < shared.chunks; ++i) {
                                                 if (shared.ran(i) != (shared.lost()[i] ? 0 : 1)) {
                                                   return false;
                                                 }
                                               }
                                               return shared.job->complete(2);
                                             }});
  EXPECT_EQ(result.broken, 0);
  EXPECT_GT(result.kills, 50);
}

TEST(RangeJobKill, ADeadStartersRecordCanBeStartedAgain) {
  SharedJob shared;
  const int workers = 2;
  const auto result = stress::step_kill(
      {.setup =
           [&] {
             shared.reset(kFew);
             shared.work_as_survivor();
           },
       .operation =
           [&] {
             shared.job->start(3, shared.chunks, {&workers, 1});
           },
       .check =
           [&](long, bool finished) {
             shared.work_as_survivor(3);  // it was started wholly, or nobody can join
             if (finished != shared.job->complete(3) && finished) return false;
             shared.job->start(4, shared.chunks, {&workers, 1});
             const int before = shared.ran(0);
             shared.work_as_survivor(4);
             return shared.job->complete(4) && shared.ran(0) == before + 1;
           }});
  EXPECT_EQ(result.broken, 0);
  EXPECT_GT(result.kills, 20);
}

}  // namespace
}  // namespace millrace::sched
