// Proxies that leave their process while a server is being asked, or that nobody else has. X05,
// X07.
#include <gtest/gtest.h>

#include <millrace/managers.hpp>
#include <millrace/process.hpp>
#include <millrace/queues.hpp>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using ManagerParcel = LeakCheck;

// What makes an object may hold proxies of the same server: their parcels ask it meanwhile.
TEST_F(ManagerParcel, ArgumentsOfCreateHoldProxiesX05) {
  auto manager = Manager();
  const auto event = manager.Event();
  const auto list = manager.list({1});
  const auto barrier = manager.Barrier(1, [event, list] {
    event.set();
    list.append(2);
  });
  barrier.wait();
  EXPECT_TRUE(event.is_set());
  EXPECT_EQ(list.size(), 2U);
  EXPECT_EQ(manager.number_of_objects(), 3U);
}

// The process that hands it on has no other proxy of the manager, and lives on.
TEST_F(ManagerParcel, ItemsKeepTheirObjectWhileTheirMakerLivesX07) {
  const Queue<ListProxy> in;
  const Queue<ListProxy> out;
  const Queue<int> said;
  const Queue<int> heard;
  auto process = Process([in, out, said, heard] {
    {
      const ListProxy item = in.get();
      out.put(item);
    }
    said.put(1);
    heard.get();
  });
  process.start();  // before there is a manager that it could inherit
  auto manager = Manager();
  in.put(manager.list({7}));
  said.get();
  for (int i = 0; i < 200; ++i) ASSERT_EQ(manager.number_of_objects(), 1U);
  EXPECT_EQ(out.get().at(0), 7);
  heard.put(1);
  process.join();
}

}  // namespace
}  // namespace millrace::test
