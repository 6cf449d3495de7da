// The message that makes a process, given back by one that is ended at every few instructions.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <millrace/arena.hpp>
#include <millrace/serialize.hpp>
#include <string_view>
#include <vector>

#include "runtime/process/spawn.hpp"
#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace {
namespace {

using runtime::SpawnMessage;
using runtime::StartBlock;

// A message with three references of one object each: two handles, and one in a copied callable.
class SpawnStepKill : public ::testing::Test {
 protected:
  static constexpr std::size_t kObjectBlocks = 2;  // memory and record

  void SetUp() override {
    // The tables of references grow now, not when lost ones fill them.
    std::vector<shared_array<int>> many(100);
    for (auto& one : many) one = shared_array<int>(10);
    wire::Writer message;
    wire::encode(message, many);
    message.revert(0);
    many.clear();
    place();
    shm::ProcessTable::instance().revoke(child_);
    shm::reap(child_);  // what is made once is made
    ASSERT_EQ(blocks(), before_);
  }

  static long stride() {
    const char* stress = std::getenv("MILLRACE_STRESS");
    return stress != nullptr && std::string_view(stress) == "full" ? 151 : 401;
  }

  static std::size_t blocks() { return shm::Arena::instance().usage().small_blocks; }

  void place() {
    before_ = blocks();
    child_ = shm::ProcessTable::instance().reserve();
    SpawnMessage message;
    wire::encode(message.writer(), shared_array<int>(10));
    wire::encode(message.writer(), [held = shared_array<int>(10)] { return held.size(); });
    wire::encode(message.writer(), shared_array<int>(10));
    start_ = message.place(child_, runtime::StartKind::process);
    message.hand_over();
  }

  // Whoever was killed, at most the reference it had in its hands is lost, and nothing twice.
  bool all_but_one_is_back(bool finished) {
    shm::ProcessTable::instance().mark_dead(child_, shm::kUnknownStatus);
    shm::reap_all_dead();
    shm::reap(child_);
    const std::size_t left = blocks() - before_;
    if (left != 0) ++lost_;
    const bool fine = left == 0 || (!finished && left == kObjectBlocks);
    const auto refused = shm::Arena::instance().usage().refused_frees;
    if (!fine || refused != 0) std::fprintf(stderr, "%zu blocks are left\n", left);
    return fine && refused == 0;
  }

  void report(const char* what, const stress::StepKillResult& r) const {
    std::printf("%-28s instructions=%ld kills=%ld broken=%ld lost=%ld\n", what, r.instructions,
                r.kills, r.broken, lost_);
    EXPECT_EQ(r.broken, 0);
    EXPECT_GT(r.instructions, 10) << "the operation was not finished";
    EXPECT_LT(lost_, r.kills / 2);
  }

  shm::ProcessId child_ = 0;
  StartBlock* start_ = nullptr;
  std::size_t before_ = 0;
  long lost_ = 0;
};

TEST_F(SpawnStepKill, TheChildGivesItBack) {
  report("finish_message",
         stress::step_kill(
             {.setup = [&] { place(); },
              .prepare =
                  [&] {
                    shm::ProcessTable::instance().adopt(child_);
                    { const shared_array<int> first_use(10); }
                  },
              .operation = [&] { runtime::finish_message(*start_); },
              .check = [&](long, bool finished) { return all_but_one_is_back(finished); },
              .stride = stride()}));
}

TEST_F(SpawnStepKill, AReaperGivesItBackAndTheNextOneGoesOn) {
  report("settle_message by a reaper",
         stress::step_kill(
             {.setup =
                  [&] {
                    place();
                    shm::ProcessTable::instance().revoke(child_);
                  },
              .prepare =
                  [&] {
                    { const shared_array<int> first_use(10); }
                    if (!shm::ProcessTable::instance().begin_reaping(child_)) std::abort();
                  },
              .operation = [&] { runtime::settle_message(*start_); },
              .check = [&](long, bool finished) { return all_but_one_is_back(finished); },
              .stride = stride()}));
}

}  // namespace
}  // namespace millrace
