// The joblog of a map: a later run goes on where one ended. Beyond Python.
#include <algorithm>
#include <filesystem>
#include <millrace/arena.hpp>
#include <millrace/pool.hpp>
#include <string>
#include <system_error>

#include "tests/api/pool_fixture.hpp"

namespace {

namespace mp = millrace;
using millrace::test::add;
using millrace::test::apply_here;
using millrace::test::Countdown;
using millrace::test::Gate;
using millrace::test::numbers;

class PoolJoblog : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolJoblog);

/// A path in the temporary folder that is removed afterwards.
class TemporaryFile {
 public:
  TemporaryFile()
      : path_(std::filesystem::temp_directory_path() / ("pool-" + std::to_string(::getpid()))) {
    std::filesystem::remove(path_);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

// beyond: what a log holds is not run again
TEST_P(PoolJoblog, AJoblogResumesWhereARunEnded) {
  const TemporaryFile file;
  mp::Pool pool(workers());
  const Gate runs;
  const auto count = [runs](int x) {
    runs.arrive();
    if (x == 7 && runs.arrived() <= 20) throw mp::KeyError("seven");
    return std::to_string(x);
  };
  const auto expected = apply_here([](int x) { return std::to_string(x); }, numbers(20));
  EXPECT_THROW(pool.map(count, numbers(20), {.chunksize = 1, .joblog = file.path()}), mp::KeyError);
  EXPECT_EQ(runs.arrived(), 20);
  runs.arrive();
  EXPECT_EQ(pool.map(count, numbers(20), {.chunksize = 1, .joblog = file.path(), .resume = true}),
            expected);
  EXPECT_EQ(runs.arrived(), 22);
  EXPECT_EQ(pool.map(count, numbers(20), {.chunksize = 1, .joblog = file.path(), .resume = true}),
            expected);
  EXPECT_EQ(runs.arrived(), 22);
  EXPECT_THROW(
      pool.map(count, numbers(21), {.chunksize = 1, .joblog = file.path(), .resume = true}),
      mp::ValueError);
  std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) - 3);
  EXPECT_EQ(pool.map(count, numbers(20), {.chunksize = 1, .joblog = file.path(), .resume = true}),
            expected);
  EXPECT_EQ(runs.arrived(), 23);  // the torn record's item
  EXPECT_EQ(pool.map(count, numbers(20), {.chunksize = 1, .joblog = file.path()}), expected);
  EXPECT_EQ(runs.arrived(), 43);
  EXPECT_THROW(pool.map(count, numbers(2), {.joblog = "/nonexistent/log"}), std::system_error);
}

TEST_P(PoolJoblog, AJoblogWorksWithEveryKindOfMap) {
  mp::Pool pool(workers());
  const Gate runs;
  const auto count = [runs](int x) {
    runs.arrive();
    return 2 * x;
  };
  for (int round = 0; round < 2; ++round) {
    const TemporaryFile file;
    const auto twice = [&](auto call) {
      runs.word(1).store(0);
      const auto first = call(mp::MapOptions{.chunksize = 3, .joblog = file.path()});
      const int ran = runs.arrived();
      EXPECT_EQ(ran, 10);
      const auto again =
          call(mp::MapOptions{.chunksize = 3, .joblog = file.path(), .resume = true});
      EXPECT_EQ(first, again);
      EXPECT_EQ(runs.arrived(), ran);
    };
    twice([&](const mp::MapOptions& o) { return pool.map(count, numbers(10), o); });
    twice([&](const mp::MapOptions& o) { return pool.reduce(count, add, 0, numbers(10), o); });
    twice([&](const mp::MapOptions& o) {
      std::vector<int> all;
      for (const int x : pool.imap(count, Countdown(10), o)) all.push_back(x);
      return all;
    });
    const auto in = numbers(10);
    twice([&](const mp::MapOptions& o) {
      std::vector<int> out(10);
      pool.map_into(count, in, out, o);
      return out;
    });
    const mp::shared_array<int> shared(10);
    std::ranges::copy(in, shared.begin());
    twice([&](const mp::MapOptions& o) {
      const mp::shared_array<int> out(10);
      pool.map_into(count, shared, out, o);
      return std::vector<int>(out.begin(), out.end());
    });
  }
}

}  // namespace
