// Clients of a manager that are killed inside calls, at random, many at once: the server goes on,
// nothing stays locked, and what they had is given back. **beyond** Python.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <millrace/managers.hpp>
#include <millrace/process.hpp>
#include <millrace/queues.hpp>
#include <random>
#include <string>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

int kills() {
  const char* const much = std::getenv("MILLRACE_STRESS");
  return much != nullptr && std::string(much) == "full" ? 1000 : 100;
}

using ManagerKillTest = LeakCheck;

constexpr int kAtOnce = 4;

// Clients that run `work`, each until it is killed: when that is is left to chance.
template <class Work>
void kill_clients(const SyncManager& manager, std::mt19937& random, const Work& work) {
  std::vector<Process> clients;
  for (int i = 0; i < kAtOnce; ++i) {
    auto begun = manager.Event();
    clients.emplace_back([&work, begun] { work(begun); });
    clients.back().start();
    begun.wait();
  }
  std::uniform_int_distribution<useconds_t> delay(0, 4000);
  ::usleep(delay(random));
  for (Process& each : clients) each.kill();
  for (Process& each : clients) {
    each.join();
    each.close();
  }
}

// Until it is killed: every kind of call, with its own objects and with shared ones.
void torment(const AcquirerProxy& lock, const QueueProxy& queue, const DictProxy& dict,
             const EventProxy& begun, const BaseManager& manager) {
  begun.set();
  for (int i = 0;; ++i) {
    try {
      const std::scoped_lock guard(lock);
      dict["last"] = i;
    } catch (const AbandonedLock&) {
      continue;
    }
    queue.put(i);
    static_cast<void>(queue.get());
    const auto own = manager.create<ListProxy>("list");
    own.append(i);
  }
}

// Each of those killed may have got the lock in turn, the later ones before the server saw them
// gone.
void acquire_after_the_dead(const AcquirerProxy& lock) {
  for (;;) {
    try {
      return lock.acquire();
    } catch (const AbandonedLock&) {
      continue;
    }
  }
}

TEST_F(ManagerKillTest, TheServerOutlivesClientsThatAreKilledInsideCalls) {
  auto manager = Manager();
  auto lock = manager.Lock();
  auto queue = manager.Queue();
  auto dict = manager.dict();
  std::mt19937 random(20);
  const int rounds = kills() / kAtOnce;
  for (int round = 0; round < rounds; ++round) {
    kill_clients(manager, random,
                 [&](const EventProxy& begun) { torment(lock, queue, dict, begun, manager); });
    acquire_after_the_dead(lock);
    lock.release();
    while (!queue.empty()) static_cast<void>(queue.get_nowait());
  }
  // Connections of the dead may still be on their way out of the server.
  while (manager.number_of_objects() > 3) ::usleep(1000);
  EXPECT_EQ(manager.number_of_objects(), 3U);
  EXPECT_TRUE(dict.contains("last"));
}

// An item whose maker has died names an object that may be gone.
void take_one(const Queue<ListProxy>& items) {
  try {
    if (const auto taken = items.try_get()) taken->append(1);
  } catch (const RemoteError&) {
    return;
  }
}

// Until it is killed: makes objects, sends them off and takes what comes, its own or another's.
void send_and_take(const Queue<ListProxy>& items, const EventProxy& begun,
                   const BaseManager& manager) {
  begun.set();
  for (;;) {
    items.put(manager.create<ListProxy>("list"));
    take_one(items);
    if (items.qsize() > 8) take_one(items);
  }
}

TEST_F(ManagerKillTest, WhatWasOnItsWayIsGivenBackWhenItsMakersAreKilled) {
  auto manager = Manager();
  std::mt19937 random(21);
  const int rounds = kills() / kAtOnce;
  for (int round = 0; round < rounds; ++round) {
    const Queue<ListProxy> items;
    kill_clients(manager, random,
                 [&](const EventProxy& begun) { send_and_take(items, begun, manager); });
    take_one(items);
  }
  // Connections of the dead may still be on their way out of the server.
  while (manager.number_of_objects() > 0) ::usleep(1000);
  EXPECT_EQ(manager.number_of_objects(), 0U);
  const ListProxy list = manager.list({1});
  EXPECT_EQ(list.size(), 1U);
}

}  // namespace
}  // namespace millrace::test
