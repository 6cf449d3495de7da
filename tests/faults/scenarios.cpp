// What a program does with millrace, one use a run: for sweep.py, which lets each system call and
// each allocation of it fail. Exit status 0: it worked; 3: it failed with an error that it prints.
#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <millrace/millrace.hpp>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace mp = millrace;

namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 5s;  // with a child that may have failed

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "WRONG %s\n", what);
    std::_Exit(4);  // a wrong result is no error that was reported
  }
}

// What was not allowed to fail has failed: from where it was called.
[[noreturn]] void tell_where() {
  std::array<void*, 64> frames{};
  ::backtrace_symbols_fd(frames.data(), ::backtrace(frames.data(), frames.size()), STDERR_FILENO);
  std::abort();
}

// A child that failed has said why on stderr.
void ended_well(const mp::Process& child) {
  if (child.exitcode() != 0) throw std::runtime_error("the child failed");
}

// Which allocation since main() began fails, 0: none. A forked child goes on counting.
std::atomic<long> g_allocations{-1};
long g_failing = 0;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (g_allocations >= 0 && ++g_allocations == g_failing) throw std::bad_alloc();
  const std::size_t rounded = (bytes + alignment) / alignment * alignment;
  if (void* const made = std::aligned_alloc(alignment, rounded)) return made;
  throw std::bad_alloc();
}

int square(int x) { return x * x; }

void answer(mp::Connection end, mp::Connection other) {
  other.close();  // inherited, it would keep the pipe open when the parent is gone
  end.send(end.recv<int>() + 1);
}

void pool_with(const char* method) {
  mp::Pool pool = mp::get_context(method).Pool(2);
  std::vector<int> in(100);
  std::iota(in.begin(), in.end(), 0);
  const std::vector<int> out = pool.map(square, in);
  require(out.size() == 100 && out[99] == 99 * 99, "map");
  require(pool.apply(square, 7) == 49, "apply");
  pool.close();
  pool.join();
}

void process_with(const char* method) {
  const mp::Context& context = mp::get_context(method);
  auto [here, there] = context.Pipe();
  auto child = context.Process(answer, there, here);
  child.start();
  there.close();
  here.send(41);
  require(here.recv<int>() == 42, "answer");
  child.join();
  ended_well(child);
}

void shared_memory() {
  mp::SharedMemory segment({.create = true, .size = 10000});
  segment.buf()[9999] = std::byte{7};
  mp::SharedMemory again({.name = segment.name()});
  require(again.buf()[9999] == std::byte{7}, "segment");
  again.close();
  segment.close();
  segment.unlink();
}

void manager() {
  auto server = mp::Manager();
  auto dict = server.dict();
  dict["a"] = 1;
  require(dict["a"].as<int>() == 1, "dict");
  mp::Process child([dict]() mutable { dict["b"] = 2; });
  child.start();
  child.join();
  ended_well(child);
  require(dict["b"].as<int>() == 2, "child's entry");
  server.shutdown();
}

void queue() {
  mp::Queue<std::string> words;
  mp::Process child([words]() mutable {
    for (int i = 0; i < 3; ++i) words.put(std::string(100000, 'a'));
  });
  child.start();
  for (int i = 0; i < 3; ++i) require(words.get(kPatience).size() == 100000, "item");
  child.join();
}

void listener() {
  mp::connection::Listener server({.authkey = mp::Bytes("secret"),
                                 .handshake_timeout = 1s});
  mp::Process child([address = server.address()] {
    mp::Connection out = mp::connection::Client(
        address, {.authkey = mp::Bytes("secret"), .handshake_timeout = 1s});
    out.send(mp::List{1, "two"});
    out.recv();
  });
  child.start();
  mp::Connection in = server.accept(kPatience);
  require(in.recv() == mp::Object(mp::List{1, "two"}), "message");
  in.send(mp::None);
  child.join();
  ended_well(child);
}

void sync() {
  mp::Lock lock;
  mp::Condition changed;
  mp::Value<int> value(0);
  mp::Process child([=]() mutable {
    lock.acquire();
    changed.acquire();
    value.set(1);
    changed.notify_all();
    changed.release();
    lock.release();
  });
  changed.acquire();
  child.start();
  const bool told = changed.wait_for([&] { return value.get() == 1; }, kPatience);
  changed.release();
  child.join();
  ended_well(child);
  require(told, "notified");
}

const std::map<std::string, std::function<void()>> kScenarios = {
    {"pool_fork", [] { pool_with("fork"); }},
    {"pool_spawn", [] { pool_with("spawn"); }},
    {"process_fork", [] { process_with("fork"); }},
    {"process_spawn", [] { process_with("spawn"); }},
    {"process_forkserver", [] { process_with("forkserver"); }},
    {"shared_memory", shared_memory},
    {"manager", manager},
    {"queue", queue},
    {"listener", listener},
    {"sync", sync},
};

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  std::set_terminate(&tell_where);
  mp::freeze_support(argc, argv);
  if (argc != 2 || !kScenarios.contains(argv[1])) {
    for (const auto& [name, run] : kScenarios) std::puts(name.c_str());
    return argc == 1 ? 0 : 2;
  }
  if (std::getenv("FAULTS_WAIT") != nullptr) {  // until what makes calls fail is there
    ::unsetenv("FAULTS_WAIT");
    ::raise(SIGSTOP);
  }
  if (const char* const failing = std::getenv("FAULTS_ALLOCATION")) {
    g_failing = std::atol(failing);
    g_allocations = 0;
  }
  try {
    kScenarios.at(argv[1])();
    if (g_failing < 0) std::printf("%ld\n", g_allocations.load());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ERROR %s\n", error.what());
    return 3;
  }
}
