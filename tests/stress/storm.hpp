// Roles played by child processes that are ended by SIGKILL at random instants and replaced at
// once.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "shm/parking.hpp"

namespace millrace::stress {

/// For waits in a storm: a wake-up that is lost for good hangs, and the storm's alarm ends it.
inline constexpr shm::WaitPolicy kPatient{.slice = std::chrono::hours{1}};

/// MILLRACE_STRESS_KILLS=N asks for more kills than the usual ones.
inline long kills_wanted(long usual) {
  const char* text = std::getenv("MILLRACE_STRESS_KILLS");
  return text != nullptr ? std::atol(text) : usual;
}

/// Zeroed memory that this process and its children share.
inline void* shared(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

/// Who died, in memory that all players share. Every player has an id of its own.
struct Deaths {
  static constexpr std::size_t kMostIds = 1U << 16;
  std::atomic<std::uint64_t> count{0};  // raised after its `dead`
  std::atomic<bool> dead[kMostIds];

  [[nodiscard]] bool is_dead(std::uint32_t id) const {
    return id < kMostIds && dead[id].load(std::memory_order_acquire);
  }
};

/// Plays roles in child processes and kills them at random.
class Storm {
 public:
  using Play = std::function<void(int role, std::uint32_t id)>;

  Storm(Deaths* deaths, int roles, Play play, std::function<void()> rouse)
      : deaths_(deaths),
        play_(std::move(play)),
        rouse_(std::move(rouse)),
        players_(static_cast<std::size_t>(roles)) {
    ::alarm(200);
    for (int role = 0; role < roles; ++role) start(role);
  }
  ~Storm() { ::alarm(0); }
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

  /// The players of roles below this one are spared.
  void spare_below(int role) { first_mortal_ = role; }

  /// Kills `count` players, each replaced at once; returns how many of them were of role >= first.
  long rage(long count, int first) {
    std::mt19937 random(static_cast<unsigned>(::getpid()));
    long later = 0;
    for (long i = 0; i < count; ++i) {
      ::usleep(static_cast<useconds_t>(random() % 400));
      const auto mortals =
          static_cast<unsigned>(players_.size()) - static_cast<unsigned>(first_mortal_);
      const int role = first_mortal_ + static_cast<int>(random() % mortals);
      const pid_t victim = players_[static_cast<std::size_t>(role)].pid;
      if (victim <= 1) std::abort();
      ::kill(victim, SIGKILL);
      bury(role, SIGKILL);
      later += role >= first;
      start(role);
    }
    return later;
  }
  /// Waits for a player that ends by itself.
  void await(int role) { bury(role, 0); }

 private:
  struct Player {
    pid_t pid = 0;
    std::uint32_t id = 0;
  };

  void start(int role) {
    const std::uint32_t id = ++last_id_;
    ASSERT_LT(id, Deaths::kMostIds);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(0);
      play_(role, id);
      ::_exit(0);
    }
    players_[static_cast<std::size_t>(role)] = {pid, id};
  }
  // What establishing a death comes to: wait, mark, count, rouse.
  void bury(int role, int signal) {
    const Player player = players_[static_cast<std::size_t>(role)];
    int status = 0;
    ASSERT_EQ(::waitpid(player.pid, &status, 0), player.pid);
    EXPECT_TRUE(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == signal);
    deaths_->dead[player.id].store(true, std::memory_order_release);
    deaths_->count.fetch_add(1, std::memory_order_release);
    rouse_();
  }

  Deaths* deaths_;
  Play play_;
  std::function<void()> rouse_;
  std::vector<Player> players_;
  int first_mortal_ = 0;
  std::uint32_t last_id_ = 0;
};

}  // namespace millrace::stress
