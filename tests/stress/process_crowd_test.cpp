// 200 processes at once, which all meet: none is lost, each has its own exit code, nothing is left.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/leak_check.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

namespace {

constexpr int kProcesses = 200;

void meet(int index, const mp::Barrier& all, const mp::Array<int>& ids) {
  ids[index] = mp::current_process().pid().value();
  all.wait(100s);
  throw mp::SystemExit(index % 50);
}

class ProcessCrowd : public mp::test::LeakCheck, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Methods, ProcessCrowd, testing::Values("fork", "spawn", "forkserver"),
                         [](const auto& made) { return std::string(made.param); });

TEST_P(ProcessCrowd, TwoHundredAtOnce) {
  {
    mp::Context& context = mp::get_context(GetParam());
    mp::Barrier all = context.Barrier(kProcesses + 1);
    mp::Array<int> ids = context.Array<int>(kProcesses);
    std::vector<mp::Process> crowd;
    for (int i = 0; i < kProcesses; ++i) {
      crowd.push_back(context.Process(meet, i, all, ids));
      crowd.back().start();
    }
    all.wait(100s);
    std::set<int> different;
    for (int i = 0; mp::Process& each : crowd) {
      EXPECT_EQ(ids[i++], each.pid());
      different.insert(*each.pid());
    }
    EXPECT_EQ(different.size(), std::size_t{kProcesses});
    for (int i = 0; mp::Process& each : crowd) {
      ASSERT_TRUE(each.join());
      EXPECT_EQ(each.exitcode(), i++ % 50);
    }
  }
  EXPECT_TRUE(mp::active_children().empty());
}

}  // namespace
