#include "sched/quota.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "sched/cpu_list.hpp"

namespace millrace::sched {
namespace {

namespace fs = std::filesystem;

// A tree of files that looks like /proc and /sys/fs/cgroup.
class QuotaTest : public testing::Test {
 protected:
  QuotaTest() : root_(testing::TempDir() + "millrace_quota_" + std::to_string(getpid())) {}
  ~QuotaTest() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void mount_v1(const std::string& root = "/") {
    write("/proc/self/mountinfo",
          "30 23 0:26 " + root +
              " /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct\n"
              "31 23 0:27 / /sys/fs/cgroup/cpuset rw,nosuid shared:12 - cgroup cgroup rw,cpuset\n");
  }
  void mount_v2(const std::string& root = "/", const std::string& point = "/sys/fs/cgroup") {
    write("/proc/self/mountinfo",
          "29 23 0:25 / / rw - ext4 /dev/sda rw\n"
          "30 23 0:26 " +
              root + " " + point + " rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  std::string root_;
};

TEST_F(QuotaTest, NothingWithoutCgroups) {
  EXPECT_FALSE(cpu_quota(root_));
  mount_v1();
  EXPECT_FALSE(cpu_quota(root_));
}

TEST_F(QuotaTest, Version1QuotaOverPeriod) {
  mount_v1();
  write("/proc/self/cgroup", "4:cpuset:/\n3:cpu,cpuacct:/job\n0::/other\n");
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu_quota(root_), 1.5);
}

TEST_F(QuotaTest, Version1MinusOneIsUnlimited) {
  mount_v1();
  write("/proc/self/cgroup", "3:cpu,cpuacct:/job\n");
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(cpu_quota(root_));
}

TEST_F(QuotaTest, TheSmallestOfAllAncestorsCounts) {
  mount_v2();
  write("/proc/self/cgroup", "0::/slice/job/step\n");
  write("/sys/fs/cgroup/slice/cpu.max", "50000 100000\n");
  write("/sys/fs/cgroup/slice/job/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/slice/job/step/cpu.max", "400000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 0.5);
}

TEST_F(QuotaTest, Version2MaxIsUnlimited) {
  mount_v2();
  write("/proc/self/cgroup", "0::/job\n");
  write("/sys/fs/cgroup/job/cpu.max", "max 100000\n");
  EXPECT_FALSE(cpu_quota(root_));
}

TEST_F(QuotaTest, AContainersMountShowsPartOfTheHierarchy) {
  mount_v2("/docker/0123");
  write("/proc/self/cgroup", "0::/docker/0123/inner\n");
  write("/sys/fs/cgroup/cpu.max", "300000 100000\n");
  write("/sys/fs/cgroup/inner/cpu.max", "250000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 2.5);
  write("/proc/self/cgroup", "0::/../elsewhere\n");
  EXPECT_EQ(cpu_quota(root_), 3.0) << "what cannot be seen is passed over";
}

TEST_F(QuotaTest, MountPointsMayHaveBlanks) {
  mount_v2("/", "/my\\040cgroups");
  write("/proc/self/cgroup", "0::/\n");
  write("/my cgroups/cpu.max", "200000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 2.0);
}

TEST_F(QuotaTest, DamagedFilesAreNoQuota) {
  mount_v2();
  write("/proc/self/cgroup", "0::/job\nrubbish\n0:x\n");
  for (const char* text : {"", "x y", "100", "100000 0", "0 100000", "-5 100000", "1e999x 3"}) {
    write("/sys/fs/cgroup/job/cpu.max", text);
    EXPECT_FALSE(cpu_quota(root_)) << text;
  }
}

TEST(CpuCount, UsableCpusAreAmongTheSystems) {
  EXPECT_GE(cpu_count(), 1);
  EXPECT_GE(usable_cpu_count(), 1);
  EXPECT_LE(usable_cpu_count(), static_cast<int>(process_affinity().size()));
}

}  // namespace
}  // namespace millrace::sched
