#include "runtime/channels/pipe_bell.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <mutex>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "shm/immortal.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t entry_of(pid_t pid, int fd) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(pid)} << 32U | static_cast<std::uint32_t>(fd);
}

// The pipe with this inode through the descriptor that an entry names; -1: it is not there.
int open_entry(std::uint64_t entry, std::uint64_t inode) noexcept {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%u/fd/%u", static_cast<unsigned>(entry >> 32U),
                static_cast<unsigned>(entry & 0xffffffffU));
  // What is there now may be any file: looked at before it is opened, since opening can do things.
  struct stat status {};
  if (::stat(path, &status) != 0 || !S_ISFIFO(status.st_mode) || status.st_ino != inode) return -1;
  const int fd = ::open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -1;
  if (::fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) && status.st_ino == inode) return fd;
  ::close(fd);
  return -1;
}

Bell* g_waited_on = nullptr;  // with bell_mutex()

}  // namespace

ForkMutex& bell_mutex() {
  // own_pid() first: its hook has run in the child when share_all() asks it.
  static shm::Immortal<ForkMutex> mutex(
      ((void)own_pid(), run_after_fork_in_child(&Bell::share_all), ForkMutex::Level::names));
  return *mutex;
}

Bell::~Bell() {
  if (listed_) {
    const std::lock_guard guard(bell_mutex());
    unlist();
  }
  forget();
}

void Bell::list() noexcept {
  if (listed_) return;
  listed_ = true;
  previous_ = nullptr;
  next_ = g_waited_on;
  if (next_ != nullptr) next_->previous_ = this;
  g_waited_on = this;
}

void Bell::unlist() noexcept {
  if (!std::exchange(listed_, false)) return;
  (previous_ != nullptr ? previous_->next_ : g_waited_on) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

void Bell::forget() noexcept {
  if (fd_ < 0) return;
  if (entry_ >> 32U == static_cast<std::uint32_t>(own_pid())) {
    for (auto& holder : state_.holder) {
      std::uint64_t mine = entry_;
      // relaxed: entries are advice, the inode decides
      holder.compare_exchange_strong(mine, 0, std::memory_order_relaxed);
    }
  }
  ::close(std::exchange(fd_, -1));
  entry_ = 0;
}

// The bell that there is now, for ringing or waiting.
bool Bell::open() noexcept {
  // OBSERVE bell: acquire pairs with PUBLISH bell in make(): the maker's entry is there
  const std::uint64_t inode = state_.inode.load(std::memory_order_acquire);
  if (inode == 0) return false;
  if (fd_ >= 0 && inode_ == inode) return true;
  for (const auto& holder : state_.holder) {
    const std::uint64_t entry = holder.load(std::memory_order_relaxed);  // advice
    const int fd = entry == 0 ? -1 : open_entry(entry, inode);
    if (fd < 0) continue;
    forget();
    fd_ = fd;
    inode_ = inode;
    return true;
  }
  return false;
}

// Not `no`: from now on this process alone says which bell there is. `abandoned`: another died
// while it did. Waits for nobody.
shm::Got Bell::try_claim() noexcept {
  const std::uint64_t mine = shm::self();
  std::uint64_t seen = 0;
  // MAKE bell: acquire pairs with the release in try_arm(): what the last one has entered is found
  if (state_.maker.compare_exchange_strong(seen, mine, std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
    return shm::Got::yes;
  }
  const auto other = static_cast<shm::ProcessId>(seen);
  // MAKE bell: acquire, as above; what a dead one published is found, or nobody heard of it
  const bool replaced = !shm::ProcessTable::instance().check_alive(other) &&
                        state_.maker.compare_exchange_strong(seen, mine, std::memory_order_acquire,
                                                             std::memory_order_relaxed);
  return replaced ? shm::Got::abandoned : shm::Got::no;
}

void Bell::make() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe2 for a Connection's fileno()");
  }
  struct stat status {};
  const bool known = ::fstat(ends[0], &status) == 0;
  const int error = errno;
  const int fd = known ? open_entry(entry_of(own_pid(), ends[0]), status.st_ino) : -1;
  ::close(ends[0]);
  ::close(ends[1]);
  if (fd < 0) {
    throw std::system_error(known ? EACCES : error, std::generic_category(),
                            "/proc/self/fd for a Connection's fileno()");
  }
  forget();
  fd_ = fd;
  inode_ = status.st_ino;
  for (auto& holder : state_.holder) holder.store(0, std::memory_order_relaxed);  // nobody's
  enter();
  // PUBLISH bell: release pairs with OBSERVE bell in open()
  state_.inode.store(inode_, std::memory_order_release);
  // What was rung went to a bell that is gone. RING bell: seq_cst, behind the publication, so that
  // whoever rings from here on finds this one, and before try_arm()'s caller looks at the ring
  state_.rung.store(BellState::kQuiet, std::memory_order_seq_cst);
}

// Tells where this process has it: in a free entry, or in that of one who has it no more.
void Bell::enter() noexcept {
  const std::uint64_t mine = entry_of(own_pid(), fd_);
  if (entry_ == mine) return;
  const auto take = [&](std::atomic<std::uint64_t>& holder, std::uint64_t seen) {
    // relaxed: entries are advice
    if (holder.compare_exchange_strong(seen, mine, std::memory_order_relaxed)) entry_ = mine;
    return entry_ == mine;
  };
  for (auto& holder : state_.holder) {
    if (holder.load(std::memory_order_relaxed) == 0 && take(holder, 0)) return;
  }
  for (auto& holder : state_.holder) {
    const std::uint64_t seen = holder.load(std::memory_order_relaxed);
    const int other = open_entry(seen, inode_);
    if (other >= 0) {
      ::close(other);
    } else if (take(holder, seen)) {
      return;
    }
  }
}

void Bell::become_waiter() noexcept {
  const std::uint64_t mine = shm::self();
  std::uint64_t seen = 0;
  // WAITER: seq_cst, before the look at `rung`; pairs with attend()
  if (state_.waiter.compare_exchange_strong(seen, mine, std::memory_order_seq_cst)) return;
  if (seen == mine || seen == BellState::kMany) return;
  const auto other = static_cast<shm::ProcessId>(seen);
  const std::uint64_t next = shm::ProcessTable::instance().is_dead(other) ? mine : BellState::kMany;
  // WAITER: seq_cst, as above; whoever was faster is another one
  if (!state_.waiter.compare_exchange_strong(seen, next, std::memory_order_seq_cst)) {
    state_.waiter.store(BellState::kMany, std::memory_order_seq_cst);  // WAITER: as above
  }
}

void Bell::leave() noexcept {
  unlist();
  std::uint64_t mine = shm::self();
  // WAITER: seq_cst, as above; who comes after this finds what it finds when another has it
  state_.waiter.compare_exchange_strong(mine, 0, std::memory_order_seq_cst);
}

void Bell::share() noexcept {
  if (fd_ >= 0) enter();
  // WAITER: seq_cst, before the look at `rung`; pairs with attend(), which settles if it sees this
  state_.waiter.store(BellState::kMany, std::memory_order_seq_cst);
  std::uint32_t seen = BellState::kAttended;
  // RING bell: seq_cst, as in settle(); the parent may be dead already
  if (state_.rung.compare_exchange_strong(seen, BellState::kQuiet, std::memory_order_seq_cst)) {
    ring();
  }
}

void Bell::share_all() noexcept {
  const std::lock_guard guard(bell_mutex());
  for (Bell* bell = g_waited_on; bell != nullptr; bell = bell->next_) bell->share();
}

bool Bell::try_arm() {
  const shm::Got claim = try_claim();
  if (claim == shm::Got::no) return false;
  {
    struct Release {
      std::atomic<std::uint64_t>& maker;
      ~Release() { maker.store(0, std::memory_order_release); }  // MAKE bell: see try_claim()
    } const release{state_.maker};
    if (open()) {
      enter();
      if (claim == shm::Got::abandoned) take_over();
    } else {
      make();
    }
  }
  list();
  become_waiter();
  settle();
  // ARM bell: seq_cst, before the look at the ring; a writer that misses it has published before
  state_.armed.store(1, std::memory_order_seq_cst);
  return true;
}

// The bell that a dead maker has published: what `rung` says may be of the one before.
void Bell::take_over() noexcept {
  // RING bell: seq_cst, as in make()
  state_.rung.store(BellState::kQuiet, std::memory_order_seq_cst);
  add_unit();
}

void Bell::ring() noexcept {
  std::uint32_t seen = BellState::kQuiet;
  // RING bell: seq_cst, behind the publication; pairs with the stores of kQuiet
  if (state_.rung.compare_exchange_strong(seen, BellState::kRung, std::memory_order_seq_cst)) {
    add_unit();
  }
}

bool Bell::attend() noexcept {
  const auto alone = [this] {
    // WAITER: seq_cst, behind the claim of `rung`; pairs with try_arm(): one sees the other
    return state_.waiter.load(std::memory_order_seq_cst) == shm::self();
  };
  std::uint32_t seen = BellState::kQuiet;
  // RING bell: seq_cst, as in ring()
  if (!alone() ||
      !state_.rung.compare_exchange_strong(seen, BellState::kAttended, std::memory_order_seq_cst)) {
    return false;
  }
  if (!alone()) settle();
  return true;
}

void Bell::settle() noexcept {
  std::uint32_t seen = BellState::kAttended;
  // RING bell: seq_cst, before the look at the ring; pairs with wants_ring() and ring()
  state_.rung.compare_exchange_strong(seen, BellState::kQuiet, std::memory_order_seq_cst);
  shm::store_load_barrier();
}

void Bell::add_unit() noexcept {
  if (!open()) return;  // those who waited on it have ended
  const char unit = 0;
  (void)!::write(fd_, &unit, 1);  // full: there are units enough
}

bool Bell::readable() noexcept {
  if (!open()) return false;
  pollfd look{fd_, POLLIN, 0};
  return ::poll(&look, 1, 0) == 1;
}

void Bell::take_unit() noexcept {
  char unit = 0;
  (void)!::read(fd_, &unit, 1);  // another process of this end may have been faster
}

}  // namespace millrace::runtime
