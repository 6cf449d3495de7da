#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/function.hpp>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/function_table.hpp"
#include "runtime/base/memory_map.hpp"
#include "runtime/base/modules.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {
namespace {

int twice(int x) { return 2 * x; }
int thrice(int x) { return 3 * x; }
template <int N>
int plus(int x) {
  return x + N;
}

AnyFunction any(int (*function)(int)) { return reinterpret_cast<AnyFunction>(function); }
int call(AnyFunction function, int x) { return reinterpret_cast<int (*)(int)>(function)(x); }

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// The exit code of `body` in a forked child.
template <class F>
int in_child(F body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// A gate of shared memory, for a child that was forked before what it is to see.
struct Gate {
  std::atomic<FunctionId> id{0};

  FunctionId wait() const {
    FunctionId seen = 0;
    while ((seen = id.load(std::memory_order_acquire)) == 0) ::sched_yield();
    return seen;
  }
  static Gate* create() { return ::new (arena_allocate(sizeof(Gate))) Gate; }
};

std::string plugin_path(const std::string& name) {
  return std::string(MILLRACE_TEST_PLUGINS) + "/lib" + name + ".so";
}

// Builds of the plugin that differ, each for one test: what is loaded stays so.
std::string next_plugin() {
  static int last = 0;
  return plugin_path("test_plugin_" + std::to_string(++last));
}

// A copy of a plugin, to be spoilt.
class PluginFile {
 public:
  explicit PluginFile(const std::string& original = next_plugin())
      : path_(std::filesystem::temp_directory_path() /
              ("millrace_plugin_" + std::to_string(::getpid()) + "_" +
               std::filesystem::path(original).filename().string())) {
    std::filesystem::copy_file(original, path_, std::filesystem::copy_options::overwrite_existing);
  }
  PluginFile(const PluginFile&) = delete;
  PluginFile& operator=(const PluginFile&) = delete;
  ~PluginFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_.native(); }
  [[nodiscard]] AnyFunction load() const {
    void* const library = ::dlopen(path().c_str(), RTLD_NOW);
    EXPECT_NE(library, nullptr) << ::dlerror();
    return reinterpret_cast<AnyFunction>(::dlsym(library, "plugin_function"));
  }

 private:
  std::filesystem::path path_;
};

class Table : public ::testing::Test {
 protected:
  void* memory_ = ::mmap(nullptr, sizeof(FunctionTable), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  FunctionTable& table_ = *FunctionTable::in_zeroed(memory_);

  static BuildId build_id(int number) {
    BuildId id;
    id.size = 20;
    std::memcpy(id.bytes.data(), &number, sizeof number);
    return id;
  }
  ~Table() override { ::munmap(memory_, sizeof(FunctionTable)); }
};

TEST_F(Table, GivesEachFunctionOneId) {
  const auto a = table_.enter_module(build_id(1), "/a.so");
  const auto b = table_.enter_module(build_id(2), "/b.so");
  EXPECT_EQ(table_.enter_module(build_id(1), "/elsewhere/a.so"), a);
  std::set<FunctionId> ids;
  for (std::uintptr_t offset = 0; offset < 1000; ++offset) {
    ids.insert(table_.enter(a, offset));
    ids.insert(table_.enter(b, offset));
  }
  EXPECT_EQ(ids.size(), 2000U);
  EXPECT_FALSE(ids.contains(0));
  const FunctionId id = table_.enter(b, 77);
  EXPECT_EQ(table_.enter(b, 77), id);
  const auto entry = table_.look_up(id);
  EXPECT_EQ(entry.offset, 77U);
  EXPECT_EQ(entry.module->id, build_id(2));
  EXPECT_EQ(std::string(entry.module->path, entry.module->path_bytes), "/b.so");
}

TEST_F(Table, RefusesIdsThatWereNeverGivenOut) {
  EXPECT_THROW((void)table_.look_up(0), Corrupt);
  EXPECT_THROW((void)table_.look_up(1), Corrupt);
  EXPECT_THROW((void)table_.look_up(FunctionTable::kFunctions + 1), Corrupt);
  EXPECT_THROW((void)table_.look_up(~0U), Corrupt);
}

TEST_F(Table, SaysWhenItIsFull) {
  const auto module = table_.enter_module(build_id(1), "/a.so");
  for (std::uintptr_t i = 0; i < FunctionTable::kFunctions; ++i) table_.enter(module, i * 16);
  EXPECT_THROW(table_.enter(module, 1), std::runtime_error);
  EXPECT_GT(table_.enter(module, 16), 0U);
  for (int i = 2; i <= static_cast<int>(FunctionTable::kModules); ++i) {
    table_.enter_module(build_id(i), "/x.so");
  }
  EXPECT_THROW(table_.enter_module(build_id(0), "/y.so"), std::runtime_error);
  EXPECT_THROW(table_.enter_module(build_id(1), std::string(5000, 'x')), std::runtime_error);
}

TEST_F(Table, PassesOverAModuleWhoseMakerDied) {
  const std::uint32_t claimed = 1;  // as one that was killed before it published leaves it
  std::memcpy(memory_, &claimed, sizeof claimed);
  const auto module = table_.enter_module(build_id(1), "/a.so");
  EXPECT_EQ(module, 1);
  EXPECT_EQ(table_.look_up(table_.enter(module, 5)).module->id, build_id(1));
}

TEST_F(Table, ThreadsThatEnterTheSameFunctionsAgree) {
  constexpr int kThreads = 4;
  std::vector<std::vector<FunctionId>> ids(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, &mine = ids[static_cast<std::size_t>(t)]] {
      const auto module = table_.enter_module(build_id(1), "/a.so");
      for (std::uintptr_t i = 0; i < 2000; ++i) mine.push_back(table_.enter(module, i * 8));
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& each : ids) {
    for (std::size_t i = 0; i < each.size(); ++i) {
      const auto entry = table_.look_up(each[i]);
      EXPECT_EQ(entry.offset, i * 8);
      EXPECT_EQ(entry.module->id, build_id(1));
    }
  }
}

TEST(Function, HasOneIdThatLeadsBackToIt) {
  const FunctionId id = function_id(any(&twice));
  EXPECT_NE(id, 0U);
  EXPECT_EQ(function_id(any(&twice)), id);
  EXPECT_NE(function_id(any(&plus<1>)), function_id(any(&plus<2>)));
  EXPECT_EQ(resolve_function(id), any(&twice));
  EXPECT_EQ(function_id(nullptr), 0U);
  EXPECT_EQ(resolve_function(0), nullptr);
  EXPECT_EQ(id_of<&twice>(), id);
  EXPECT_THROW(resolve_function(FunctionTable::kFunctions), Corrupt);
}

TEST(Function, OfASharedLibraryIsFoundToo) {
  const auto function = reinterpret_cast<AnyFunction>(::dlsym(RTLD_DEFAULT, "atoi"));
  EXPECT_EQ(resolve_function(function_id(function)), function);
}

TEST(Function, OutsideEveryModuleIsRefused) {
  int data = 0;
  const auto nowhere = reinterpret_cast<AnyFunction>(&data);
  EXPECT_NE(error_of([&] { function_id(nowhere); }).find("in no loaded module"), std::string::npos);
}

TEST(Function, IsTheSameInAForkedChild) {
  EXPECT_EQ(in_child([id = function_id(any(&twice))] { return call(resolve_function(id), 4); }), 8);
}

TEST(Function, EnteredByAChildIsKnownToItsParent) {
  Gate* const gate = Gate::create();
  EXPECT_EQ(in_child([gate] {
              gate->id = function_id(any(&thrice));
              return 0;
            }),
            0);
  EXPECT_EQ(call(resolve_function(gate->wait()), 4), 12);
  EXPECT_EQ(function_id(any(&thrice)), gate->wait());
  arena_deallocate(gate);
}

TEST(Function, OfAPluginLoadedLaterReachesAnOlderChild) {
  const PluginFile plugin;
  Gate* const gate = Gate::create();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(call(resolve_function(gate->wait()), 5));
  const AnyFunction function = plugin.load();
  const int expected = call(function, 5);
  gate->id = function_id(function);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), expected);
  arena_deallocate(gate);
}

TEST(Function, KeepsItsModuleLoaded) {
  const PluginFile plugin;
  const AnyFunction function = plugin.load();
  const FunctionId id = function_id(function);
  const int expected = call(function, 1);
  void* const again = ::dlopen(plugin.path().c_str(), RTLD_NOW);
  ::dlclose(again);
  ::dlclose(again);
  EXPECT_EQ(call(resolve_function(id), 1), expected);
}

TEST(Function, OfAModuleWithoutABuildIdIsRefusedWithTheRemedy) {
  const PluginFile plugin(plugin_path("test_plugin_without_id"));
  const AnyFunction function = plugin.load();
  const std::string error = error_of([&] { function_id(function); });
  EXPECT_NE(error.find(plugin.path()), std::string::npos) << error;
  EXPECT_NE(error.find("--build-id"), std::string::npos) << error;
}

// In a child that has not loaded the plugin, after `spoil` was done to its file.
template <class Spoil>
std::string error_in_older_child(Spoil spoil) {
  const PluginFile plugin;
  struct Answer {
    Gate gate;
    char text[1000];
  };
  auto* const answer = ::new (arena_allocate(sizeof(Answer))) Answer{};
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string error = error_of([&] { resolve_function(answer->gate.wait()); });
    std::strncpy(answer->text, error.c_str(), sizeof answer->text - 1);
    ::_exit(0);
  }
  const FunctionId id = function_id(plugin.load());
  spoil(plugin.path());
  answer->gate.id = id;
  ::waitpid(child, nullptr, 0);
  std::string text = answer->text;
  EXPECT_NE(text.find(plugin.path()), std::string::npos) << text;
  arena_deallocate(answer);
  return text;
}

TEST(Function, OfAModuleThatIsGoneIsAnErrorThatNamesIt) {
  const std::string error =
      error_in_older_child([](const std::string& path) { std::filesystem::remove(path); });
  EXPECT_NE(error.find("cannot be opened: No such file"), std::string::npos) << error;
}

TEST(Function, OfAModuleThatWasReplacedIsAnErrorInsteadOfAJump) {
  const auto replace_by = [](const std::string& other) {
    return error_in_older_child([&other](const std::string& path) {
      std::filesystem::remove(path);
      std::filesystem::copy_file(other, path);
    });
  };
  const std::string error = replace_by(plugin_path("test_plugin_other"));
  EXPECT_NE(error.find("has been replaced"), std::string::npos) << error;
  const std::string no_id = replace_by(plugin_path("test_plugin_without_id"));
  EXPECT_NE(no_id.find("no module with a build-id"), std::string::npos) << no_id;
}

// What an exec'ed child of this program does: see main().
int run_as_child(int fd, FunctionId id, int argument) {
  shm::Arena::attach(fd);
  return call(resolve_function(id), argument);
}

TEST(Function, ReachesAnExecutedChild) {
  const PluginFile plugin;
  const auto run = [](FunctionId id) {
    const std::string fd = std::to_string(::dup(shm::Arena::instance().fd()));  // not CLOEXEC
    const std::string name = std::to_string(id);
    const int code = in_child([&] {
      ::execl("/proc/self/exe", "child", "--call", fd.c_str(), name.c_str(), "6",
              static_cast<char*>(nullptr));
      return 126;
    });
    ::close(std::stoi(fd));
    return code;
  };
  EXPECT_EQ(run(function_id(any(&twice))), 12);
  EXPECT_EQ(run(function_id(any(&plus<3>))), 9);
  const AnyFunction function = plugin.load();
  EXPECT_EQ(run(function_id(function)), call(function, 6));
}

TEST(Function, LookUpsFromManyThreadsAgree) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&wrong] {
      for (int i = 0; i < 1000; ++i) {
        if (resolve_function(function_id(any(&twice))) != any(&twice)) ++wrong;
        if (resolve_function(function_id(any(&plus<7>))) != any(&plus<7>)) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(PrivateAddress, IsOneThatAnotherProcessDoesNotShare) {
  int local = 0;
  static int global = 0;
  const auto heap = std::make_unique<int>();
  EXPECT_TRUE(is_private_address(&local));
  EXPECT_TRUE(is_private_address(&global));
  EXPECT_TRUE(is_private_address(heap.get()));
  EXPECT_TRUE(is_private_address(reinterpret_cast<const void*>(any(&twice))));
  EXPECT_FALSE(is_private_address(nullptr));
  EXPECT_FALSE(is_private_address(reinterpret_cast<const void*>(std::uintptr_t{1} << 63)));
  EXPECT_FALSE(is_private_address(reinterpret_cast<const void*>(std::uintptr_t{12345})));
  void* const block = arena_allocate(64);
  EXPECT_FALSE(is_private_address(block));
  arena_deallocate(block);
  void* const reserved = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_FALSE(is_private_address(reserved));
  ::munmap(reserved, 4096);
}

TEST(MemoryMap, NamesTheFileOfAMapping) {
  const auto mapping = find_mapping(reinterpret_cast<const void*>(any(&twice)));
  ASSERT_TRUE(mapping);
  EXPECT_FALSE(mapping->shared);
  EXPECT_TRUE(mapping->accessible);
  EXPECT_EQ(mapping->path, std::filesystem::read_symlink("/proc/self/exe"));
}

TEST(Modules, KnowTheProgramByItsBuildId) {
  const auto module = module_at(reinterpret_cast<std::uintptr_t>(any(&twice)));
  ASSERT_TRUE(module);
  EXPECT_TRUE(module->is_program);
  EXPECT_EQ(module->path, std::filesystem::read_symlink("/proc/self/exe"));
  ASSERT_FALSE(module->id.empty());
  EXPECT_EQ(module->id.text().size(), 2 * module->id.size);
  EXPECT_EQ(loaded_base(module->id), module->base);
}

}  // namespace
}  // namespace millrace::runtime

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "--call") == 0) {
    return millrace::runtime::run_as_child(
        std::stoi(argv[2]), static_cast<unsigned>(std::stoul(argv[3])), std::stoi(argv[4]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
