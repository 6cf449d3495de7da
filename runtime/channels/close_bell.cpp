#include "runtime/channels/close_bell.hpp"

#include <sys/eventfd.h>

#include <cerrno>
#include <mutex>
#include <system_error>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "shm/above_streams.hpp"
#include "shm/immortal.hpp"

namespace millrace::runtime {
namespace {

struct Current {
  ForkMutex mutex{ForkMutex::Level::names};  // guards `bell`; nothing is called inside
  std::weak_ptr<const CloseBell> bell;
};

// Never destroyed: connections of static storage are.
Current& current() {
  static shm::Immortal<Current> instance;
  return *instance;
}

}  // namespace

CloseBell::CloseBell()
    : event_(shm::above_streams(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))), owner_(own_pid()) {
  if (event_.get() < 0) {
    throw std::system_error(errno, std::generic_category(), "eventfd of a wait on a connection");
  }
}

std::shared_ptr<const CloseBell> CloseBell::take() {
  Current& all = current();
  {
    const std::lock_guard guard(all.mutex);
    if (auto bell = all.bell.lock(); bell && bell->owner_ == own_pid()) return bell;
  }
  auto made = std::make_shared<const CloseBell>();
  const std::lock_guard guard(all.mutex);
  if (auto bell = all.bell.lock(); bell && bell->owner_ == own_pid()) return bell;
  all.bell = made;
  return made;
}

bool CloseBell::is_current() const noexcept { return owner_ == own_pid(); }

void CloseBell::ring() noexcept {
  Current& all = current();
  std::shared_ptr<const CloseBell> rung;
  {
    const std::lock_guard guard(all.mutex);
    rung = all.bell.lock();
    all.bell.reset();
  }
  if (rung && rung->owner_ == own_pid()) ::eventfd_write(rung->fd(), 1);
}

}  // namespace millrace::runtime
