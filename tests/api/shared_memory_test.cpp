// SharedMemory and its tracker (H01-H07, H17-H20, C11).
// CPython: _TestSharedMemory, TestResourceTracker (its test_resource_tracker and _sigint, _sigterm,
// _sigkill here); more: ported_shared_test.cpp.
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <millrace/millrace.hpp>
#include <thread>

#include "tests/api/shared_memory_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

static_assert(mp::Serializable<mp::SharedMemory>);
static_assert(sizeof(mp::SharedMemory) == sizeof(void*));

class SharedMemoryTest : public NamedMemory {};

TEST_F(SharedMemoryTest, ANewSegmentIsZeroAndPrivateH01H02H03H04) {
  const mp::SharedMemory memory({.create = true, .size = 100});
  EXPECT_EQ(memory.size(), 100U);
  EXPECT_EQ(memory.name().size(), 12U);
  EXPECT_EQ(memory.name().substr(0, 4), "psm_");
  const auto bytes = memory.buf();
  EXPECT_EQ(bytes.size(), 100U);
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; }));
  struct stat file {};
  ASSERT_EQ(::stat(("/dev/shm/" + memory.name()).c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777U, 0600U);
  EXPECT_EQ(file.st_size, 100);
  EXPECT_EQ(memory.buf<double>().size(), 12U);
  EXPECT_EQ(memory.repr(), "SharedMemory('" + memory.name() + "', size=100)");
  memory.unlink();
}

TEST_F(SharedMemoryTest, ReprQuotesTheNameAsPythonH03) {
  const std::string name = own_name("o'hara");
  const mp::SharedMemory memory({.name = name, .create = true, .size = 3});
  memory.unlink();
  EXPECT_EQ(memory.repr(), "SharedMemory(\"" + name + "\", size=3)");
}

TEST_F(SharedMemoryTest, WrongArgumentsAreValueErrorsH01) {
  EXPECT_THROW(mp::SharedMemory({.create = true, .size = -1}), mp::ValueError);
  EXPECT_THROW(mp::SharedMemory({.name = "x", .size = -1}), mp::ValueError);
  EXPECT_THROW(mp::SharedMemory({.create = true}), mp::ValueError);
  EXPECT_THROW(mp::SharedMemory({.size = 5}), mp::ValueError);
}

TEST_F(SharedMemoryTest, ExistingAndMissingNamesAreNamedErrorsH01H06) {
  const std::string name = own_name("twice");
  const mp::SharedMemory memory({.name = name, .create = true, .size = 8});
  EXPECT_EQ(memory.name(), name);
  EXPECT_EQ(error_of([&] { mp::SharedMemory({.name = name, .create = true, .size = 8}); }, name),
            EEXIST);
  const std::string none = own_name("none");
  EXPECT_EQ(error_of([&] { mp::SharedMemory({.name = none}); }, none), ENOENT);
  memory.unlink();
  EXPECT_EQ(error_of([&] { memory.unlink(); }, name), ENOENT);
  EXPECT_EQ(error_of([] { mp::SharedMemory({.name = "a/b"}); }, "a/b"), EINVAL);
}

TEST_F(SharedMemoryTest, ANameThatMeansAnotherSegmentIsNotUnlinkedH06) {
  const std::string name = own_name("again");
  const mp::SharedMemory first({.name = name, .create = true, .size = 8});
  first.unlink();
  const mp::SharedMemory second({.name = name, .create = true, .size = 8});
  EXPECT_EQ(error_of([&] { first.unlink(); }, name), ENOENT);
  second.unlink();
}

TEST_F(SharedMemoryTest, OpeningIgnoresTheSizeAndSeesTheBytesH01) {
  const mp::SharedMemory memory({.create = true, .size = 4096});
  memory.buf<int>()[7] = 42;
  const mp::SharedMemory other({.name = memory.name(), .size = 10});
  EXPECT_EQ(other.size(), 4096U);
  EXPECT_EQ(other.buf<int>()[7], 42);
  other.buf<int>()[7] = 43;
  EXPECT_EQ(memory.buf<int>()[7], 43);
  EXPECT_FALSE(memory == other);
  memory.unlink();
}

TEST_F(SharedMemoryTest, CloseIsForAllCopiesHereAndIdempotentH05) {
  const mp::SharedMemory memory({.create = true, .size = 16});
  const mp::SharedMemory copy = memory;
  EXPECT_TRUE(copy == memory);
  copy.buf()[0] = std::byte{1};
  copy.close();
  copy.close();
  EXPECT_THROW((void)memory.buf(), mp::ValueError);
  EXPECT_EQ(memory.size(), 16U);
  EXPECT_EQ(mp::SharedMemory({.name = memory.name()}).buf()[0], std::byte{1});
  memory.unlink();
}

TEST_F(SharedMemoryTest, TheMemoryOutlivesItsNameH06) {
  const mp::SharedMemory memory({.create = true, .size = 16});
  memory.unlink();
  memory.buf()[3] = std::byte{9};
  EXPECT_EQ(memory.buf()[3], std::byte{9});
}

TEST_F(SharedMemoryTest, TheLastHandleUnmaps) {
  const auto mapped = [](const std::string& name) {
    std::ifstream maps("/proc/self/maps");
    const std::string text(std::istreambuf_iterator<char>(maps), {});
    const std::string inode = std::to_string([&] {
      struct stat file {};
      ::stat(("/dev/shm/" + name).c_str(), &file);
      return file.st_ino;
    }());
    return text.find(" " + inode + " ") != std::string::npos;
  };
  std::string name;
  {
    mp::SharedMemory memory({.create = true, .size = 16});
    name = memory.name();
    mp::SharedMemory moved(std::move(memory));
    memory = moved;
    moved = mp::SharedMemory({.name = name});
    EXPECT_TRUE(mapped(name));
  }
  EXPECT_FALSE(mapped(name));
  mp::SharedMemory({.name = name}).unlink();
}

TEST_F(SharedMemoryTest, HandlesTravelByArgumentCaptureAndResultH07) {
  const mp::SharedMemory memory({.create = true, .size = 64});
  const auto bump = [](const mp::SharedMemory& m, int by) { m.buf<int>()[0] += by; };
  mp::Process child(bump, memory, 5);
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  mp::Pool pool(2);
  pool.apply(bump, memory, 10);
  pool.apply([memory] { memory.buf<int>()[0] += 100; });
  EXPECT_EQ(memory.buf<int>()[0], 115);
  const auto made = pool.apply([] {
    const mp::SharedMemory inside({.create = true, .size = 8});
    inside.buf<int>()[1] = 77;
    return inside;
  });
  EXPECT_EQ(made.buf<int>()[1], 77);
  made.unlink();
  memory.unlink();
}

TEST_F(SharedMemoryTest, CloseInAChildIsTheChildsOwnH05) {
  const mp::SharedMemory memory({.create = true, .size = 8});
  mp::Process child([memory] { memory.close(); });
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  memory.buf()[0] = std::byte{1};
  memory.unlink();
}

TEST_F(SharedMemoryTest, AFullFolderIsAnErrorAndLeavesNothingH01) {
  struct statvfs folder {};
  ASSERT_EQ(::statvfs("/dev/shm", &folder), 0);
  ASSERT_GT(folder.f_blocks, 0U) << "/dev/shm without a limit: this would take all memory";
  const std::string name = own_name("much");
  const auto make = [&] {
    mp::SharedMemory({.name = name, .create = true, .size = std::int64_t{1} << 50});
  };
  EXPECT_EQ(error_of(make, name), ENOSPC);
  EXPECT_FALSE(exists(name));
}

TEST_F(SharedMemoryTest, AnEmptyFileIsNoSegmentH01) {
  const std::string name = own_name("empty");
  { const std::ofstream made("/dev/shm/" + name); }
  EXPECT_THROW(mp::SharedMemory({.name = name}), mp::ValueError);
  ::unlink(("/dev/shm/" + name).c_str());
}

TEST_F(SharedMemoryTest, CPythonOpensOursAndWeCPythonsH01) {
  const mp::SharedMemory ours({.create = true, .size = 10});
  const Outcome read = python(
      "from multiprocessing import shared_memory, resource_tracker\n"
      "s = shared_memory.SharedMemory('" +
      ours.name() +
      "')\n"
      "s.buf[:3] = b'abc'; print(s.size)\n"
      "resource_tracker.unregister(s._name, 'shared_memory'); s.close()\n");
  EXPECT_EQ(read.out, "10\n") << read.err;
  EXPECT_EQ(std::memcmp(ours.buf().data(), "abc", 3), 0);
  ours.unlink();
  const std::string name = own_name("theirs");
  const Outcome made = python(
      "from multiprocessing import shared_memory, resource_tracker\n"
      "s = shared_memory.SharedMemory('" +
      name +
      "', True, 5)\n"
      "s.buf[:5] = b'hello'; resource_tracker.unregister(s._name, 'shared_memory')\n");
  EXPECT_EQ(made.exitcode, 0) << made.err;
  const mp::SharedMemory theirs({.name = name});
  EXPECT_EQ(theirs.size(), 5U);
  EXPECT_EQ(std::memcmp(theirs.buf().data(), "hello", 5), 0);
  theirs.unlink();
}

TEST_F(SharedMemoryTest, TheTrackerUnlinksWithAWarningC11) {
  const std::string name = own_name("left");
  const Outcome left = program("leave", name);
  EXPECT_EQ(left.exitcode, 0);
  EXPECT_FALSE(exists(name));
  EXPECT_NE(left.err.find("resource_tracker: There appear to be 1 leaked shared_memory objects"),
            std::string::npos)
      << left.err;
  EXPECT_EQ(program("unlink", name).err, "");
}

TEST_F(SharedMemoryTest, AReadersEndAndUntrackedSegmentsLeaveTheNameC11) {
  const std::string name = own_name("kept");
  EXPECT_EQ(program("untracked", name).err, "");
  ASSERT_TRUE(exists(name));
  EXPECT_EQ(program("read", name).err, "");
  ASSERT_TRUE(exists(name));
  mp::SharedMemory({.name = name}).unlink();
}

TEST_F(SharedMemoryTest, WhatAChildMakesLivesAsLongAsTheProgramC11) {
  const std::string name = own_name("child");
  EXPECT_EQ(program("child", name).out, "1");
  EXPECT_FALSE(exists(name));
}

TEST_F(SharedMemoryTest, NothingIsLeftWhereverItsMakerIsKilledC11) {
  const std::string prefix = own_name("kill");
  for (int round = 0; round < 40; ++round) {
    const Outcome killed = program("kill", prefix, std::to_string(round * 50));
    ASSERT_EQ(killed.exitcode, -SIGKILL);
    // The streams are closed: the tracker, which holds stderr, has ended too.
    ASSERT_EQ(own_segments(), std::set<std::string>()) << "round " << round;
  }
}

TEST_F(SharedMemoryTest, AKilledTrackerIsReplacedAndForgetsNothingC11) {
  const std::string name = own_name("tracker");
  const Outcome all = program("tracker", name);
  EXPECT_EQ(all.exitcode, 0);
  EXPECT_NE(all.err.find("process died unexpectedly, relaunching"), std::string::npos) << all.err;
  EXPECT_NE(all.err.find("There appear to be 2 leaked"), std::string::npos) << all.err;
  EXPECT_FALSE(exists(name + "1") || exists(name + "2"));
}

TEST_F(SharedMemoryTest, WithoutSegmentsNoTrackerIsStartedC11) {
  EXPECT_EQ(program("none", "").out, "0");
}

TEST_F(SharedMemoryTest, AManagersSegmentsEndWithItH17H20) {
  mp::SharedMemoryManager manager;
  EXPECT_THROW((void)manager.SharedMemory(8), mp::ValueError);
  manager.start();
  EXPECT_THROW(manager.start(), mp::ProcessError);
  const mp::SharedMemory memory = manager.SharedMemory(64);
  const mp::ShareableList list = manager.ShareableList({1, "a"});
  const mp::ShareableList other = manager.ShareableList(std::vector<int>{1, 2});
  mp::Process child([] {});  // its copy of the manager unlinks nothing
  child.start();
  child.join();
  EXPECT_TRUE(exists(memory.name()) && exists(list.shm().name()) && exists(other.shm().name()));
  other.shm().unlink();
  manager.shutdown();
  EXPECT_FALSE(exists(memory.name()) || exists(list.shm().name()));
  EXPECT_THROW((void)manager.ShareableList({1}), mp::ValueError);
  EXPECT_THROW(manager.start(), mp::ProcessError);
}

}  // namespace
}  // namespace millrace::test
