// The arena's memory under a process that dies at every instruction of one operation.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <millrace/arena.hpp>
#include <optional>
#include <vector>

#include "shm/arena.hpp"
#include "shm/lane.hpp"
#include "shm/object.hpp"
#include "shm/process_heap.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace {
namespace {

using shm::Arena;
using shm::ArenaUsage;
using stress::step_kill;
using stress::StepKillCase;
using stress::StepKillResult;

// What every victim leaves must be free after its death was noticed, whatever it was doing.
class MemoryStepKill : public ::testing::Test {
 protected:
  void SetUp() override {
    { const shared_array<int> warm(kElements); }
    shm::deallocate(shm::allocate(kSmall));
    (void)shm::self();
    before_ = Arena::instance().usage();
  }

  // The victim's preparations: an id, and each path walked once, so that what is stepped through is
  // the operation and not its first use.
  static void be_known() { (void)shm::self(); }

  [[nodiscard]] bool all_is_free() const {
    shm::reap_all_dead();
    const ArenaUsage now = Arena::instance().usage();
    const bool same = now.small_blocks == before_.small_blocks &&
                      now.span_bytes - now.slab_bytes == before_.span_bytes - before_.slab_bytes &&
                      now.refused_frees == before_.refused_frees;
    if (!same) {
      std::fprintf(stderr, "blocks %zu, was %zu; span bytes %zu, was %zu; refused %llu\n",
                   now.small_blocks, before_.small_blocks, now.span_bytes - now.slab_bytes,
                   before_.span_bytes - before_.slab_bytes,
                   static_cast<unsigned long long>(now.refused_frees));
    }
    return same;
  }

  static void report(const char* what, const StepKillResult& r) {
    std::printf("%-28s instructions=%ld kills=%ld broken=%ld\n", what, r.instructions, r.kills,
                r.broken);
    EXPECT_EQ(r.broken, 0);
    EXPECT_GT(r.kills, 10);
    EXPECT_GT(r.instructions, 10) << "the operation was not finished";
  }

  static constexpr std::size_t kSmall = 100;
  static constexpr std::size_t kElements = 700000;  // two spans
  static inline std::optional<shared_array<int>>* victims_ = nullptr;
  ArenaUsage before_;
};

TEST_F(MemoryStepKill, SmallBlockAllocateAndFree) {
  report("small allocate + free",
         step_kill({.prepare =
                        [] {
                          be_known();
                          shm::deallocate(shm::allocate(kSmall));
                        },
                    .operation = [] { shm::deallocate(shm::allocate(kSmall)); },
                    .frozen =
                        [](long) {
                          shm::deallocate(shm::allocate(kSmall));
                          return true;
                        },
                    .check = [&](long, bool) { return all_is_free(); }}));
}

TEST_F(MemoryStepKill, SpanAllocateAndFree) {
  report("two spans allocate + free",
         step_kill({.prepare =
                        [] {
                          be_known();
                          shm::deallocate(shm::allocate(2 * shm::kSpanBytes));
                        },
                    .operation = [] { shm::deallocate(shm::allocate(2 * shm::kSpanBytes)); },
                    .frozen =
                        [](long) {
                          shm::deallocate(shm::allocate(2 * shm::kSpanBytes));
                          return true;
                        },
                    .check = [&](long, bool) { return all_is_free(); }}));
}

TEST_F(MemoryStepKill, FreeingSpansOfAnotherProcess) {
  void* block = nullptr;
  report("free another's spans",
         step_kill({.setup = [&] { block = shm::allocate(2 * shm::kSpanBytes); },
                    .prepare = be_known,
                    .operation = [&] { shm::deallocate(block); },
                    .check =
                        [&](long, bool) {
                          shm::reap_all_dead();
                          // Either nothing has happened, or the victim had taken it to free it.
                          Arena& arena = Arena::instance();
                          const auto w = arena.spans().word(arena.spans().index_of(block));
                          if (w.state == shm::SpanState::kLive) shm::deallocate(block);
                          return all_is_free();
                        }}));
}

TEST_F(MemoryStepKill, GivingASmallBlockAway) {
  struct Out {
    void* block;
  };
  auto* out = static_cast<Out*>(shm::allocate(sizeof(Out)));
  report("give", step_kill({.setup = [&] { out->block = nullptr; },
                            .prepare =
                                [&] {
                                  be_known();
                                  out->block = shm::allocate(kSmall);
                                },
                            .operation = [&] { Arena::instance().give(out->block, shm::kNobody); },
                            .check =
                                [&](long, bool) {
                                  shm::reap_all_dead();
                                  Arena& arena = Arena::instance();
                                  if (arena.slabs().size_of(out->block) != 0) {
                                    shm::deallocate(out->block);
                                  }
                                  shm::deallocate(out);
                                  const bool ok = all_is_free();
                                  out = static_cast<Out*>(shm::allocate(sizeof(Out)));
                                  return ok;
                                }}));
  shm::deallocate(out);
}

TEST_F(MemoryStepKill, MakingASlab) {
  // A class that nothing else uses: its first slab is made in the victim, and is one that others
  // can use or no slab at all.
  std::size_t size = 24 * shm::kKiB;
  report("make a slab", step_kill({.prepare = be_known,
                                   .operation = [&] { shm::deallocate(shm::allocate(size)); },
                                   .check =
                                       [&](long, bool) {
                                         shm::reap_all_dead();
                                         shm::deallocate(shm::allocate(size));
                                         return all_is_free();
                                       },
                                   .stride = 7}));
}

TEST_F(MemoryStepKill, LaneAllocateAndRelease) {
  shm::Lane* lane = shm::Lane::create(4096);
  before_ = Arena::instance().usage();
  void* others = nullptr;
  report("lane allocate + release",
         step_kill({.setup =
                        [&] {
                          others = lane->try_allocate(100);
                          std::memset(others, 0x77, 100);
                        },
                    .prepare = be_known,
                    .operation =
                        [&] {
                          void* m = lane->try_allocate(40);
                          void* wrapped = lane->try_allocate(1500);
                          shm::Lane::release(m);
                          shm::Lane::release(wrapped);
                        },
                    .check =
                        [&](long, bool) {
                          lane->sweep([&](void* m) { return m == others; });
                          if (lane->messages_in_use() != 1) return false;
                          const auto* bytes = static_cast<const unsigned char*>(others);
                          for (int i = 0; i < 100; ++i) {
                            if (bytes[i] != 0x77) return false;
                          }
                          if (!shm::Lane::release(others)) return false;
                          void* all = lane->try_allocate(lane->largest_message());
                          return all != nullptr && shm::Lane::release(all) && all_is_free();
                        }}));
  shm::Lane::destroy(lane);
}

TEST_F(MemoryStepKill, HandleCopyAndDrop) {
  std::optional<shared_array<int>> array;
  report("handle copy + drop",
         step_kill({.setup = [&] { array.emplace(kElements); },
                    .prepare = be_known,
                    .operation = [&] { const shared_array<int> copy = *array; },  // NOLINT
                    .frozen = [&](long) { return shared_array<int>(*array).size() == kElements; },
                    .check =
                        [&](long, bool) {
                          shm::reap_all_dead();
                          if ((*array)[kElements - 1] != 0) return false;
                          array.reset();
                          return all_is_free();
                        }}));
}

TEST_F(MemoryStepKill, LastHandleDropped) {
  std::optional<shared_array<int>> array;
  report("last handle dropped",
         step_kill({.setup = [&] { array.emplace(kElements); },
                    .prepare = be_known,
                    .operation = [&] { array.reset(); },
                    .frozen =
                        [&](long) {
                          array.reset();  // now the victim's is the last one, or is gone
                          return true;
                        },
                    .check = [&](long, bool) { return all_is_free(); }}));
}

TEST_F(MemoryStepKill, DroppedByTheVictimAlone) {
  // The parent's own reference is gone before the victim starts, so the victim frees the array.
  auto* cell = static_cast<std::byte*>(shm::allocate(sizeof(shared_array<int>)));
  auto* handle = reinterpret_cast<shared_array<int>*>(cell);
  before_ = Arena::instance().usage();
  report("array freed by the victim",
         step_kill({.setup = [&] { ::new (cell) shared_array<int>(kElements); },
                    .prepare =
                        [&] {
                          be_known();
                          static std::optional<shared_array<int>> mine;  // of the victim
                          mine.emplace(std::move(*handle));
                          std::destroy_at(handle);
                          victims_ = &mine;
                        },
                    .operation = [&] { victims_->reset(); },
                    .check = [&](long, bool) { return all_is_free(); },
                    .stride = 3}));
  shm::deallocate(cell);
}

TEST_F(MemoryStepKill, ArrayMade) {
  // A small one: clearing memory is stepped through byte by byte.
  report("array made and dropped", step_kill({.prepare =
                                                  [] {
                                                    be_known();
                                                    const shared_array<int> warm(4);
                                                  },
                                              .operation = [] { const shared_array<int> x(4); },
                                              .check = [&](long, bool) { return all_is_free(); },
                                              .stride = 3}));
}

// Leaves the remains of a process that had a bit of everything.
class ReaperStepKill : public MemoryStepKill {
 protected:
  void make_remains() {
    dead_ = shm::ProcessTable::instance().reserve();
    const pid_t child = ::fork();
    if (child == 0) {
      shm::ProcessTable::instance().adopt(dead_);
      static const shared_array<int> array(kElements);
      (void)shm::allocate(kSmall);
      (void)shm::allocate(2 * shm::kSpanBytes);
      ::_exit(0);
    }
    int status = 0;
    if (::waitpid(child, &status, 0) != child) std::abort();
    shm::ProcessTable::instance().mark_dead(dead_, status);
  }

  shm::ProcessId dead_ = 0;
};

TEST_F(ReaperStepKill, DiesWhileItDropsReferences) {
  report("reaper: references", step_kill({.setup = [&] { make_remains(); },
                                          .prepare = be_known,
                                          .operation =
                                              [&] {
                                                shm::ProcessTable::instance().begin_reaping(dead_);
                                                shm::drop_references(dead_);
                                              },
                                          .check = [&](long, bool) { return all_is_free(); },
                                          .stride = 5}));
}

TEST_F(ReaperStepKill, DiesWhileItSweepsSpans) {
  report("reaper: spans", step_kill({.setup = [&] { make_remains(); },
                                     .prepare =
                                         [&] {
                                           be_known();
                                           shm::ProcessTable::instance().begin_reaping(dead_);
                                           shm::drop_references(dead_);
                                         },
                                     .operation = [&] { Arena::instance().spans().sweep(dead_); },
                                     .check = [&](long, bool) { return all_is_free(); },
                                     .stride = 5}));
}

TEST_F(MemoryStepKill, ContainerHeap) {
  // Killed inside its heap, the victim leaves one that others never use; what it did not hand out
  // is at most frozen. Nobody else is harmed and the arena's own memory stays in order.
  shared_allocator<char> bytes;
  char* mine = bytes.allocate(100);
  std::memset(mine, 0x31, 100);
  const StepKillResult r =
      step_kill({.prepare =
                     [&] {
                       be_known();
                       bytes.deallocate(bytes.allocate(200), 200);
                     },
                 .operation = [&] { bytes.deallocate(bytes.allocate(300), 300); },
                 .frozen =
                     [&](long) {
                       bytes.deallocate(bytes.allocate(300), 300);
                       return true;
                     },
                 .check =
                     [&](long, bool) {
                       shm::reap_all_dead();
                       char* p = bytes.allocate(300);
                       std::memset(p, 1, 300);
                       bytes.deallocate(p, 300);
                       for (int i = 0; i < 100; ++i) {
                         if (mine[i] != 0x31) return false;
                       }
                       return Arena::instance().usage().refused_frees == before_.refused_frees;
                     },
                 .stride = 2});
  report("container heap", r);
  bytes.deallocate(mine, 100);
}

TEST_F(MemoryStepKill, ReturningABlockToAnothersHeap) {
  shared_allocator<char> bytes;
  char* block = nullptr;
  bytes.deallocate(bytes.allocate(100), 100);
  before_ = Arena::instance().usage();
  report("return a block", step_kill({.setup = [&] { block = bytes.allocate(100); },
                                      .prepare = be_known,
                                      .operation = [&] { bytes.deallocate(block, 100); },
                                      .frozen =
                                          [&](long) {
                                            bytes.deallocate(bytes.allocate(50), 50);
                                            return true;
                                          },
                                      .check = [&](long, bool) { return all_is_free(); }}));
}

TEST_F(MemoryStepKill, Enrolment) {
  report("enrolment", step_kill({.operation = [] { (void)shm::self(); },
                                 .check =
                                     [&](long, bool) {
                                       shm::reap_all_dead();
                                       auto& table = shm::ProcessTable::instance();
                                       std::size_t used = 0;
                                       for (std::size_t i = 0; i < table.high(); ++i) {
                                         used += table.in_use(i);
                                       }
                                       return used == 1;
                                     },
                                 .stride = 7}));
}

TEST_F(MemoryStepKill, DeathIsCountedByWhoeverLooks) {
  shm::ProcessId dead = 0;
  std::uint64_t deaths = 0;
  report("mark_dead",
         step_kill({.setup =
                        [&] {
                          auto& table = shm::ProcessTable::instance();
                          dead = table.reserve();
                          deaths = table.deaths().load();
                        },
                    .prepare = be_known,
                    .operation = [&] { shm::ProcessTable::instance().mark_dead(dead, 9); },
                    .frozen =
                        [&](long) {
                          auto& table = shm::ProcessTable::instance();
                          return !table.is_dead(dead) || table.deaths().load() > deaths;
                        },
                    .check =
                        [&](long, bool) {
                          shm::reap(dead);
                          return shm::ProcessTable::instance().deaths().load() > deaths &&
                                 all_is_free();
                        }}));
}

}  // namespace
}  // namespace millrace
