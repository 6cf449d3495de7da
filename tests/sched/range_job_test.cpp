#include "sched/range_job.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <millrace/errors.hpp>
#include <numeric>
#include <vector>

#include "tests/sched/range_fixture.hpp"

namespace millrace::sched {
namespace {

std::vector<std::uint64_t> iota(std::uint64_t count) {
  std::vector<std::uint64_t> all(count);
  std::iota(all.begin(), all.end(), std::uint64_t{0});
  return all;
}

TEST(RangeJob, OneWorkerRunsEveryChunkOnceInOrder) {
  Record job({5000, 1, 1});
  start(*job, 1, 5000);
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  EXPECT_EQ(run_all(*job, *cursor), iota(5000));
  EXPECT_TRUE(job->complete(1));
  EXPECT_EQ(job->done(1), 5000U);
}

TEST(RangeJob, AnEmptyJobIsCompleteAtOnce) {
  Record job({10, 1, 1});
  start(*job, 1, 0);
  EXPECT_TRUE(job->complete(1));
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  EXPECT_FALSE(job->claim(*cursor));
}

TEST(RangeJob, ARecordIsUsedAgainWithoutClearing) {
  Record job({300, 2, 3});
  for (std::uint32_t generation = 1; generation < 200; ++generation) {
    const std::uint64_t chunks = generation % 7 * 50;
    start(*job, generation, chunks, generation % 2 == 0 ? std::vector{1, 2} : std::vector{3});
    const auto cursor = joined(*job, generation, {7, static_cast<int>(generation % 3), 0, {}});
    EXPECT_EQ(job->complete(generation), chunks == 0);
    EXPECT_EQ(run_all(*job, *cursor), iota(chunks));
    EXPECT_TRUE(job->complete(generation));
  }
}

TEST(RangeJob, UserWordsReachTheWorker) {
  Record job({10, 1, 1});
  const std::vector<int> shares = {1};
  const std::vector<std::uint64_t> words = {11, 22, 33};
  job->start(1, 10, shares, words);
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  EXPECT_EQ(cursor->user(), (std::array<std::uint64_t, 5>{11, 22, 33, 0, 0}));
  EXPECT_EQ(cursor->chunks(), 10U);
}

TEST(RangeJob, JoinFailsForAnotherGeneration) {
  Record job({10, 1, 1});
  RangeCursor cursor({7, 0, 0, {}});
  EXPECT_FALSE(job->join(1, cursor));
  start(*job, 5, 10);
  EXPECT_FALSE(job->join(4, cursor));
  EXPECT_FALSE(job->join(6, cursor));
  EXPECT_TRUE(job->join(5, cursor));
}

TEST(RangeJob, ALateWorkerOfAnOlderJobTakesNothing) {
  Record job({1000, 1, 2});
  start(*job, 1, 1000);
  const auto late = joined(*job, 1, {7, 0, 0, {}});
  const auto other = joined(*job, 1, {8, 1, 0, {}});
  run_all(*job, *other);
  ASSERT_TRUE(job->complete(1));
  start(*job, 2, 1000);
  EXPECT_FALSE(job->claim(*late));
  EXPECT_TRUE(job->complete(1)) << "an older job counts as complete";
  EXPECT_FALSE(job->complete(2));
  ASSERT_TRUE(job->join(2, *other));
  EXPECT_EQ(run_all(*job, *other), iota(1000));
  EXPECT_TRUE(job->complete(2));
}

TEST(RangeJob, ALateWorkerAfterCancelTakesNothingOfTheNextJob) {
  Record job({1000, 1, 2});
  start(*job, 1, 1000);
  const auto late = joined(*job, 1, {7, 0, 0, {}});
  ASSERT_TRUE(job->claim(*late));
  EXPECT_EQ(job->cancel_all(1), 1000U);
  EXPECT_TRUE(job->complete(1));
  start(*job, 2, 1000);
  EXPECT_FALSE(job->finish(*late));
  EXPECT_FALSE(job->claim(*late));
  const auto other = joined(*job, 2, {8, 1, 0, {}});
  EXPECT_EQ(run_all(*job, *other), iota(1000));
  EXPECT_TRUE(job->complete(2));
}

TEST(RangeJob, WorkersTakeTheirOwnNodeFirstThenByDistance) {
  Record job({300, 3, 3});
  const std::vector<int> order = {2, 0, 1};
  start(*job, 1, 300, {1, 1, 1});
  const auto cursor = joined(*job, 1, {7, 2, 2, order});
  const auto ran = run_all(*job, *cursor);
  ASSERT_EQ(ran.size(), 300U);
  EXPECT_EQ(ran[0], 200U);
  EXPECT_EQ(ran[100], 0U);
  EXPECT_EQ(ran[200], 100U);
}

TEST(RangeJob, WithoutAStealOrderNodesFollowInTurn) {
  Record job({300, 3, 3});
  start(*job, 1, 300, {1, 1, 1});
  const auto cursor = joined(*job, 1, {7, 1, 1, {}});
  const auto ran = run_all(*job, *cursor);
  EXPECT_EQ(ran[0], 100U);
  EXPECT_EQ(ran[100], 200U);
  EXPECT_EQ(ran[200], 0U);
}

TEST(RangeJob, WhatAnotherHasGrabbedButNotBegunIsStolen) {
  Record job({1000, 1, 2});
  start(*job, 1, 1000, {2});
  const auto slow = joined(*job, 1, {7, 0, 0, {}});
  ASSERT_EQ(job->claim(*slow), 0U);  // and holds chunks 1 to 7
  const auto thief = joined(*job, 1, {8, 1, 0, {}});
  EXPECT_EQ(run_all(*job, *thief).size(), 999U);
  EXPECT_FALSE(job->complete(1));
  EXPECT_TRUE(job->finish(*slow));
  EXPECT_FALSE(job->claim(*slow));
  EXPECT_TRUE(job->complete(1));
  EXPECT_EQ(job->done(1), 1000U);
}

TEST(RangeJob, CancelOfARunningChunkMakesFinishFail) {
  Record job({10, 1, 1});
  start(*job, 1, 10);
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  ASSERT_EQ(job->claim(*cursor), 0U);
  EXPECT_EQ(job->runner(1, 0), 7U);
  EXPECT_TRUE(job->cancel(1, 0));
  EXPECT_FALSE(job->cancel(1, 0));
  EXPECT_EQ(job->runner(1, 0), 0U);
  EXPECT_FALSE(job->finish(*cursor));
  EXPECT_EQ(run_all(*job, *cursor).size(), 9U);
  EXPECT_TRUE(job->complete(1));
}

TEST(RangeJob, CancelOfAFinishedChunkFails) {
  Record job({10, 1, 1});
  start(*job, 1, 10);
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  run_all(*job, *cursor);
  EXPECT_FALSE(job->cancel(1, 3));
  EXPECT_FALSE(job->cancel(1, 10)) << "no such chunk";
  EXPECT_FALSE(job->cancel(2, 3)) << "no such job";
}

TEST(RangeJob, CancelledChunksAheadOfTheCursorAreNotRun) {
  Record job({100, 1, 1});
  start(*job, 1, 100);
  EXPECT_TRUE(job->cancel(1, 50));
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  const auto ran = run_all(*job, *cursor);
  EXPECT_EQ(ran.size(), 99U);
  EXPECT_EQ(std::count(ran.begin(), ran.end(), 50U), 0);
  EXPECT_TRUE(job->complete(1));
}

TEST(RangeJob, ADeadWorkersChunkIsLostAndReportedOnce) {
  Record job({100, 1, 2});
  start(*job, 1, 100, {2});
  const auto dead = joined(*job, 1, {7, 0, 0, {}});
  ASSERT_EQ(job->claim(*dead), 0U);
  const auto other = joined(*job, 1, {8, 1, 0, {}});
  run_all(*job, *other);
  EXPECT_FALSE(job->complete(1));
  std::vector<std::uint64_t> lost;
  const auto report = [&](std::uint64_t chunk) { lost.push_back(chunk); };
  EXPECT_EQ(job->repair(1, 7, 1, report).lost, 1U);
  EXPECT_EQ(job->repair(1, 7, 1, report).lost, 0U);
  EXPECT_EQ(lost, std::vector<std::uint64_t>{0});
  // The rest of its grab: whoever was idle is told to look again.
  run_all(*job, *other);
  EXPECT_TRUE(job->complete(1));
  std::vector<std::pair<std::uint64_t, std::uint32_t>> named;
  job->for_each_lost(1, [&](std::uint64_t c, std::uint32_t owner) { named.push_back({c, owner}); });
  EXPECT_EQ(named, (std::vector<std::pair<std::uint64_t, std::uint32_t>>{{0, 7}}));
}

TEST(RangeJob, ADeadWorkersChunkIsRunAgainAsOftenAsAllowed) {
  Record job({1, 1, 2});
  start(*job, 1, 1);
  for (std::uint32_t owner = 1; owner <= 3; ++owner) {
    const auto cursor = joined(*job, 1, {owner, 0, 0, {}});
    ASSERT_TRUE(job->claim(*cursor)) << owner;
    EXPECT_EQ(cursor->attempts(), owner - 1);
    const auto outcome = job->repair(1, owner, 3, nullptr);
    EXPECT_EQ(outcome.returned, owner < 3 ? 1U : 0U);
    EXPECT_EQ(outcome.lost, owner < 3 ? 0U : 1U);
    EXPECT_EQ(outcome.claimable, owner < 3);
  }
  EXPECT_TRUE(job->complete(1));
}

TEST(RangeJob, AnIdleWorkerFindsWhatARepairGaveBack) {
  Record job({1000, 1, 2});
  start(*job, 1, 1000, {2});
  const auto dead = joined(*job, 1, {7, 0, 0, {}});
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(job->claim(*dead));
    ASSERT_TRUE(job->finish(*dead));
  }
  ASSERT_TRUE(job->claim(*dead));
  const auto idle = joined(*job, 1, {8, 1, 0, {}});
  EXPECT_EQ(run_all(*job, *idle).size(), 996U);  // steals the rest of the grab, too
  EXPECT_FALSE(job->claim(*idle));
  EXPECT_TRUE(job->repair(1, 7, 2, nullptr).claimable);
  EXPECT_EQ(run_all(*job, *idle), std::vector<std::uint64_t>{3});
  EXPECT_TRUE(job->complete(1));
}

TEST(RangeJob, AReplacementCountsOnInItsPredecessorsSeat) {
  Record job({100, 1, 1});
  start(*job, 1, 100);
  const auto dead = joined(*job, 1, {7, 0, 0, {}});
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(job->claim(*dead));
    ASSERT_TRUE(job->finish(*dead));
  }
  job->repair(1, 7, 1, nullptr);
  const auto next = joined(*job, 1, {9, 0, 0, {}});
  EXPECT_EQ(run_all(*job, *next).size(), 60U);
  EXPECT_EQ(job->done(1), 100U);
  EXPECT_TRUE(job->complete(1));
}

TEST(RangeJob, RepairOfAnotherJobOrOwnerChangesNothing) {
  Record job({10, 1, 1});
  start(*job, 1, 10);
  const auto cursor = joined(*job, 1, {7, 0, 0, {}});
  ASSERT_TRUE(job->claim(*cursor));
  EXPECT_EQ(job->repair(1, 8, 1, nullptr).lost, 0U);
  EXPECT_EQ(job->repair(2, 7, 1, nullptr).lost, 0U);
  EXPECT_TRUE(job->finish(*cursor));
}

TEST(RangeJob, GenerationsWrapRound) {
  Record job({200, 1, 2});
  std::uint32_t generation = 0xffff'fff0;
  std::unique_ptr<RangeCursor> late;
  for (int i = 0; i < 40; ++i, ++generation) {
    start(*job, generation, 200);
    const auto cursor = joined(*job, generation, {7, 0, 0, {}});
    if (i == 10) late = joined(*job, generation, {8, 1, 0, {}});
    EXPECT_EQ(run_all(*job, *cursor).size(), 200U);
    EXPECT_TRUE(job->complete(generation));
  }
  EXPECT_FALSE(job->claim(*late));
  // Words that no job has touched for 2^31 generations must not look new.
  for (const std::uint32_t step : {0x3fff'ffffU, 0x3fff'ffffU, 0x3fff'ffffU, 0x3fff'ffffU}) {
    generation += step;
    start(*job, generation, 1);
    const auto cursor = joined(*job, generation, {7, 0, 0, {}});
    EXPECT_EQ(run_all(*job, *cursor).size(), 1U);
    generation += 1;
    start(*job, generation, 200);
    const auto again = joined(*job, generation, {7, 0, 0, {}});
    EXPECT_EQ(run_all(*job, *again).size(), 200U);
  }
}

TEST(RangeJob, CapacitiesOutOfRangeAreRefused) {
  EXPECT_THROW(RangeJob::bytes_for(kMaxRangeChunks + 1, 1, 1), ValueError);
  EXPECT_THROW(RangeJob::bytes_for(1, 0, 1), ValueError);
  EXPECT_THROW(RangeJob::bytes_for(1, kMaxRangeNodes + 1, 1), ValueError);
  EXPECT_THROW(RangeJob::bytes_for(1, 1, 0), ValueError);
  EXPECT_THROW(RangeJob::bytes_for(1, 1, 4097), ValueError);
}

TEST(RangeJob, StartsThatDoNotFitAreRefused) {
  Record job({10, 2, 3});
  EXPECT_THROW(start(*job, 1, 11), ValueError);
  EXPECT_THROW(start(*job, 1, 10, {}), ValueError);
  EXPECT_THROW(start(*job, 1, 10, {1, 1, 1}), ValueError);
  EXPECT_THROW(start(*job, 1, 10, {4}), ValueError);
  EXPECT_THROW(start(*job, 1, 10, {-1, 1}), ValueError);
  start(*job, 5, 10, {2, 1});
  const auto cursor = joined(*job, 5, {7, 0, 0, {}});
  run_all(*job, *cursor);
  EXPECT_THROW(start(*job, 5, 10), AssertionError);
  EXPECT_THROW(start(*job, 4, 10), AssertionError);
}

}  // namespace
}  // namespace millrace::sched
