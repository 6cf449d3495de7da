// Arenas under limits, in processes of their own: no test here makes one in this process.
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <millrace/errors.hpp>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "shm/arena.hpp"
#include "shm/arena_file.hpp"
#include "shm/arena_header.hpp"
#include "shm/memory_limits.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::shm {
namespace {

using test::in_child;

void limit(int resource, rlim_t bytes) {
  const rlimit to{bytes, bytes};
  if (::setrlimit(static_cast<__rlimit_resource>(resource), &to) != 0) std::abort();
}

TEST(ArenaSize, ReadsNumbersWithUnits) {
  EXPECT_EQ(requested_arena_bytes(nullptr), kArenaDefault);
  EXPECT_EQ(requested_arena_bytes(""), kArenaDefault);
  EXPECT_EQ(requested_arena_bytes("64M"), 64 * kMiB);
  EXPECT_EQ(requested_arena_bytes("2g"), 2 * kGiB);
  EXPECT_EQ(requested_arena_bytes("65536K"), 64 * kMiB);
  EXPECT_EQ(requested_arena_bytes("67108864"), 64 * kMiB);
  EXPECT_EQ(requested_arena_bytes("33M"), 32 * kMiB) << "whole spans";
  EXPECT_EQ(requested_arena_bytes("256G"), 256 * kGiB);
}

TEST(ArenaSize, NamesTheTextThatIsNoSize) {
  for (const char* text : {"x", "-1", "12Q", "1 G", "1GG", "G", "0", "1M", "999999T", " 1G",
                           "99999999999999999999", "18446744073709551615T"}) {
    try {
      (void)requested_arena_bytes(text);
      ADD_FAILURE() << text;
    } catch (const ValueError& e) {
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("MILLRACE_ARENA_SIZE"), std::string::npos) << e.what();
    }
  }
}

TEST(ArenaSize, IsWhatTheEnvironmentAsksFor) {
  EXPECT_EQ(in_child([] {
              ::setenv("MILLRACE_ARENA_SIZE", "48M", 1);
              return Arena::instance().size() == 48 * kMiB ? 0 : 1;
            }),
            0);
  EXPECT_EQ(in_child([] {
              ::setenv("MILLRACE_ARENA_SIZE", "many", 1);
              try {
                Arena::instance();
              } catch (const ValueError&) {
                return Arena::exists() ? 1 : 0;
              }
              return 2;
            }),
            0);
}

TEST(ArenaSize, SmallArenaIsUsedUpWithANamedError) {
  EXPECT_EQ(in_child([] {
              ::setenv("MILLRACE_ARENA_SIZE", "64M", 1);
              std::vector<void*> blocks;
              try {
                for (int i = 0; i < 1000; ++i) blocks.push_back(allocate(kSpanBytes));
              } catch (const std::system_error& e) {
                if (std::strstr(e.what(), "64 MiB") == nullptr) return 1;
                for (void* p : blocks) deallocate(p);
                return blocks.size() > 20 && allocate(10 * kSpanBytes) != nullptr ? 0 : 2;
              }
              return 3;
            }),
            0);
}

TEST(ArenaSize, ExhaustionFreesWhatDeadProcessesOwned) {
  EXPECT_EQ(in_child([] {
              ::setenv("MILLRACE_ARENA_SIZE", "64M", 1);
              deallocate(allocate(100));
              const int code = in_child([] {
                for (int i = 0; i < 12; ++i) (void)allocate(kSpanBytes);
                return 0;
              });
              return code == 0 && allocate(20 * kSpanBytes) != nullptr ? 0 : 1;
            }),
            0);
}

TEST(ArenaLimits, FileSizeLimitHalvesAndNeverKills) {
  EXPECT_EQ(in_child([] {
              limit(RLIMIT_FSIZE, kGiB + 5);
              Arena& arena = Arena::instance();
              if (arena.size() > kGiB || arena.size() < kGiB / 2) return 1;
              std::memset(arena.allocate(10 * kMiB), 1, 10 * kMiB);
              return 0;
            }),
            0);
  EXPECT_EQ(in_child([] {
              limit(RLIMIT_FSIZE, 4096);
              try {
                Arena::instance();
              } catch (const std::system_error& e) {
                return e.code().value() == ENOMEM ? 0 : 1;
              }
              return 2;
            }),
            0);
}

#if !MILLRACE_TEST_ASAN && !MILLRACE_TEST_TSAN
TEST(ArenaLimits, AddressSpaceLimitLeavesTheProgramHalf) {
  EXPECT_EQ(in_child([] {
              limit(RLIMIT_AS, 4 * kGiB);
              const std::size_t size = Arena::instance().size();
              if (size > 2 * kGiB || size < kGiB) return 1;
              std::vector<char> own(kGiB);
              return static_cast<int>(own[5]);
            }),
            0);
}
#endif

TEST(ArenaLimits, OccupiedAddressIsNamed) {
  EXPECT_EQ(in_child([] {
              void* there = ::mmap(reinterpret_cast<void*>(kArenaBase), kPageBytes, PROT_READ,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
              if (there == MAP_FAILED) return 1;
              try {
                Arena::instance();
              } catch (const std::system_error& e) {
                return e.code().value() == EEXIST &&
                               std::strstr(e.what(), MILLRACE_TEST_TSAN ? "1000000000"
                                                                        : "200000000000") != nullptr
                           ? 0
                           : 2;
              }
              return 3;
            }),
            0);
}

TEST(ArenaAttach, TakesOverTheDescriptorOfAnotherProgram) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  EXPECT_EQ(in_child([] {
              // Stands for an exec'ed child: the mapping is gone, the descriptor is there.
              ::setenv("MILLRACE_ARENA_SIZE", "64M", 1);
              const ArenaFile file = make_arena_file();
              auto* header = reinterpret_cast<ArenaHeader*>(kArenaBase);
              header->version = kArenaVersion;
              header->header_bytes = sizeof(ArenaHeader);
              header->size = file.size;
              header->root.word[ArenaRoot::kUser] = 4711;
              header->magic = kArenaMagic;
              ::munmap(header, file.size);
              ::fcntl(file.fd, F_SETFD, 0);
              Arena& arena = Arena::attach(file.fd);
              if (&arena != &Arena::instance() || arena.fd() != file.fd) return 1;
              if (arena.root().word[ArenaRoot::kUser] != 4711) return 2;
              if ((::fcntl(file.fd, F_GETFD) & FD_CLOEXEC) == 0) return 3;
              try {
                Arena::attach(file.fd);
              } catch (const AssertionError&) {
                return allocate(100) != nullptr ? 0 : 4;
              }
              return 5;
            }),
            0);
}

TEST(ArenaAttach, RefusesWhatIsNoArena) {
  EXPECT_EQ(in_child([] {
              const int sealed = ::memfd_create("x", MFD_ALLOW_SEALING);
              (void)!::ftruncate(sealed, static_cast<off_t>(64 * kMiB));
              ::fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
              const int unsealed = ::memfd_create("x", MFD_ALLOW_SEALING);
              (void)!::ftruncate(unsealed, static_cast<off_t>(64 * kMiB));
              const int folder = ::open("/", O_RDONLY);
              const int device = ::open("/dev/zero", O_RDWR);
              int refused = 0;
              for (const int fd : {sealed, unsealed, folder, device}) {
                try {
                  Arena::attach(fd);
                } catch (const Corrupt&) {
                  ++refused;
                }
              }
              try {
                Arena::attach(12345);
              } catch (const std::system_error&) {
                ++refused;
              }
              return Arena::exists() ? 99 : refused;
            }),
            5);
}

TEST(ArenaAttach, RefusesAnotherVersion) {
  EXPECT_EQ(in_child([] {
              const ArenaFile file = make_arena_file();
              auto* header = reinterpret_cast<ArenaHeader*>(kArenaBase);
              header->version = kArenaVersion + 1;
              header->header_bytes = sizeof(ArenaHeader);
              header->size = file.size;
              header->magic = kArenaMagic;
              try {
                Arena::instance();  // finds an arena in the way and joins it
              } catch (const ProcessError& e) {
                return std::strstr(e.what(), "version") != nullptr ? 0 : 1;
              }
              return 2;
            }),
            0);
}

TEST(ArenaJoin, SecondCopyOfTheLibraryUsesTheSameArena) {
  EXPECT_EQ(in_child([] {
              const ArenaFile first = make_arena_file();
              const ArenaFile second = make_arena_file();
              return second.joined && !first.joined && second.size == first.size &&
                             second.fd == first.fd
                         ? 0
                         : 1;
            }),
            0);
}

TEST(ArenaDamage, GivesNoWildAccessInTheAllocator) {
  EXPECT_EQ(in_child([] {
              ::setenv("MILLRACE_ARENA_SIZE", "128M", 1);
              Arena& arena = Arena::instance();
              auto* words = reinterpret_cast<std::atomic<std::uint64_t>*>(
                  arena.base() + ArenaTables::of(arena.size()).words);
              std::mt19937_64 random(7);
              std::vector<void*> blocks;
              int refused = 0;
              for (int i = 0; i < 5000; ++i) {
                const std::size_t first = arena.spans().first();
                words[first + random() % (64 - first)] =
                    random() % 2 == 0 ? random() : random() % 8 + (random() % 64 << 30U);
                arena.header().counters.hint = random();
                arena.header().counters.high = random();
                arena.header().slab_hints[random() % kSizeClasses] =
                    static_cast<std::uint32_t>(random());
                try {
                  blocks.push_back(arena.allocate(random() % 2 == 0 ? 100 : kSpanBytes * 2));
                } catch (const std::exception&) {
                  ++refused;
                }
                if (i % 2 == 0 && !blocks.empty()) {
                  arena.deallocate(blocks.back());
                  blocks.pop_back();
                }
                arena.sweep(static_cast<ProcessId>(1 + random() % 100));
                (void)arena.usage();
                if (i % 50 == 0) {
                  for (std::size_t k = first; k < 64; ++k) words[k] = 0;
                  blocks.clear();
                }
              }
              return refused < 5000 ? 0 : 1;
            }),
            0);
}

#if !MILLRACE_TEST_TSAN  // whose own shadow memory fills the core
TEST(ArenaCore, CoreFileOfACrashIsSmall) {
  namespace fs = std::filesystem;
  char folder[] = "/tmp/millrace-core-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  std::ifstream pattern_file("/proc/sys/kernel/core_pattern");
  std::string pattern;
  std::getline(pattern_file, pattern);
  const int code = in_child([&] {
    if (::chdir(folder) != 0) return 1;
    limit(RLIMIT_CORE, 64 * kMiB);
    std::memset(allocate(256 * kMiB), 1, 256 * kMiB);
    ::signal(SIGABRT, SIG_DFL);
    std::abort();
  });
  EXPECT_EQ(code, -SIGABRT);
  // Where the system writes core files elsewhere there is nothing to look at but the exit.
  if (!pattern.empty() && pattern[0] != '|' && pattern[0] != '/') {
    std::uintmax_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder)) bytes += entry.file_size();
    EXPECT_LT(bytes, 48 * kMiB);
  }
  fs::remove_all(folder);
}
#endif

class MemoryLimits : public ::testing::Test {
 protected:
  MemoryLimits() {
    char folder[] = "/tmp/millrace-limits-XXXXXX";
    root_ = ::mkdtemp(folder);
    files_ = {root_ + "/proc", root_ + "/cgroup"};
    write("proc/meminfo", "MemTotal:       8192 kB\nMemFree: 1 kB\nMemAvailable:   4096 kB\n");
  }
  ~MemoryLimits() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  std::string root_;
  MemoryFiles files_;
};

TEST_F(MemoryLimits, MachineAlone) {
  EXPECT_EQ(available_memory(files_), 4 * kMiB);
  EXPECT_EQ(total_memory(files_), 8 * kMiB);
}

TEST_F(MemoryLimits, GroupOfVersionOneAndThoseAbove) {
  write("proc/self/cgroup", "3:cpu,cpuacct:/a\n2:memory:/a/b\n1:name=systemd:/\n0::/\n");
  write("cgroup/memory/a/b/memory.limit_in_bytes", "3145728\n");
  write("cgroup/memory/a/b/memory.usage_in_bytes", "1048576\n");
  EXPECT_EQ(available_memory(files_), 2 * kMiB);
  write("cgroup/memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 524288\n");
  EXPECT_EQ(available_memory(files_), 2 * kMiB + 512 * kKiB);
  write("cgroup/memory/a/memory.limit_in_bytes", "2097152\n");
  write("cgroup/memory/a/memory.usage_in_bytes", "1048576\n");
  EXPECT_EQ(available_memory(files_), kMiB);
  EXPECT_EQ(total_memory(files_), 2 * kMiB);
  write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(available_memory(files_), kMiB) << "the root has no limit";
}

TEST_F(MemoryLimits, GroupOfVersionTwo) {
  write("proc/self/cgroup", "0::/user/job\n");
  write("cgroup/user/job/memory.max", "max\n");
  write("cgroup/user/job/memory.current", "1048576\n");
  EXPECT_EQ(available_memory(files_), 4 * kMiB);
  write("cgroup/user/job/memory.max", "2097152\n");
  EXPECT_EQ(available_memory(files_), kMiB);
  write("cgroup/user/job/memory.current", "4097152\n");
  EXPECT_EQ(available_memory(files_), 0U) << "over its limit";
}

TEST_F(MemoryLimits, ContainerSeesItsGroupAsTheRoot) {
  write("proc/self/cgroup", "5:memory:/docker/0123\n");
  write("cgroup/memory/memory.limit_in_bytes", "1048576\n");
  write("cgroup/memory/memory.usage_in_bytes", "0\n");
  EXPECT_EQ(available_memory(files_), kMiB);
}

TEST_F(MemoryLimits, NothingReadableIsNoLimit) {
  EXPECT_EQ(available_memory({"/nowhere", "/nowhere"}), UINT64_MAX);
}

TEST(Units, AreReadable) {
  EXPECT_EQ(in_units(12), "12 bytes");
  EXPECT_EQ(in_units(64 * kKiB), "64 KiB");
  EXPECT_EQ(in_units(3 * kGiB / 2), "1.5 GiB");
  EXPECT_EQ(in_units(UINT64_MAX), "16 EiB");
}

}  // namespace
}  // namespace millrace::shm
