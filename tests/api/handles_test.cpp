// Handles travel: as an argument and in a capture, to a Process and to a Pool, under each start
// method (S36, H07; beyond Python, which restricts most of them to inheritance).
#include <chrono>
#include <millrace/pool.hpp>
#include <millrace/shared_memory.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <mutex>

#include "tests/api/spawn_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

class Handles : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, Handles, ::testing::Values("fork", "spawn", "forkserver"),
                         method_name);

// Uses the handle in four other processes; `check(n)` says whether n uses have left their mark.
template <class Handle, class Use, class Check>
void expect_travels(const Handle& handle, Use use, Check check) {
  EXPECT_EQ(run_spawned(use, handle), 0);
  EXPECT_TRUE(check(1)) << "argument";
  EXPECT_EQ(run_spawned([handle] { Use()(handle); }), 0);
  EXPECT_TRUE(check(2)) << "capture";
  mp::Pool pool({.processes = 1, .context = &spawn()});
  pool.apply(use, handle);
  EXPECT_TRUE(check(3)) << "argument of a task";
  pool.apply([handle] { Use()(handle); });
  EXPECT_TRUE(check(4)) << "capture of a task";
  pool.close();
  pool.join();
}

TEST_P(Handles, LocksTravelS36) {
  const mp::Lock lock;
  lock.acquire();
  expect_travels(
      lock, [](const mp::Lock& l) { l.release(); }, [&](int) { return lock.try_acquire(); });
  const mp::RLock rlock;
  expect_travels(
      rlock, [](const mp::RLock& l) { const std::scoped_lock twice(l, l); },
      [&](int) { return !rlock.locked(); });
}

TEST_P(Handles, SemaphoresTravelS36) {
  const mp::Semaphore semaphore(0);
  expect_travels(
      semaphore, [](const mp::Semaphore& s) { s.release(); },
      [&](int n) { return semaphore.get_value() == n; });
  const mp::BoundedSemaphore bounded(4);
  for (int i = 0; i < 4; ++i) bounded.acquire();
  expect_travels(
      bounded, [](const mp::BoundedSemaphore& s) { s.release(); },
      [&](int n) { return bounded.get_value() == n; });
}

TEST_P(Handles, ConditionsEventsAndBarriersTravelS36) {
  const mp::Condition condition;
  expect_travels(
      condition,
      [](const mp::Condition& c) {
        const std::scoped_lock held(c);
        c.notify_all();
      },
      [&](int) { return condition.try_acquire() && (condition.release(), true); });
  const mp::Event event;
  expect_travels(
      event, [](const mp::Event& e) { e.set(); },
      [&](int) { return event.is_set() && (event.clear(), true); });
  const mp::Barrier barrier(1);
  expect_travels(
      barrier, [](const mp::Barrier& b) { b.wait(); }, [&](int) { return !barrier.broken(); });
}

TEST_P(Handles, ValuesAndArraysTravel) {
  const mp::Value<double> value(0.5);
  expect_travels(
      value, [](const mp::Value<double>& v) { v.update([](double& x) { x += 1; }); },
      [&](int n) { return value.get() == 0.5 + n; });
  const mp::Array<int> array({7, 0});
  expect_travels(
      array, [](const mp::Array<int>& a) { a[1] += 1; },
      [&](int n) { return array[0] == 7 && array[1] == n; });
  const mp::RawValue<int> raw(0);
  expect_travels(
      raw, [](const mp::RawValue<int>& v) { v.set(v.get() + 1); },
      [&](int n) { return raw.get() == n; });
  const mp::RawArray<int> raws(3);
  expect_travels(
      raws, [](const mp::RawArray<int>& a) { a[2] += 1; }, [&](int n) { return raws[2] == n; });
}

TEST_P(Handles, SegmentsTravelH07) {
  const mp::SharedMemory memory({.create = true, .size = 64});
  expect_travels(
      memory, [](const mp::SharedMemory& m) { m.buf<int>()[3] += 1; },
      [&](int n) { return memory.buf<int>()[3] == n; });
  memory.unlink();
  const mp::ShareableList list({0, "text"});
  expect_travels(
      list, [](const mp::ShareableList& l) { l[0] = l[0].as<int>() + 1; },
      [&](int n) { return list[0] == n; });
  list.shm().unlink();
}

TEST_P(Handles, AnObjectLivesAsLongAsTheChildThatGotIt) {
  const mp::Event go;
  const mp::Semaphore right(0);
  std::optional<mp::Value<int>> value(5);
  auto child = spawn().Process(
      [](const mp::Value<int>& mine, const mp::Event& event, const mp::Semaphore& done) {
        event.wait();
        if (mine.get() == 5) done.release();
      },
      *value, go, right);
  child.start();
  value.reset();
  const mp::Value<int> other(6);  // takes the place, if it is free
  go.set();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  EXPECT_EQ(right.get_value(), 1);
  child.close();
}

}  // namespace
}  // namespace millrace::test
