#include <millrace/monitor.hpp>
#include <mutex>

#include "shm/interrupt.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

struct Monitor::State {
  std::mutex mutex;
  shm::ParkingSpot changed;
};

Monitor::Monitor() : state_(std::make_unique<State>()) {}
Monitor::~Monitor() = default;

void Monitor::lock() { state_->mutex.lock(); }
void Monitor::unlock() { state_->mutex.unlock(); }

void Monitor::changed() noexcept { state_->changed.notify_all(); }

bool Monitor::wait(Timeout::Clock::time_point deadline) {
  if (deadline != Timeout::Clock::time_point::max() && Timeout::Clock::now() >= deadline) {
    return false;
  }
  const shm::BlockingCall user;
  user.check();
  {
    // The key is taken under the lock, and changes are announced under it: none can be missed.
    const shm::InterruptibleSleep roused(&state_->changed);
    const auto key = state_->changed.prepare();
    state_->mutex.unlock();
    if (!shm::BlockingCall::requested()) state_->changed.wait(key, deadline);
    state_->mutex.lock();
  }
  return true;
}

}  // namespace millrace::runtime
