// A manager's server under many: objects that come and go, clients that come at once, entries of a
// dict. **beyond** Python.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <millrace/managers.hpp>
#include <millrace/process.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using ManagerCrowdTest = LeakCheck;

// MILLRACE_STRESS_OBJECTS=N asks for more objects than MILLRACE_STRESS does.
int objects_wanted() {
  const char* const wish = std::getenv("MILLRACE_STRESS_OBJECTS");
  if (wish != nullptr) return std::atoi(wish);
  const char* const much = std::getenv("MILLRACE_STRESS");
  return much != nullptr && std::string(much) == "full" ? 300'000 : 30'000;
}

// Memory of its own that a process has, in bytes.
std::size_t private_bytes(int pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoul(line.substr(8)) * 1024;
  }
  return 0;
}

void create_and_drop(const SyncManager& manager, int count) {
  for (int i = 0; i < count; ++i) {
    const ListProxy list = manager.list();
    if (i % 100 == 0) list.append(i);
  }
}

TEST_F(ManagerCrowdTest, TheServersMemoryIsAsItWasAfterManyObjects) {
  auto manager = Manager();
  ASSERT_EQ(active_children().size(), 1U);
  const int server = active_children()[0].pid().value();
  create_and_drop(manager, 2000);
  const std::size_t before = private_bytes(server);
  ASSERT_GT(before, 0U);
  const int count = objects_wanted();
  create_and_drop(manager, count);
  // However many there were: pages come by 2 MiB at once where they are huge. A leak of 280 bytes
  // an object is seen, one of 32 (the smallest allocation) with MILLRACE_STRESS=full.
  constexpr std::size_t kSlack = std::size_t{8} << 20U;
  EXPECT_LT(private_bytes(server), before + kSlack);
  EXPECT_EQ(manager.number_of_objects(), 0U);
}

TEST_F(ManagerCrowdTest, AMillionEntriesTakeAtMostTwiceWhatAHashMapDoes) {
  constexpr int kEntries = 1'000'000;
  auto manager = Manager();
  const int server = active_children()[0].pid().value();
  const auto taken = manager.Value('q', 0);
  // In a process of its own, whose memory nothing else has used before.
  Process mapper([taken] {
    const std::size_t before = private_bytes(::getpid());
    std::unordered_map<std::int64_t, std::int64_t> map;
    for (int i = 0; i < kEntries; ++i) map.emplace(i, i);
    taken.set(private_bytes(::getpid()) - before);
  });
  mapper.start();
  ASSERT_TRUE(mapper.join());
  ASSERT_EQ(mapper.exitcode(), 0);
  const auto by_map = taken.get<std::size_t>();
  ASSERT_GT(by_map, std::size_t{16} * kEntries) << "a key and a value";

  const auto dict = manager.dict();
  const std::size_t before = private_bytes(server);
  for (int from = 0; from < kEntries; from += 1000) {
    Dict some;
    for (int i = from; i < from + 1000; ++i) some.set(i, i);
    dict.update(some);
  }
  ASSERT_EQ(dict.size(), std::size_t{kEntries});
  const std::size_t by_dict = private_bytes(server) - before;
  EXPECT_GT(by_dict, std::size_t{16} * kEntries);
  EXPECT_LE(by_dict, 2 * by_map);
  RecordProperty("bytes_an_entry", std::to_string(by_dict / kEntries));
}

TEST_F(ManagerCrowdTest, TwoHundredClientsCallAtOnce) {
  constexpr int kClients = 200;
  auto manager = Manager();
  auto dict = manager.dict();
  auto ready = manager.Semaphore(0);
  auto go = manager.Event();
  std::vector<Process> clients;
  for (int number = 0; number < kClients; ++number) {
    clients.emplace_back([=] {
      ready.release();
      go.wait();
      for (int i = 0; i <= number % 7; ++i) dict[number] = i;
      if (dict.at(number).as<int>() != number % 7) throw ValueError("another's value");
    });
    clients.back().start();
  }
  for (int i = 0; i < kClients; ++i) ready.acquire();
  go.set();
  for (Process& each : clients) {
    each.join();
    EXPECT_EQ(each.exitcode(), 0);
    each.close();
  }
  EXPECT_EQ(dict.size(), static_cast<std::size_t>(kClients));
  for (int number = 0; number < kClients; ++number) {
    EXPECT_EQ(dict.at(number).as<int>(), number % 7);
  }
}

}  // namespace
}  // namespace millrace::test
