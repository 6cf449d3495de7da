#include "runtime/pool/carriers.hpp"

#include <pthread.h>
#include <sched.h>

#include <csignal>
#include <cstring>
#include <millrace/pool_entries.hpp>
#include <new>

#include "runtime/base/signals_blocked.hpp"
#include "runtime/process/fork_hazards.hpp"
#include "shm/arena.hpp"
#include "shm/parking.hpp"
#include "shm/stream_copy.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kLine = 64;

std::size_t lines(std::size_t bytes) noexcept { return (bytes + kLine - 1) / kLine * kLine; }

void ring(CarrierBox& box) noexcept {
  // RING carrier: release: who sees the ring sees what it is for
  box.bell.fetch_add(1, std::memory_order_release);
  shm::futex_wake(box.bell, 1);
}

// A hint: where the system does not let a thread have that cpu it runs where it may.
void stay_on(int cpu) noexcept {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(cpu), &one);
  ::sched_setaffinity(0, sizeof one, &one);
}

}  // namespace

Carriers::Carriers(const std::vector<int>& cpus, std::size_t in, std::size_t out, bool stream)
    : stream_(stream) {
  const std::size_t head = sizeof(CarrierBox) * cpus.size();
  const std::size_t each = lines(in) + lines(out);
  memory_ =
      static_cast<std::byte*>(shm::Arena::instance().allocate(kLine + head + each * cpus.size()));
  const auto at = lines(reinterpret_cast<std::uintptr_t>(memory_));
  auto* const first = reinterpret_cast<std::byte*>(at);
  boxes_ = new (first) CarrierBox[cpus.size()];
  try {
    threads_.reserve(cpus.size());
    for (std::size_t i = 0; i < cpus.size(); ++i) {
      boxes_[i].in = first + head + each * i;
      boxes_[i].out = boxes_[i].in + lines(in);
      start(cpus[i], i);
    }
  } catch (...) {
    finish();
    throw;
  }
}

Carriers::~Carriers() { finish(); }

void Carriers::start(int cpu, std::size_t seat) {
  // What a thread itself does wrong comes to the program's handler all the same: the arrays may be
  // memory that is made when it is touched.
  const SignalsBlocked quiet{SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
  threads_.emplace_back([this, cpu, seat, own = std::make_unique<OwnThread>()] {
    stay_on(cpu);
    carry(boxes_[seat]);
  });
}

void Carriers::carry(CarrierBox& box) {
  for (;;) {
    // STOP carrier: acquire: what was posted before it is seen below
    const bool last = stop_.load(std::memory_order_acquire);
    // RING carrier: acquire: what was rung for is seen below, or the bell has changed
    const std::uint32_t bell = box.bell.load(std::memory_order_acquire);
    // ASK carrier: acquire, before the look at what is posted (invariant 1)
    const std::uint32_t asked = box.asked.load(std::memory_order_acquire);
    // POST carrier: acquire: the bytes
    const std::uint32_t posted = box.posted.load(std::memory_order_acquire);
    bool any = false;
    if (posted != box.stored.load(std::memory_order_relaxed)) {
      const auto copy = stream_ ? &shm::stream_copy : &shm::near_copy;
      copy(reinterpret_cast<void*>(box.to), box.out, box.to_bytes);
      box.stored.store(posted, std::memory_order_relaxed);  // ordered by SERVE
      any = true;
    }
    if (asked != box.served.load(std::memory_order_relaxed)) {
      std::memcpy(box.in, reinterpret_cast<const void*>(box.from), box.from_bytes);
      // SERVE carrier: release: the worker sees the bytes, and that its last ones are stored
      box.served.store(asked, std::memory_order_release);
      shm::futex_wake(box.served, 1);
      any = true;
    }
    if (any) continue;
    if (last) return;
    shm::futex_wait(box.bell, bell);
  }
}

void Carriers::finish() noexcept {
  // STOP carrier: release: all posts of this call come before it
  stop_.store(true, std::memory_order_release);
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    ring(boxes_[i]);
    threads_[i].join();
  }
  shm::Arena::instance().deallocate(memory_);
}

namespace {

struct Seat {
  int index = 0;
  int home = -1;
};
Seat g_seat;  // this worker's; set once at its start

/// While it lives this process stays on its own cpu, where its carrier is: the kernel would wake it
/// wherever there is a free one. User code runs with what the process is bound to.
class AtHome {
 public:
  explicit AtHome(int home) noexcept {
    const auto cpu = static_cast<std::size_t>(home);
    if (home < 0 || ::sched_getaffinity(0, sizeof allowed_, &allowed_) != 0 ||
        !CPU_ISSET(cpu, &allowed_) || CPU_COUNT(&allowed_) < 2) {
      return;
    }
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    moved_ = ::sched_setaffinity(0, sizeof only, &only) == 0;
  }
  AtHome(const AtHome&) = delete;
  AtHome& operator=(const AtHome&) = delete;
  ~AtHome() {
    if (moved_) ::sched_setaffinity(0, sizeof allowed_, &allowed_);
  }

 private:
  cpu_set_t allowed_{};
  bool moved_ = false;
};

// Until everything asked for is served.
void await_carrier(CarrierBox& box) noexcept {
  const std::uint32_t asked = box.asked.load(std::memory_order_relaxed);  // this seat's own
  for (;;) {
    // SERVE carrier: acquire: the bytes
    const std::uint32_t served = box.served.load(std::memory_order_acquire);
    if (served == asked) return;
    shm::futex_wait(box.served, served);
  }
}

}  // namespace

void set_carried_seat(int seat, int home) noexcept { g_seat = {seat, home}; }

CarriedPiece carry_in(std::uint64_t boxes, std::uint64_t from, std::size_t bytes) noexcept {
  CarrierBox& box = reinterpret_cast<CarrierBox*>(boxes)[g_seat.index];
  const AtHome home(g_seat.home);
  const std::uint32_t asked = box.asked.load(std::memory_order_relaxed);  // this seat's own
  // SERVE carrier: acquire: the carrier reads and writes the box no more
  if (box.served.load(std::memory_order_acquire) != asked) {  // asked by one that died
    ring(box);
    await_carrier(box);
  }
  box.from = from;
  box.from_bytes = bytes;
  // ASK carrier: release: what is asked for, and the post before it
  box.asked.store(asked + 1, std::memory_order_release);
  ring(box);
  await_carrier(box);
  return {box.in, box.out};
}

void carry_out(std::uint64_t boxes, std::uint64_t to, std::size_t bytes) noexcept {
  CarrierBox& box = reinterpret_cast<CarrierBox*>(boxes)[g_seat.index];
  box.to = to;
  box.to_bytes = bytes;
  // POST carrier: release: who sees the post sees the bytes
  box.posted.store(box.posted.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

}  // namespace millrace::runtime
