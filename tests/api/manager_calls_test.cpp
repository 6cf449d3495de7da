// Calls of one server by many at once, whichever way they take: **beyond** Python.
#include <atomic>
#include <millrace/managers.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using ManagerCallsTest = LeakCheck;

// Writes and reads its own key; whatever it reads was its own.
void keep_a_key(const DictProxy& dict, int key, int calls) {
  for (int i = 0; i < calls; ++i) {
    dict[key] = i;
    EXPECT_EQ(dict.at(key).as<int>(), i);
  }
}

// Short ones go through shared memory, long ones over the socket.
TEST_F(ManagerCallsTest, ValuesOfAnySizeComeBackAsTheyWere) {
  auto manager = Manager();
  auto dict = manager.dict();
  for (const std::size_t size : {0U, 1U, 100U, 3900U, 4000U, 4050U, 4096U, 5000U, 300'000U}) {
    for (int again = 0; again < 3; ++again) {
      const std::string text(size, static_cast<char>('a' + again));
      dict["value"] = text;
      EXPECT_EQ(dict.at("value").as<std::string>(), text);
      EXPECT_EQ(dict.size(), 1U);
    }
  }
}

TEST_F(ManagerCallsTest, ThreadsOfAClientCallAtOnce) {
  auto manager = Manager();
  auto dict = manager.dict();
  std::vector<std::thread> threads;
  for (int key = 0; key < 8; ++key) {
    threads.emplace_back([&, key] { keep_a_key(dict, key, 30); });
  }
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(dict.size(), 8U);
}

TEST_F(ManagerCallsTest, ForkedChildrenCallBesideTheirParent) {
  auto manager = Manager();
  auto dict = manager.dict();
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over.load()) keep_a_key(dict, -1, 1);
  });
  for (int round = 0; round < 3; ++round) {
    keep_a_key(dict, 0, 20);
    Process child([dict] {
      for (int i = 0; i < 30; ++i) {
        dict[1] = i;
        if (dict.at(1).as<int>() != i) throw ValueError("another's value");
      }
    });
    child.start();
    keep_a_key(dict, 0, 30);
    child.join();
    EXPECT_EQ(child.exitcode(), 0);
  }
  over.store(true);
  other.join();
  EXPECT_EQ(dict.size(), 3U);
}

// Each error belongs to its own call.
TEST_F(ManagerCallsTest, ErrorsLeaveTheConnectionAsItWas) {
  auto manager = Manager();
  auto dict = manager.dict();
  dict["here"] = 1;
  for (int i = 0; i < 100; ++i) {
    EXPECT_THROW(static_cast<void>(dict.at("not here").as<int>()), KeyError);
    EXPECT_EQ(dict.at("here").as<int>(), 1);
  }
}

}  // namespace
}  // namespace millrace::test
