// mp::dummy's manager: D12 and D19, what it makes for threads.
#include <cstdio>
#include <millrace/dummy.hpp>
#include <millrace/queues.hpp>
#include <mutex>
#include <optional>
#include <sstream>
#include <vector>

#include "tests/leak_check.hpp"

namespace {

namespace mp = millrace;
namespace dummy = millrace::dummy;

class DummyManager : public millrace::test::LeakCheck {};

TEST_F(DummyManager, ADictAndAListOfTheManagerAreSharedByThreads) {  // D12
  const dummy::Manager manager;
  const auto counts = manager.dict({{"seen", 0}});
  const auto order = manager.list({1, "a"});
  const auto lock = manager.Lock();
  std::vector<dummy::Process> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([counts, order, lock, t] {
      const std::scoped_lock guard(lock);
      counts["seen"] = counts["seen"].as<int>() + 1;
      counts[t] = mp::List{t, t * t};
      order.append(t);
    });
    threads.back().start();
  }
  for (auto& thread : threads) EXPECT_TRUE(thread.join());
  EXPECT_EQ(counts["seen"].as<int>(), 4);
  EXPECT_EQ(counts[3], (mp::List{3, 9}));
  EXPECT_EQ(order.size(), 6U);
  EXPECT_EQ(order[0].as<int>(), 1);
  EXPECT_THROW((void)counts["none"].as<int>(), mp::KeyError);
  EXPECT_THROW((void)order[9].as<int>(), mp::IndexError);
  EXPECT_EQ(manager.set({1, 1, 2}).size(), 2U);
  EXPECT_EQ(manager.list(std::vector<int>{1, 2}).getvalue(), (mp::List{1, 2}));
}

TEST_F(DummyManager, IteratorsOfItsDictsGoFromKeyToKey) {  // D12
  const dummy::Manager manager;
  const auto items = manager.dict({{"a", 1}, {"b", 2}});
  const auto keys = items.iter();
  EXPECT_EQ(keys.next(), mp::Object("a"));
  EXPECT_EQ(keys.next(), mp::Object("b"));
  EXPECT_EQ(keys.next(), std::nullopt);
  EXPECT_EQ(items.keys(), (mp::List{"a", "b"}));
}

TEST_F(DummyManager, ItsObjectsNestAndPrintAsPythons) {  // D12, D19
  const dummy::Manager manager;
  const auto inner = manager.list({1});
  const auto outer = manager.dict({{"inner", inner}});
  inner.append(2);
  std::ostringstream out;
  out << inner;
  EXPECT_EQ(out.str(), "[1, 2]");
  const dummy::Namespace ns{{"x", 10}, {"_hidden", 1}};
  ns["y"] = "hello";
  EXPECT_EQ(ns["x"].as<int>(), 10);
  EXPECT_EQ(ns.str(), "Namespace(x=10, y='hello')");
  EXPECT_THROW((void)ns["z"].as<int>(), mp::AttributeError);
  ns.erase("x");
  EXPECT_EQ(manager.Namespace({{"x", 10}}).str(), "Namespace(x=10)");
}

TEST_F(DummyManager, ItsObjectsStayInTheirProcess) {
  const auto items = dummy::Manager().list({1});
  const mp::Queue<> queue;
  EXPECT_THROW(queue.put(items), mp::TypeError);
  const auto child = millrace::test::run_program([items] {
    try {
      items.append(2);
    } catch (const mp::ForkedError& error) {
      std::printf("%s;", error.what());
    }
    try {
      mp::Queue<>().put(items);
    } catch (const mp::TypeError& error) {
      std::printf("%s;", error.what());
    }
    const auto own = dummy::Manager().list({1});
    own.append(2);
    std::printf("%s", own.str().c_str());
  });
  EXPECT_EQ(child.out,
            "an object of a dummy manager cannot be used in a forked child;"
            "the objects of a dummy manager stay in the process that made them;[1, 2]");
  EXPECT_EQ(child.exitcode, 0) << child.err;
  EXPECT_EQ(items.getvalue(), mp::List{1});
}

}  // namespace
