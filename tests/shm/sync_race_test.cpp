// Threads on the words of locks and their kin, in memory of the heap: what they guard is plain, so
// that ThreadSanitizer sees every edge that is missing. The same code runs between processes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "shm/barrier.hpp"
#include "shm/caller.hpp"
#include "shm/event_word.hpp"
#include "shm/lock_word.hpp"
#include "shm/permits.hpp"
#include "shm/semaphore_word.hpp"
#include "shm/shared_lock.hpp"
#include "shm/waiter_list.hpp"
#include "tests/shm/aligned_memory.hpp"

namespace millrace::shm {
namespace {

constexpr int kThreads = 4;
constexpr int kTurns = 3000;
constexpr auto kNever = Timeout::Clock::time_point::max();

bool alive(ProcessId) { return false; }

// A T in zeroed memory of the heap, with `more` bytes behind it.
template <class T>
class OnHeap {
 public:
  explicit OnHeap(std::size_t more = 0) : memory_(sizeof(T) + more) {
    std::memset(memory_.get(), 0, memory_.size());
  }
  T& operator*() const { return *reinterpret_cast<T*>(memory_.get()); }
  T* operator->() const { return &**this; }

 private:
  AlignedMemory memory_;
};

void run_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

WaitPolicy patient() {
  WaitPolicy policy;
  policy.slice = std::chrono::milliseconds(20);
  return policy;
}

TEST(SyncRaces, LockWordGuardsPlainMemory) {
  const OnHeap<LockWord> lock;
  const ProcessId me = self();
  long turns = 0;
  run_threads(kThreads, [&](int thread) {
    for (int i = 0; i < kTurns; ++i) {
      const bool quick = thread % 2 == 0 ? lock->try_quickly(me) : lock->try_take(me);
      if (!quick) {
        Pace pace(kNever, Interrupts::ignored);
        ASSERT_TRUE(lock->take(me, alive, pace).taken);
      }
      ++turns;
      ASSERT_TRUE(lock->give());
    }
  });
  EXPECT_EQ(turns, long{kThreads} * kTurns);
  EXPECT_EQ(lock->owner(), 0U);
}

TEST(SyncRaces, SharedLockGuardsPlainMemoryAndIsTheThreadsOwn) {
  const OnHeap<SharedLock> lock;
  lock->make_recursive();
  long turns = 0;
  run_threads(kThreads, [&](int) {
    const Caller& me = this_caller();
    for (int i = 0; i < kTurns; ++i) {
      ASSERT_TRUE(lock->try_quickly(me) || lock->acquire(me, {}).got == Got::yes);
      ASSERT_EQ(lock->try_acquire(me).got, Got::yes);
      ++turns;
      ASSERT_EQ(lock->count(), 2U);
      ASSERT_EQ(lock->release(me), SharedLock::Released::yes);
      ASSERT_EQ(lock->release(me), SharedLock::Released::yes);
      ASSERT_EQ(lock->release(me), SharedLock::Released::not_owner);
    }
  });
  EXPECT_EQ(turns, long{kThreads} * kTurns);
}

TEST(SyncRaces, SemaphoreHandsOnWhatWasDoneBefore) {
  const OnHeap<SemaphoreWord> items;
  std::array<int, kTurns> box{};
  run_threads(2, [&](int thread) {
    for (int i = 0; i < kTurns; ++i) {
      int& item = box[static_cast<std::size_t>(i)];
      if (thread == 0) {
        item = i;
        ASSERT_TRUE(i % 2 == 0 ? items->give() : items->give_quickly() || items->give());
        continue;
      }
      Pace pace(kNever, Interrupts::ignored);
      ASSERT_TRUE(items->try_quickly() || items->take(pace));
      ASSERT_EQ(item, i);
    }
  });
  EXPECT_EQ(items->count(), 0U);
}

TEST(SyncRaces, SemaphoreLetsInNoMoreThanItHasPermits) {
  const OnHeap<SemaphoreWord> sem;
  sem->start_with(2);
  std::atomic<int> inside{0};
  run_threads(kThreads, [&](int) {
    for (int i = 0; i < kTurns; ++i) {
      Pace pace(kNever, Interrupts::ignored);
      ASSERT_TRUE(sem->try_take() || sem->take(pace));
      ASSERT_LE(inside.fetch_add(1) + 1, 2);
      inside.fetch_sub(1);
      ASSERT_TRUE(sem->give());
    }
  });
  EXPECT_EQ(sem->count(), 2U);
}

class PermitRaces : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Bounds, PermitRaces, ::testing::Values(1, 2, 3),
                         [](const auto& bound) { return "Bound" + std::to_string(bound.param); });

TEST_P(PermitRaces, LetInNoMoreThanThereAre) {
  const auto bound = static_cast<std::uint32_t>(GetParam());
  const OnHeap<Permits> permits(bound * sizeof(Permits::Word));
  permits->start_with(bound);
  std::atomic<int> inside{0};
  long turns = 0;  // guarded where there is one permit
  run_threads(kThreads, [&](int thread) {
    const auto me = static_cast<ProcessId>(thread + 1);
    for (int i = 0; i < kTurns; ++i) {
      Pace pace(kNever, Interrupts::ignored);
      ASSERT_TRUE(permits->try_quickly(me) || permits->try_take(me) ||
                  permits->take(me, alive, pace));
      ASSERT_LE(inside.fetch_add(1, std::memory_order_relaxed) + 1, GetParam());
      if (bound == 1) ++turns;
      inside.fetch_sub(1, std::memory_order_relaxed);
      ASSERT_TRUE(permits->give(me));
    }
  });
  EXPECT_EQ(permits->count(), bound);
  EXPECT_EQ(turns, bound == 1 ? long{kThreads} * kTurns : 0);
}

// More threads than words that are used from the first have room for: these grow as they race.
TEST(SyncRaces, PermitsOfALargeBoundAreCountedAsTheyAreUsed) {
  constexpr std::uint32_t kFew = 2;  // are left of those that are used from the first
  constexpr std::uint32_t kBound = Permits::kUsedAtOnce + 1;
  for (int round = 0; round < 300; ++round) {
    const OnHeap<Permits> permits(kBound * sizeof(Permits::Word));
    permits->start_with(kBound);
    for (std::uint32_t i = kFew; i < Permits::kUsedAtOnce; ++i) ASSERT_TRUE(permits->try_take(9));
    std::atomic<int> inside{0};
    run_threads(kThreads, [&](int thread) {
      const auto me = static_cast<ProcessId>(thread + 1);
      for (int i = 0; i < kTurns / 20; ++i) {
        Pace pace(kNever, Interrupts::ignored);
        ASSERT_TRUE(permits->try_quickly(me) || permits->try_take(me) ||
                    permits->take(me, alive, pace));
        ASSERT_LE(inside.fetch_add(1, std::memory_order_relaxed) + 1, int{kFew} + 1);
        inside.fetch_sub(1, std::memory_order_relaxed);
        ASSERT_TRUE(permits->give(me));
      }
    });
    EXPECT_EQ(permits->count(), kFew + 1);
  }
}

TEST(SyncRaces, EventHandsOnWhatWasDoneBefore) {
  constexpr int kRounds = 200;
  const OnHeap<EventWord> events(kRounds * sizeof(EventWord));
  std::array<int, kRounds> box{};
  run_threads(kThreads, [&](int thread) {
    for (int i = 0; i < kRounds; ++i) {
      EventWord& event = (&*events)[i];
      int& item = box[static_cast<std::size_t>(i)];
      if (thread == 0) {
        item = i;
        event.set();
      } else {
        ASSERT_TRUE(event.wait(patient(), kNever));
        ASSERT_EQ(item, i);
      }
    }
  });
}

TEST(SyncRaces, BarrierHandsEverybodyWhatAllHaveDone) {
  constexpr int kRounds = 300;
  const OnHeap<Barrier> barrier(Barrier::bytes_for(kThreads) - sizeof(Barrier));
  barrier->start_with(kThreads);
  std::array<int, kThreads> cells{};
  std::array<std::atomic<int>, kThreads> places{};
  run_threads(kThreads, [&](int thread) {
    const Barrier::Visit visit{self(), patient()};
    for (int i = 1; i <= kRounds; ++i) {
      cells[static_cast<std::size_t>(thread)] = i;
      const std::int64_t place = barrier->wait(visit);
      ASSERT_GE(place, 0);
      places[static_cast<std::size_t>(place)].fetch_add(1, std::memory_order_relaxed);
      for (const int cell : cells) ASSERT_EQ(cell, i);
      ASSERT_GE(barrier->wait(visit), 0);
    }
  });
  for (const auto& place : places) EXPECT_EQ(place.load(), kRounds);
  EXPECT_EQ(barrier->waiting(), 0U);
}

TEST(SyncRaces, BarrierWhoseActionRunsAlone) {
  constexpr int kRounds = 200;
  const OnHeap<Barrier> barrier(Barrier::bytes_for(kThreads) - sizeof(Barrier));
  barrier->start_with(kThreads);
  int count = 0;  // changed by the action, read by all
  run_threads(kThreads, [&](int) {
    Barrier::Visit visit{self(), patient()};
    visit.act = [](void* n) { ++*static_cast<int*>(n); };
    visit.argument = &count;
    for (int i = 1; i <= kRounds; ++i) {
      ASSERT_GE(barrier->wait(visit), 0);
      ASSERT_EQ(count, i);
      visit.act = nullptr;  // the next one only divides the rounds
      ASSERT_GE(barrier->wait(visit), 0);
      visit.act = [](void* n) { ++*static_cast<int*>(n); };
    }
  });
  EXPECT_EQ(count, kRounds);
}

TEST(SyncRaces, BarrierThatIsAbortedAndResetLetsEverybodyGo) {
  constexpr int kRounds = 200;
  const OnHeap<Barrier> barrier(Barrier::bytes_for(kThreads) - sizeof(Barrier));
  barrier->start_with(kThreads);
  std::atomic<int> left{kThreads - 1};
  run_threads(kThreads, [&](int thread) {
    if (thread == 0) {  // the last party never comes
      while (left.load() != 0) {
        barrier->abort();
        barrier->reset();
        std::this_thread::yield();
      }
      return;
    }
    const Barrier::Visit visit{self(), patient()};
    for (int i = 0; i < kRounds; ++i) ASSERT_EQ(barrier->wait(visit), -1);
    left.fetch_sub(1);
  });
  EXPECT_EQ(barrier->waiting(), 0U);
  EXPECT_FALSE(barrier->broken());
}

// A condition's use of its list: the lock guards `items`, each notification is for one item.
TEST(SyncRaces, WaitersAreEachNotifiedOnce) {
  constexpr int kEach = 800;
  const OnHeap<SharedLock> lock;
  const OnHeap<WaiterList> list;
  int items = 0;
  int taken = 0;
  const auto consume = [&](const Caller& me) {
    ASSERT_EQ(lock->acquire(me, {}).got, Got::yes);
    while (items == 0) {
      WaiterList::Slot& slot = list->enter(me.id);
      lock->free();
      ASSERT_TRUE(slot.wait(patient(), kNever));
      ASSERT_EQ(lock->acquire(me, {}).got, Got::yes);
      slot.leave();
    }
    --items;
    ++taken;
    lock->free();
  };
  const auto produce = [&](const Caller& me) {
    ASSERT_EQ(lock->acquire(me, {}).got, Got::yes);
    ++items;
    list->notify(1);
    lock->free();
  };
  run_threads(kThreads, [&](int thread) {
    for (int i = 0; i < kEach; ++i)
      thread % 2 == 0 ? produce(this_caller()) : consume(this_caller());
  });
  EXPECT_EQ(items, 0);
  EXPECT_EQ(taken, kEach * kThreads / 2);
  EXPECT_EQ(list->waiting(), 0U);
}

}  // namespace
}  // namespace millrace::shm
