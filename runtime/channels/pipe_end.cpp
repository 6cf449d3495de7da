#include "runtime/channels/pipe_end.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <millrace/errors.hpp>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/channels/pipe_turn.hpp"
#include "runtime/process/process_record.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kCheckEveryUs = 20'000;

bool has_cpus_to_spare() noexcept {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) > 1;
}

std::uint64_t serial_in(const void* token) noexcept {
  std::uint64_t serial = 0;
  std::memcpy(&serial, token, sizeof serial);
  return serial;
}

void* token_at(std::uint64_t kept) noexcept {
  return reinterpret_cast<void*>(kept);  // NOLINT(performance-no-int-to-ptr): arena address
}

PipeBody& body_of(const ConnectionObject& object) noexcept {
  return *static_cast<PipeBody*>(token_at(object.body));
}

std::unique_ptr<ConnectionEnd> open_end(const ConnectionObject& object, std::uint64_t kept) {
  void* holder = nullptr;  // an address in this process's memory is all that is asked
  void* token = shm::arrive_object(kept, shm::object_type<PipeSide>(), &holder, false);
  std::unique_ptr<PipeEnd> end;
  try {
    end = std::make_unique<PipeEnd>(object, token);
  } catch (...) {
    shm::release_object(token, &holder);
    throw;
  }
  Bell bell(body_of(object).direction[1 - object.side].bell);
  side_changed(body_of(object), object.side, bell);
  return end;
}

std::uint64_t keep_again(const ConnectionObject&, std::uint64_t kept) {
  shm::depart_object(token_at(kept));
  return kept;
}

void drop_kept(const ConnectionObject& object, std::uint64_t kept) noexcept {
  shm::drop_departed_object(token_at(kept));
  Bell bell(body_of(object).direction[1 - object.side].bell);
  side_changed(body_of(object), object.side, bell);
}

}  // namespace

void Direction::make(void* ring) {
  const shm::SpscRing made = shm::SpscRing::create(ring, kGeometry);
  ring_ = ring;
  ::new (static_cast<void*>(producer_)) Producer(made);
  ::new (static_cast<void*>(consumer_)) Consumer(made);
}

void Direction::restart_producer() { ::new (static_cast<void*>(producer_)) Producer(ring()); }

bool token_lives(const PipeSide& side) noexcept {
  return shm::is_live(side.token) &&
         serial_in(token_at(side.token.block + sizeof(shm::ObjectPrefix))) == side.serial;
}

void mark_gone(PipeBody& body, unsigned side) noexcept {
  // GONE end: seq_cst, before the look for sleepers and before the bell is rung; pairs with the
  // looks in pipe_receive.cpp and pipe_send.cpp
  body.side[side].gone.store(1, std::memory_order_seq_cst);
  for (Direction& direction : body.direction) {
    direction.items.notify_all();
    direction.room.notify_all();
  }
}

void side_changed(PipeBody& body, unsigned side, Bell& bell) noexcept {
  PipeSide& mine = body.side[side];
  // MOVE holder: release, after the reference came or went; pairs with watch_peers()
  mine.moves.fetch_add(1, std::memory_order_release);
  if (!token_lives(mine)) mark_gone(body, side);
  if (!bell.armed()) return;
  const std::lock_guard guard(bell_mutex());
  bell.add_unit();
}

PipeEnd::PipeEnd(const ConnectionObject& object, void* token)
    : ConnectionEnd(object.readable, object.writable, false),
      body_ref_(object.body, shm::object_type<PipeBody>(), false),
      body_(static_cast<PipeBody*>(body_ref_.payload())),
      side_(object.side & 1U),
      token_(token),
      peer_checked_(shm::ticks()),
      check_interval_(kCheckEveryUs * shm::ticks_per_us()),
      may_spin_(has_cpus_to_spare()),
      bell_in_(body_->direction[side_].bell),
      bell_out_(body_->direction[1 - side_].bell) {}

PipeEnd::~PipeEnd() { close(); }

const EndOps& PipeEnd::ops() noexcept {
  static constexpr EndOps kOps{&open_end, &keep_again, &drop_kept};
  return kOps;
}

std::uint64_t PipeEnd::depart() {
  void* const token = token_.load(std::memory_order_relaxed);  // a constant until it is shut
  if (token == nullptr) throw_handle_closed();
  shm::depart_object(token);
  return reinterpret_cast<std::uint64_t>(token);
}

// Threads of this process that are blocked find closed() and end.
void PipeEnd::shut() noexcept {
  // relaxed: only one thread comes here
  if (void* const token = token_.exchange(nullptr, std::memory_order_relaxed)) {
    shm::release_object(token, this);
  }
  for (Direction& direction : body_->direction) {
    direction.items.notify_all();
    direction.room.notify_all();
  }
  side_changed(*body_, side_, bell_out_);
  if (readable() && !token_lives(me())) discard_unread();
  const std::lock_guard guard(bell_mutex());
  drop_watches();
  if (epoll_ >= 0) ::close(std::exchange(epoll_, -1));
  bell_in_.leave();
  bell_in_.forget();
  bell_out_.forget();
}

// ---- the peer

bool PipeEnd::peer_gone() {
  PipeSide& other = peer();
  // GONE end: acquire, what its last holder did comes before
  if (other.gone.load(std::memory_order_acquire) != 0) return true;
  const std::uint64_t now = shm::ticks();
  // relaxed: a time; the kernel is asked by somebody from time to time
  if (now - peer_checked_.load(std::memory_order_relaxed) < check_interval_) return false;
  return peer_gone_for_certain();
}

bool PipeEnd::peer_gone_for_certain() {
  peer_checked_.store(shm::ticks(), std::memory_order_relaxed);  // see peer_gone()
  PipeSide& other = peer();
  // GONE end: acquire, see peer_gone()
  if (other.gone.load(std::memory_order_acquire) != 0) return true;
  (void)living_children();  // the messages that were to make them may hold the end
  shm::reap_messages();     // and those of others
  if (token_lives(other) && !shm::holders_of(other.token).none()) return false;
  mark_gone(*body_, 1 - side_);
  ring_for_the_living();
  return true;
}

// The end of the other side is an event for all who wait on this side's descriptors.
void PipeEnd::ring_for_the_living() noexcept {
  if (!bell_in_.armed()) return;
  const std::lock_guard guard(bell_mutex());
  bell_in_.add_unit();
}

// ---- fileno()

int PipeEnd::fileno() {
  check_open();
  if (const int fd = own_epoll(); fd >= 0) return fd;
  wait_for_epoll();
  return begin_fileno();
}

int PipeEnd::try_fileno() {
  check_open();
  if (const int fd = own_epoll(); fd >= 0) return fd;
  return try_open_epoll() ? begin_fileno() : -1;
}

// This process's, -1: it has none.
int PipeEnd::own_epoll() {
  const std::lock_guard guard(bell_mutex());
  return epoll_owner_ == own_pid() ? epoll_ : -1;
}

// It has just been opened: what came before is told.
int PipeEnd::begin_fileno() {
  RecvTurn turn(*this);
  if (readable() && turn.try_take() && !in().consumer().try_peek() && !peer_gone()) return epoll_;
  const std::lock_guard guard(bell_mutex());
  bell_in_.add_unit();
  return epoll_;
}

// Another process may be about to say which bell there is, and be stopped: it is waited for without
// a lock, on the receivers' spot, where close() and SIGINT rouse who waits.
void PipeEnd::wait_for_epoll() {
  if (try_open_epoll()) return;
  shm::Pace pace(Timeout::Clock::time_point::max());
  for (;;) {
    [[maybe_unused]] const auto sleep = pace.sleep(in().items);
    const auto key = in().items.prepare();
    if (try_open_epoll()) return;
    pace.check();
    in().items.wait(key, pace.until());
    pace.tick();
  }
}

bool PipeEnd::try_open_epoll() {
  const std::lock_guard guard(bell_mutex());
  check_open();  // shut() comes to the mutex later, and closes what is opened here
  if (epoll_ >= 0 && epoll_owner_ == own_pid()) return true;  // by another thread
  if (!bell_in_.try_arm()) return false;
  in().items.notify_all();  // see wait_for_epoll()
  open_epoll();
  return true;
}

// With bell_mutex(), armed. A forked child has its parent's at first: its own takes the same
// number.
void PipeEnd::open_epoll() {
  const int made = ::epoll_create1(EPOLL_CLOEXEC);
  if (made < 0) {
    throw std::system_error(errno, std::generic_category(), "epoll_create1 for fileno()");
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  if (::epoll_ctl(made, EPOLL_CTL_ADD, bell_in_.fd(), &event) != 0) {
    const int error = errno;
    ::close(made);
    throw std::system_error(error, std::generic_category(), "epoll_ctl for fileno()");
  }
  if (epoll_ >= 0) {
    drop_watches();
    ::dup3(made, epoll_, O_CLOEXEC);
    ::close(made);
  } else {
    epoll_ = made;
  }
  epoll_owner_ = own_pid();
  watch_peers();
}

void PipeEnd::drop_watches() noexcept {
  for (const Watched& each : watched_) {
    if (epoll_owner_ == own_pid()) ::epoll_ctl(epoll_, EPOLL_CTL_DEL, each.fd, nullptr);
    ::close(each.fd);
  }
  watched_.clear();
}

bool PipeEnd::watches(shm::ProcessId process) const noexcept {
  return std::any_of(watched_.begin(), watched_.end(),
                     [&](const Watched& each) { return each.process == process; });
}

// False: it has ended.
bool PipeEnd::watch(shm::ProcessId process) {
  shm::ProcessTable& table = shm::ProcessTable::instance();
  const pid_t pid = table.pid(process);
  // One that begins with a message may be long in coming, and tells when it opens its own.
  // relaxed: a hint; whoever has read it has a pid
  const bool begins = table.message_of(process).load(std::memory_order_relaxed) != 0;
  if (pid <= 0 && begins) return table.check_alive(process);
  const int fd = pid > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U)) : -1;
  if (fd < 0) return pid > 0 && errno != ESRCH;  // RESERVED, or no pidfds here: slices must do
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = process;
  watched_.push_back({process, fd});
  ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  return table.check_alive(process);
}

// With bell_mutex(). Makes the set of pidfds that of the living who have the other end open.
void PipeEnd::watch_peers() {
  for (;;) {
    // MOVE holder: acquire, before the search; whoever comes or goes behind it rings again
    seen_moves_ = peer().moves.load(std::memory_order_acquire);
    const shm::Holders holders = shm::holders_of(peer().token);
    if (!token_lives(peer()) || holders.none()) {
      mark_gone(*body_, 1 - side_);
      bell_in_.add_unit();
    }
    std::erase_if(watched_, [&](const Watched& each) {
      const auto& now = holders.processes;
      if (std::find(now.begin(), now.end(), each.process) != now.end()) return false;
      ::epoll_ctl(epoll_, EPOLL_CTL_DEL, each.fd, nullptr);
      ::close(each.fd);
      return true;
    });
    bool all_live = true;
    for (const shm::ProcessId process : holders.processes) {
      if (process == shm::self() || watches(process)) continue;
      all_live = watch(process) && all_live;
    }
    if (all_live) return;
  }
}

// Looks at what is behind fileno(): true when the bell was readable.
bool PipeEnd::peers_moved() {
  bool readable = false;
  bool moved = false;
  {
    const std::lock_guard guard(bell_mutex());
    if (epoll_ < 0 || epoll_owner_ != own_pid()) return false;
    std::array<epoll_event, 8> events{};
    const int count = ::epoll_wait(epoll_, events.data(), events.size(), 0);
    for (int i = 0; i < count; ++i) {
      (events[static_cast<std::size_t>(i)].data.u64 == 0 ? readable : moved) = true;
    }
    // MOVE holder: acquire, see watch_peers()
    moved = moved || peer().moves.load(std::memory_order_acquire) != seen_moves_;
  }
  if (!moved) return readable;
  (void)living_children();  // the messages that were to make them may hold the end
  shm::reap_messages();     // and those of others
  const std::lock_guard guard(bell_mutex());
  if (epoll_ >= 0) watch_peers();
  return readable;
}

// With the recv lock, when the ring looks empty: the bell's unit is taken, or stays.
void PipeEnd::quiet() {
  if (!bell_in_.armed()) return;
  bool readable = peers_moved();
  const std::lock_guard guard(bell_mutex());
  readable = readable || bell_in_.readable();
  if (!readable) return;
  BellState& bell = bell_in_.state();
  // RING bell: pipe_bell.cpp sets it; seq_cst, before the look at the ring
  bell.rung.store(BellState::kQuiet, std::memory_order_seq_cst);
  shm::store_load_barrier();
  // GONE end: seq_cst, behind the store above; who sets it adds a unit afterwards
  if (in().consumer().try_peek() || peer().gone.load(std::memory_order_seq_cst) != 0) {
    bell.rung.store(BellState::kRung, std::memory_order_relaxed);  // the unit is still there
    return;
  }
  bell_in_.take_unit();
}

// With the recv lock, by one who has attended: see pipe_bell.hpp.
void PipeEnd::settle() noexcept {
  bell_in_.settle();
  bool left = true;
  try {
    left = static_cast<bool>(in().consumer().try_peek());
  } catch (const Corrupt&) {  // for the next one to find
  }
  if (!left) return;
  const std::lock_guard guard(bell_mutex());
  bell_in_.ring();
}

}  // namespace millrace::runtime
