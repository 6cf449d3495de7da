// Where processes and memory really lie, asked from the kernel. Meant for a machine with several
// memory nodes, which tests/numa/run emulates; on any other it says less.
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <map>
#include <millrace/affinity.hpp>
#include <millrace/arena.hpp>
#include <millrace/pool.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "shm/arena.hpp"
#include "shm/nodes.hpp"
#include "shm/parking.hpp"

namespace {

namespace mp = millrace;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSpan = std::size_t{2} << 20;

// The node of the page at an address, touched before; -1 when the kernel does not tell.
int node_of(const void* address) {
  int node = -1;
  const long rc =
      ::syscall(SYS_get_mempolicy, &node, nullptr, 0, address, MPOL_F_NODE | MPOL_F_ADDR);
  return rc == 0 ? node : -1;
}

int node_of_this_cpu() {
  unsigned cpu = 0;
  unsigned node = 0;
  ::syscall(SYS_getcpu, &cpu, &node, nullptr);
  return static_cast<int>(node);
}

// Pages of a block by node.
std::map<int, std::size_t> nodes_of(const void* block, std::size_t bytes) {
  std::map<int, std::size_t> pages;
  for (std::size_t at = 0; at < bytes; at += kPage) {
    ++pages[node_of(static_cast<const char*>(block) + at)];
  }
  return pages;
}

// What a worker sees of itself.
struct Sight {
  pid_t pid;
  int cpu_node;
  int private_node;  // of memory of its own
  int arena_node;    // of shared memory that it was the first to touch
};

Sight look_around() {
  Sight sight{::getpid(), node_of_this_cpu(), -1, -1};
  void* fresh =
      ::mmap(nullptr, 64 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(fresh, 1, 64 * kPage);
  const auto own = nodes_of(fresh, 64 * kPage);
  if (own.size() == 1) sight.private_node = own.begin()->first;
  ::munmap(fresh, 64 * kPage);
  mp::shared_array<char> shared(2 * kSpan);
  std::memset(shared.data(), 1, shared.size());
  const auto arena = nodes_of(shared.data(), shared.size());
  if (arena.size() == 1) sight.arena_node = arena.begin()->first;
  return sight;
}

// One look by each worker: none returns before all of them are at it.
std::vector<Sight> look_by_each(mp::Pool& pool, int workers) {
  mp::shared_array<int> arrived(1);
  return pool.map(
      [arrived, workers](int) {
        std::atomic_ref<int> count(arrived.data()[0]);
        count.fetch_add(1);
        while (count.load() < workers) ::sched_yield();
        return look_around();
      },
      std::vector<int>(static_cast<std::size_t>(workers)), 1);
}

// Ranges of the arena that the kernel was told to keep on one node, and where their pages are.
struct BoundRange {
  int node;
  std::set<int> pages_on;
};
std::vector<BoundRange> bound_ranges() {
  std::vector<BoundRange> ranges;
  std::ifstream maps("/proc/self/numa_maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string address;
    std::string policy;
    words >> address >> policy;
    const auto* start = reinterpret_cast<const void*>(std::stoull(address, nullptr, 16));
    const auto colon = policy.find(':');
    if (!mp::shm::Arena::instance().contains(start) || colon == std::string::npos) continue;
    if (policy.find_first_of(",-", colon) != std::string::npos) continue;
    BoundRange range{std::stoi(policy.substr(colon + 1)), {}};
    for (std::string word; words >> word;) {
      if (word[0] == 'N' && word.find('=') != std::string::npos) {
        range.pages_on.insert(std::stoi(word.substr(1)));
      }
    }
    ranges.push_back(range);
  }
  return ranges;
}

class Placement : public testing::TestWithParam<const char*> {
 protected:
  // As many workers as there are cpus, so that every node has some.
  const int cpus_ = static_cast<int>(mp::affinity::topology().allowed_cpus().size());
};

TEST_P(Placement, WorkersAndTheirMemoryLieOnTheirNodes) {
  mp::Pool pool({.processes = cpus_, .bind = GetParam()});
  std::map<pid_t, int> planned;
  for (const auto& worker : pool.bindings()) planned[worker.pid] = worker.node;
  std::set<int> nodes;
  const auto sights = look_by_each(pool, cpus_);
  std::set<pid_t> pids;
  for (const Sight& sight : sights) {
    pids.insert(sight.pid);
    const int node = planned.at(sight.pid);
    nodes.insert(node);
    EXPECT_EQ(sight.cpu_node, node);
    EXPECT_EQ(sight.private_node, node);
    EXPECT_EQ(sight.arena_node, node);
  }
  EXPECT_EQ(pids.size(), static_cast<std::size_t>(cpus_));
  EXPECT_EQ(nodes.size(), mp::shm::memory_nodes().size()) << "every node has workers";
}

// The rings through which a node's workers get their tasks.
TEST_P(Placement, RingsLieOnTheNodesOfTheirWorkers) {
  if (mp::shm::memory_nodes().size() < 2) return;  // nothing to be told to the kernel
  mp::Pool pool({.processes = cpus_, .bind = GetParam()});
  look_by_each(pool, cpus_);
  std::set<int> found;
  for (const BoundRange& range : bound_ranges()) {
    if (range.pages_on.empty()) continue;
    EXPECT_EQ(range.pages_on, std::set<int>{range.node});
    found.insert(range.node);
  }
  for (const auto& worker : pool.bindings()) {
    EXPECT_TRUE(found.contains(worker.node)) << "no ring on node " << worker.node;
  }
}

INSTANTIATE_TEST_SUITE_P(Bindings, Placement, testing::Values("numa", "core", "spread"));

TEST(SharedArray, LiesWhereItIsAskedToLie) {
  const std::vector<int>& nodes = mp::shm::memory_nodes();
  const std::size_t bytes = kSpan * nodes.size();
  for (const int node : nodes) {
    mp::shared_array<char> there(bytes, {.placement = mp::node(node)});
    std::memset(there.data(), 1, bytes);
    const auto pages = nodes_of(there.data(), bytes);
    EXPECT_EQ(pages, (std::map<int, std::size_t>{{node, bytes / kPage}}));
  }
  mp::shared_array<char> blocks(bytes, {.placement = mp::block});
  std::memset(blocks.data(), 1, bytes);
  for (std::size_t i = 0; i < nodes.size(); ++i) {  // parts begin within a page of these places
    EXPECT_EQ(node_of(blocks.data() + i * kSpan + kPage), nodes[i]);
    EXPECT_EQ(node_of(blocks.data() + (i + 1) * kSpan - kPage), nodes[i]);
  }
  mp::shared_array<char> mixed(bytes, {.placement = mp::interleave});
  std::memset(mixed.data(), 1, bytes);
  for (const auto& [node, pages] : nodes_of(mixed.data(), bytes)) {
    EXPECT_EQ(pages, bytes / kPage / nodes.size()) << "on node " << node;
  }
}

// Each node's workers run the chunks of their part of the range as long as there are any.
TEST(RangeJob, MostChunksRunOnTheNodeTheirPartBelongsTo) {
  const auto& nodes = mp::shm::memory_nodes();
  const int cpus = static_cast<int>(mp::affinity::topology().allowed_cpus().size());
  mp::Pool pool({.processes = cpus, .bind = "numa"});
  const std::size_t chunks = nodes.size() * 256;
  mp::shared_array<int> ran_on(chunks);
  pool.parallel_for(chunks,
                    [ran_on](std::uint64_t chunk) {
                      for (int spin = 0; spin < 5000; ++spin) mp::shm::cpu_relax();
                      ran_on.data()[chunk] = node_of_this_cpu();
                    },
                    {.chunksize = 1});
  std::size_t at_home = 0;
  for (std::size_t i = 0; i < chunks; ++i) at_home += ran_on[i] == nodes[i * nodes.size() / chunks];
  RecordProperty("at_home", static_cast<int>(at_home));
  EXPECT_GT(2 * at_home, chunks);
}

}  // namespace
