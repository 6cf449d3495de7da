// A driver for tests of damage: shared words of a ring are overwritten at random while two
// processes use it. Each call must give a message or Corrupt; nobody may hang or leave the ring's
// memory.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <millrace/errors.hpp>
#include <new>
#include <random>
#include <utility>

namespace millrace::shm {

inline constexpr int kDamages = 100'000;  // at least
inline constexpr int kSteps = 300;
inline constexpr std::uint32_t kOver = ~std::uint32_t{0};  // the round behind the last

struct Stage {
  std::atomic<std::uint32_t> round{0};  // the ring was made
  std::atomic<std::uint32_t> done[2];   // by who sends and who receives
  std::atomic<std::uint32_t> begun{0};  // in that round something was sent
  int things = 0;                       // of who sends
  std::atomic<std::uint64_t> taken{0};
  std::atomic<std::uint64_t> noticed{0};

  // After each thing that is sent. relaxed: damage may come a while later
  void sent() {
    begun.store(round.load(std::memory_order_relaxed), std::memory_order_relaxed);
    if (++things % 8 == 0) ::sched_yield();  // what is under way meets its damage
  }
  // For whoever receives, before each attempt.
  [[nodiscard]] bool worth_trying(int attempt) const {
    if (attempt % 8 == 0) ::sched_yield();
    // relaxed: it tries a while longer
    return attempt < kSteps ||
           done[0].load(std::memory_order_relaxed) != round.load(std::memory_order_relaxed);
  }
};

/// Pages that two processes share, between pages that nobody may touch. What lies there ends, or
/// begins, where they do.
class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t bytes) : bytes_((bytes + 63) / 64 * 64) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    inside_ = (bytes_ + page - 1) / page * page;
    all_ = inside_ + 2 * page;
    void* const at = ::mmap(nullptr, all_, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    first_ = static_cast<std::byte*>(at) + page;
    if (::mprotect(first_, inside_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    page_ = page;
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory() { ::munmap(first_ - page_, all_); }

  [[nodiscard]] std::byte* at(bool end) const { return end ? first_ + inside_ - bytes_ : first_; }
  [[nodiscard]] std::size_t size() const { return bytes_; }

 private:
  std::size_t bytes_;
  std::size_t page_ = 0;
  std::size_t inside_ = 0;
  std::size_t all_ = 0;
  std::byte* first_ = nullptr;
};

/// Reads all that a message is said to be.
inline std::uint64_t sum(const std::byte* data, std::size_t size) {
  std::uint64_t all = size;
  for (std::size_t i = 0; i < size; ++i) all += std::to_integer<std::uint64_t>(data[i]);
  return all;
}
inline std::atomic<std::uint64_t> g_sum;  // keeps the compiler from leaving that out

/// Nobody is dead, whoever a damaged word names.
struct Immortals {
  [[nodiscard]] static bool is_dead(std::uint32_t) { return false; }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const { return none; }
  void check_alive(std::uint32_t) {}
  std::atomic<std::uint64_t> none{0};
};

/// `Ring` makes one of a kind (make(), attach() gives what sends and receives) and names the words
/// that may be damaged.
template <class Ring>
class RingDamage : public ::testing::Test {
 protected:
  RingDamage() : stage_memory_(sizeof(Stage)), stage_(new (stage_memory_.at(false)) Stage{}) {}

  // Rounds of rings that are made, used by two processes and damaged meanwhile.
  void run() {
    const pid_t children[] = {start(0), start(1)};
    std::mt19937_64 random(6);
    int damages = 0;
    // Until items have come through and damage was noticed: a slow machine may need more rounds.
    const auto seen = [this] { return stage_->taken != 0 && stage_->noticed != 0; };
    for (std::uint32_t round = 1; damages < kDamages || !seen(); ++round) {
      ring_.make(round);
      int left = Ring::most_damages(round);
      // ROUND ring: release: the ring
      stage_->round.store(round, std::memory_order_release);
      while (!both_done(round)) {
        for (const pid_t child : children) ASSERT_TRUE(runs(child));
        ::sched_yield();
        if (!under_way(round)) continue;
        for (int i = 0; i < 128 && left > 0; ++i, --left, ++damages) damage(round, random);
      }
    }
    // ROUND ring: release: there is none
    stage_->round.store(kOver, std::memory_order_release);
    for (const pid_t child : children) {
      int status = 0;
      EXPECT_EQ(::waitpid(child, &status, 0), child);
      EXPECT_EQ(status, 0);
    }
    EXPECT_GT(stage_->taken, 0U);
    EXPECT_GT(stage_->noticed, 0U);
  }

  pid_t start(int role) {
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(0);
    std::mt19937_64 random(5);
    for (std::uint32_t last = 0;;) {
      // ROUND ring: acquire: the ring is made
      const std::uint32_t round = stage_->round.load(std::memory_order_acquire);
      if (round == kOver) ::_exit(0);
      if (std::exchange(last, round) == round) {
        ::sched_yield();
        continue;
      }
      try {
        auto user = ring_.attach(round);
        role == 0 ? user.send(*stage_, random) : user.receive(*stage_);
      } catch (const Corrupt&) {
        stage_->noticed.fetch_add(1, std::memory_order_relaxed);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        ::_exit(2);
      }
      // DONE role: release: the parent may make the next ring
      stage_->done[role].store(round, std::memory_order_release);
    }
  }
  bool under_way(std::uint32_t round) {
    return stage_->begun.load(std::memory_order_relaxed) == round;  // see sent()
  }
  bool both_done(std::uint32_t round) {
    // DONE role: acquire: it looks at the ring no more
    return stage_->done[0].load(std::memory_order_acquire) == round &&
           stage_->done[1].load(std::memory_order_acquire) == round;
  }
  static testing::AssertionResult runs(pid_t child) {
    siginfo_t ended{};
    ::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT);
    if (ended.si_pid == 0) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "ended by " << ended.si_status;
  }
  // A bit, or all of a word.
  void damage(std::uint32_t round, std::mt19937_64& random) {
    const std::atomic_ref<std::uint64_t> word(*ring_.word(round, random));
    // relaxed: damage orders nothing
    const std::uint64_t bit = word.load(std::memory_order_relaxed) ^ 1ULL << random() % 64;
    const std::uint64_t all = random() >> random() % 64;
    word.store(random() % 2 == 0 ? bit : all, std::memory_order_relaxed);
  }

  Ring ring_;
  GuardedMemory stage_memory_;
  Stage* stage_;
};

}  // namespace millrace::shm
