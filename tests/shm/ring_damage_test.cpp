// Rings whose shared words are overwritten at random while two processes use them: each call gives
// a message or Corrupt. Nobody hangs, and nobody leaves the ring's memory: no page is beside it.
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

#include "shm/mpmc_ring.hpp"
#include "shm/spsc_ring.hpp"

namespace millrace::shm {
namespace {

constexpr int kDamages = 100'000;  // at least
constexpr int kSteps = 300;
constexpr std::uint32_t kOver = ~std::uint32_t{0};  // the round behind the last

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

// Pages that two processes share, between pages that nobody may touch. What lies there ends, or
// begins, where they do.
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

// Reads all that a message is said to be.
std::uint64_t sum(const std::byte* data, std::size_t size) {
  std::uint64_t all = size;
  for (std::size_t i = 0; i < size; ++i) all += std::to_integer<std::uint64_t>(data[i]);
  return all;
}
std::atomic<std::uint64_t> g_sum;  // keeps the compiler from leaving that out

struct Spsc {
  static constexpr SpscGeometry kGeometry{4, 512};
  static std::size_t bytes() { return SpscRing::bytes_for(kGeometry); }
  static std::size_t words() {
    return (bytes() - kGeometry.bulk_bytes) / 8;
  }  // not what is carried
  static void make(void* memory) { SpscRing::create(memory, kGeometry); }

  Spsc(void* memory, std::size_t bytes) : ring(SpscRing::attach(memory, bytes)) {}
  void send(Stage& stage, std::mt19937_64& random) {
    SpscRing::Producer to(ring);  // a successor's look at it, too
    for (int i = 0; i < kSteps; ++i) {
      // A damaged header may be that of another ring.
      const std::size_t size = random() % (i % 2 == 0 ? 200 : 60) % (to.max_message() + 1);
      if (std::byte* const room = to.try_reserve(size)) {
        std::memset(room, 7, size);
        to.commit(size);
      }
      stage.sent();
    }
  }
  void receive(Stage& stage) {
    SpscRing::Consumer from(ring);
    for (int i = 0; stage.worth_trying(i); ++i) {
      (void)from.has_message();
      const SpscMessage message = from.try_peek();
      if (!message) continue;
      g_sum.fetch_add(sum(message.data, message.size), std::memory_order_relaxed);
      from.release();
      stage.taken.fetch_add(1, std::memory_order_relaxed);
    }
  }
  SpscRing ring;
};

// Nobody is dead, whoever a damaged word names.
struct Immortals {
  [[nodiscard]] static bool is_dead(std::uint32_t) { return false; }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const { return none; }
  void check_alive(std::uint32_t) {}
  std::atomic<std::uint64_t> none{0};
};

struct Mpmc {
  struct Item {
    std::uint64_t word[4];
  };
  using Ring = MpmcRing<Item>;
  static std::size_t bytes() { return Ring::bytes_for(8); }
  static std::size_t words() { return bytes() / 8; }
  static void make(void* memory) { Ring::create(memory, 8); }

  Mpmc(void* memory, std::size_t bytes) : ring(Ring::attach(memory, bytes)) {}
  void send(Stage& stage, std::mt19937_64& random) {
    for (int i = 0; i < kSteps; ++i) {
      (void)ring.try_push(table, 1, Item{{random(), 0, 0, 0}});
      stage.sent();
    }
  }
  void receive(Stage& stage) {
    Item item{};
    for (int i = 0; stage.worth_trying(i); ++i) {
      const bool took = ring.try_pop(table, 2, scan, item) == RingResult::done;
      stage.taken.fetch_add(took ? 1 : 0, std::memory_order_relaxed);
    }
  }
  Ring ring;
  Ring::Scan scan;
  Immortals table;
};

template <class Ring>
class RingDamage : public ::testing::Test {
 protected:
  static constexpr bool kAtEnd[] = {false, true};

  RingDamage()
      : memory_(Ring::bytes()),
        stage_memory_(sizeof(Stage)),
        stage_(new (stage_memory_.at(false)) Stage{}) {}

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
        Ring ring(place(round), memory_.size());
        role == 0 ? ring.send(*stage_, random) : ring.receive(*stage_);
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
  std::byte* place(std::uint32_t round) { return memory_.at(kAtEnd[round % 2]); }
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
    auto* const words = reinterpret_cast<std::uint64_t*>(place(round));
    const std::atomic_ref<std::uint64_t> word(words[random() % Ring::words()]);
    // relaxed: damage orders nothing
    const std::uint64_t bit = word.load(std::memory_order_relaxed) ^ 1ULL << random() % 64;
    const std::uint64_t all = random() >> random() % 64;
    word.store(random() % 2 == 0 ? bit : all, std::memory_order_relaxed);
  }

  GuardedMemory memory_;
  GuardedMemory stage_memory_;
  Stage* stage_;
};
using Rings = ::testing::Types<Spsc, Mpmc>;
TYPED_TEST_SUITE(RingDamage, Rings);

TYPED_TEST(RingDamage, WhileTwoProcessesUseItLeadsNobodyElsewhere) {  // R26
  const pid_t children[] = {this->start(0), this->start(1)};
  std::mt19937_64 random(6);
  int damages = 0;
  // Until items have come through and damage was noticed: a slow machine may need more rounds.
  const auto seen = [this] { return this->stage_->taken != 0 && this->stage_->noticed != 0; };
  for (std::uint32_t round = 1; damages < kDamages || !seen(); ++round) {
    TypeParam::make(this->place(round));
    // ROUND ring: release: the ring
    this->stage_->round.store(round, std::memory_order_release);
    while (!this->both_done(round)) {
      for (const pid_t child : children) ASSERT_TRUE(this->runs(child));
      ::sched_yield();
      if (!this->under_way(round)) continue;
      for (int i = 0; i < 128; ++i, ++damages) this->damage(round, random);
    }
  }
  // ROUND ring: release: there is none
  this->stage_->round.store(kOver, std::memory_order_release);
  for (const pid_t child : children) {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_GT(this->stage_->taken, 0U);
  EXPECT_GT(this->stage_->noticed, 0U);
}

}  // namespace
}  // namespace millrace::shm
