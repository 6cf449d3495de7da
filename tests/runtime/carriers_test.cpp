// The threads beside a pool's workers that carry a large map_into's bytes, with a worker's part
// played by this thread: so that a sanitizer sees both sides.
#include "runtime/pool/carriers.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <millrace/pool_entries.hpp>
#include <span>
#include <system_error>
#include <vector>

#include "tests/api/sigint_support.hpp"
#include "tests/leak_check.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kItems = 1024;
constexpr std::size_t kBytes = kItems * sizeof(std::uint64_t);

class CarriersTest : public test::LeakCheck {
 protected:
  void SetUp() override {
    LeakCheck::SetUp();
    set_carried_seat(0, -1);
  }
};

// What a piece is to a worker.
void add_one(std::uint64_t boxes, const std::uint64_t* from, std::uint64_t* to) {
  const CarriedPiece piece = carry_in(boxes, reinterpret_cast<std::uint64_t>(from), kBytes);
  std::transform(reinterpret_cast<const std::uint64_t*>(piece.in),
                 reinterpret_cast<const std::uint64_t*>(piece.in) + kItems,
                 reinterpret_cast<std::uint64_t*>(piece.out), [](auto x) { return x + 1; });
  carry_out(boxes, reinterpret_cast<std::uint64_t>(to), kBytes);
}

TEST_F(CarriersTest, EveryPieceIsThereWhenTheyHaveEnded) {
  for (const bool stream : {false, true}) {
    constexpr std::size_t kPieces = 2000;
    std::vector<std::uint64_t> in(kPieces * kItems);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = i;
    std::vector<std::uint64_t> out(in.size());
    {
      const Carriers carriers({-1, -1}, kBytes, kBytes, stream);
      for (std::size_t i = 0; i < in.size(); i += kItems) {
        add_one(carriers.boxes(), &in[i], &out[i]);
      }
    }
    for (std::size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i], i + 1);
  }
}

TEST_F(CarriersTest, OnesThatNobodyAsksEnd) {
  const auto before = test::names_in("/proc/self/task");
  for (int i = 0; i < 100; ++i) const Carriers carriers({-1, -1, -1}, kBytes, kBytes, false);
  while (test::names_in("/proc/self/task") != before) ::sched_yield();  // one that was joined, too
}

// Memory that its program makes when it is first touched.
class LazyWords {
 public:
  LazyWords() {
    memory_ = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction handler {};
    handler.sa_flags = SA_SIGINFO;
    handler.sa_sigaction = [](int, siginfo_t* fault, void*) {
      if (fault->si_addr < memory_ || fault->si_addr >= static_cast<char*>(memory_) + kBytes ||
          ::mprotect(memory_, kBytes, PROT_READ | PROT_WRITE) != 0) {
        ::_exit(3);
      }
    };
    ::sigaction(SIGSEGV, &handler, &before_);
  }
  LazyWords(const LazyWords&) = delete;
  LazyWords& operator=(const LazyWords&) = delete;
  ~LazyWords() {
    ::sigaction(SIGSEGV, &before_, nullptr);
    ::munmap(memory_, kBytes);
  }
  [[nodiscard]] std::uint64_t* data() const { return static_cast<std::uint64_t*>(memory_); }

 private:
  static inline void* memory_ = MAP_FAILED;
  struct sigaction before_ {};
};

TEST_F(CarriersTest, TheProgramHandlesTheirFaults) {
  std::vector<std::uint64_t> words(kItems, 6);
  const auto add = [](const std::uint64_t* from, std::uint64_t* to) {
    const Carriers carriers({-1}, kBytes, kBytes, false);
    add_one(carriers.boxes(), from, to);
  };
  {
    const LazyWords out;
    add(words.data(), out.data());
    EXPECT_EQ(std::ranges::count(std::span(out.data(), kItems), 7U), static_cast<long>(kItems));
  }
  const LazyWords in;
  add(in.data(), words.data());
  EXPECT_EQ(words, std::vector<std::uint64_t>(kItems, 1));
}

TEST_F(CarriersTest, WhereNoThreadCanBeMadeThereAreNone) {
  const auto ended = test::run_forked([] {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) return 4;
    const rlimit one{1, 1};
    if (::setrlimit(RLIMIT_NPROC, &one) != 0) return 5;
    try {
      const Carriers carriers({-1}, kBytes, kBytes, false);
    } catch (const std::system_error& error) {
      return error.code() == std::errc::resource_unavailable_try_again ? 0 : 6;
    }
    return 7;
  });
  EXPECT_FALSE(ended.by_signal);
  EXPECT_EQ(ended.code, 0);
}

}  // namespace
}  // namespace millrace::runtime
