// PoolOptions::trace: the timeline that a pool writes, read back by Python's json.
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <millrace/pool.hpp>
#include <millrace/thread_pool.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using millrace::test::Gate;
using millrace::test::numbers;
using millrace::test::PoolTest;
using millrace::test::square;

// For each job in turn: its kind, and whether its slices cover items 0 to n - 1 once each; then the
// numbers of tracks, of events of each instant kind, and of those dropped.
constexpr const char* kReader = R"(
import collections, json, sys
doc = json.load(open(sys.argv[1]))
jobs = collections.defaultdict(list)
instants = collections.Counter()
tracks = set()
for e in doc["traceEvents"]:
    if e["ph"] == "M":
        tracks.add(e["tid"])
        assert "pid" in e["args"]["name"], e
    elif e["ph"] == "X":
        assert e["tid"] in tracks and e["ts"] >= 0 and e["dur"] >= 0, e
        assert e["args"]["pid"] > 0 and e["args"]["cpu"] >= 0, e
        jobs[e["args"]["job"]].append((e["args"]["first"], e["args"]["last"], e["name"]))
    elif e["ph"] == "i":
        instants[e["name"]] += 1
for job in sorted(jobs):
    slices = sorted(jobs[job])
    at = 0
    for first, last, name in slices:
        if first != at:
            break
        at = last + 1
    else:
        print(name.split()[0], at, len(slices), end="; ")
        continue
    print(name.split()[0], "gap at", at, end="; ")
told = [f"{k}: {v}" for k, v in sorted(instants.items())]
print(len(tracks), "tracks, ", end="")
print(*told, sep=", ", end="; ")
print(doc["otherData"]["dropped_events"], "dropped")
)";

class TraceTest : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    path_ = "/tmp/millrace-trace-" + std::to_string(::getpid()) + ".json";
    script_ = path_ + ".py";
    std::ofstream(script_) << kReader;
  }
  void TearDown() override {
    ::unlink(path_.c_str());
    ::unlink(script_.c_str());
    PoolTest::TearDown();
  }
  [[nodiscard]] std::string read() const {
    std::FILE* pipe = ::popen(("python3 " + script_ + " " + path_ + " 2>&1").c_str(), "r");
    std::string text;
    std::array<char, 4096> part;
    while (const std::size_t got = std::fread(part.data(), 1, part.size(), pipe)) {
      text.append(part.data(), got);
    }
    EXPECT_EQ(::pclose(pipe), 0) << text;
    if (!text.empty()) text.pop_back();
    return text;
  }

  std::string path_;
  std::string script_;
};

TEST_F(TraceTest, SlicesCoverEachItemOnce) {
  mp::Pool pool({.processes = 2, .trace = path_});
  (void)pool.map(square, numbers(1000), {.chunksize = 100});
  (void)pool.map([](const std::string& text) { return text; }, std::vector<std::string>(30, "x"),
                 {.chunksize = 10});
  pool.parallel_for(1000, [](std::size_t) {}, {.chunksize = 10});
  for (const int x : pool.imap(square, numbers(20), {.chunksize = 5})) EXPECT_GE(x, 0);
  (void)pool.reduce(square, std::plus<>(), 0, numbers(40), {.chunksize = 20});
  (void)pool.apply(square, 3);
  pool.close();
  pool.join();
  EXPECT_EQ(read(),
            "map 1000 10; map 30 3; parallel_for 1000 100; imap 20 4; reduce 40 2; apply 1 1; 2 "
            "tracks, worker started: 2; 0 dropped");
}

TEST_F(TraceTest, LossesAndReplacementsAreEvents) {
  {
    mp::Pool pool({.processes = 2, .trace = path_});
    EXPECT_THROW(pool.map(
                     [](int x) {
                       if (x == 7) ::_exit(3);
                     },
                     numbers(10), 1),
                 mp::WorkerLost);
    // Both stand again when both are in a task at one time.
    const Gate gate;
    auto both = pool.map_async([gate](int) { gate.pass(); }, numbers(2), 1);
    gate.await(2);
    gate.open();
    both.get();
  }  // ~Pool terminates, and writes too
  EXPECT_EQ(read(),
            "map gap at 7; map 2 2; 2 tracks, worker lost: 1, worker replaced: 1, worker started: "
            "2; 0 dropped");
}

TEST_F(TraceTest, WhatDoesNotFitIsCounted) {
  mp::Pool pool({.processes = 1, .trace = path_});
  pool.parallel_for(70'000, [](std::size_t) {}, {.chunksize = 1});
  pool.close();
  pool.join();
  // 65536 events a worker, one of which tells that it started.
  EXPECT_EQ(read(), "parallel_for 65535 65535; 1 tracks, worker started: 1; 4465 dropped");
}

TEST_F(TraceTest, APoolOfThreadsWritesOneToo) {
  mp::ThreadPool pool({.processes = 2, .trace = path_});
  (void)pool.map(square, numbers(1000), {.chunksize = 100});
  (void)pool.apply(square, 3);
  for (const int x : pool.imap(square, numbers(20), {.chunksize = 5})) EXPECT_GE(x, 0);
  pool.close();
  pool.join();
  EXPECT_EQ(read(), "map 1000 10; apply 1 1; imap 20 4; 2 tracks, ; 0 dropped");
}

TEST_F(TraceTest, ABadPathIsAnErrorAtOnce) {
  EXPECT_THROW(mp::Pool({.processes = 1, .trace = "/nonexistent/run.json"}), std::system_error);
  EXPECT_THROW(mp::ThreadPool({.processes = 1, .trace = "/nonexistent/run.json"}),
               std::system_error);
}

}  // namespace
