// The message that makes a process, given back by one that is ended at every few instructions.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <millrace/arena.hpp>
#include <millrace/connection.hpp>
#include <millrace/serialize.hpp>
#include <optional>
#include <string_view>
#include <utility>
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

// A message with references to two arrays, a third in a copied callable, and an end of a pipe.
class SpawnStepKill : public ::testing::Test {
 protected:
  void SetUp() override {
    // The tables of references grow now, not when lost ones fill them.
    std::vector<shared_array<int>> many(100);
    for (auto& one : many) one = shared_array<int>(10);
    wire::Writer message;
    wire::encode(message, many);
    message.revert(0);
    many.clear();
    place();
    EXPECT_TRUE(all_is_back());  // and what is made once is made
    place();
    ASSERT_TRUE(all_is_back());
  }

  static long stride() {
    const char* stress = std::getenv("MILLRACE_STRESS");
    return stress != nullptr && std::string_view(stress) == "full" ? 151 : 401;
  }

  static std::size_t blocks() { return shm::Arena::instance().usage().small_blocks; }

  // What a parent does, and has.
  struct Held {
    shared_array<int> first{10};
    shared_array<int> second{10};
  };
  SpawnMessage& encode(const Held& held) const {
    auto& message = *new SpawnMessage;  // lives until the process ends, or it is destroyed
    const shm::InMessage counted = message.encoding();
    wire::encode(message.writer(), held.first);
    wire::encode(message.writer(), [second = held.second] { return second.size(); });
    wire::encode(message.writer(), held.second);
    wire::encode(message.writer(), *sender_);
    return message;
  }

  void begin() {
    receiver_.reset();
    sender_.reset();
    before_ = blocks();
    auto [receiver, sender] = Pipe({.duplex = false});
    receiver_ = std::move(receiver);
    sender_ = std::move(sender);
  }

  void place() {
    begin();
    const std::unique_ptr<SpawnMessage> message(&encode(Held()));
    child_ = message->id();
    start_ = message->place(runtime::StartKind::process);
    message->hand_over();
  }

  // Nobody has the sender open any more but this process.
  bool is_heard_of() {
    sender_.reset();
    try {
      while (receiver_->poll(std::chrono::seconds(1))) (void)receiver_->recv<int>();
    } catch (const EOFError&) {
      return true;
    }
    std::fprintf(stderr, "the peer waits for ever\n");
    return false;
  }

  // Whoever was killed: nothing is lost, and nothing given back twice.
  bool all_is_back() {
    if (child_ != 0) shm::ProcessTable::instance().mark_dead(child_, shm::kUnknownStatus);
    const bool heard = is_heard_of();
    receiver_.reset();
    shm::reap_all_dead();
    if (child_ != 0) shm::reap(child_);
    const std::size_t left = blocks() - before_;
    const auto refused = shm::Arena::instance().usage().refused_frees;
    if (left != 0 || refused != 0) std::fprintf(stderr, "%zu blocks are left\n", left);
    return heard && left == 0 && refused == 0;
  }

  static void report(const char* what, const stress::StepKillResult& r) {
    std::printf("%-28s instructions=%ld kills=%ld broken=%ld\n", what, r.instructions, r.kills,
                r.broken);
    EXPECT_EQ(r.broken, 0);
    EXPECT_GT(r.instructions, 10) << "the operation was not finished";
  }

  std::optional<Connection> receiver_;
  std::optional<Connection> sender_;
  shm::ProcessId child_ = 0;
  StartBlock* start_ = nullptr;
  std::size_t before_ = 0;
};

TEST_F(SpawnStepKill, AParentThatWasEncodingLeavesNothing) {
  Held* held = nullptr;
  child_ = 0;
  report("encode and place",
         stress::step_kill({.setup = [&] { begin(); },
                            .prepare = [&] { held = new Held; },
                            .operation =
                                [&] {
                                  SpawnMessage& message = encode(*held);
                                  (void)message.place(runtime::StartKind::process);
                                  message.hand_over();
                                },
                            .check = [&](long, bool) { return all_is_back(); },
                            .stride = stride()}));
}

TEST_F(SpawnStepKill, AParentThatGivesItToTheNextChildLeavesNothing) {
  SpawnMessage* message = nullptr;
  child_ = 0;
  // Up to where the former child is reaped, which the cases below look at.
  const auto r = stress::step_kill({.setup = [&] { begin(); },
                                    .prepare =
                                        [&] {
                                          message = &encode(Held());
                                          message->place(runtime::StartKind::served_process);
                                          shm::ProcessTable::instance().revoke(message->id());
                                        },
                                    .operation = [&] { message->readdress(); },
                                    .check = [&](long, bool) { return all_is_back(); },
                                    .stride = stride(),
                                    .longest = 10'000});
  EXPECT_EQ(r.broken, 0);
  EXPECT_GT(r.kills, 10);
}

TEST_F(SpawnStepKill, TheChildGivesItBack) {
  report("finish_message",
         stress::step_kill({.setup = [&] { place(); },
                            .prepare =
                                [&] {
                                  shm::ProcessTable::instance().adopt(child_);
                                  { const shared_array<int> first_use(10); }
                                },
                            .operation = [&] { runtime::finish_message(*start_); },
                            .check = [&](long, bool) { return all_is_back(); },
                            .stride = stride()}));
}

TEST_F(SpawnStepKill, AReaperGivesItBackAndTheNextOneGoesOn) {
  report("settle_message by a reaper",
         stress::step_kill({.setup =
                                [&] {
                                  place();
                                  shm::ProcessTable::instance().revoke(child_);
                                },
                            .prepare =
                                [&] {
                                  { const shared_array<int> first_use(10); }
                                  if (!shm::ProcessTable::instance().begin_reaping(child_))
                                    std::abort();
                                },
                            .operation = [&] { runtime::settle_message(*start_); },
                            .check = [&](long, bool) { return all_is_back(); },
                            .stride = stride()}));
}

}  // namespace
}  // namespace millrace
