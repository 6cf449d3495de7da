// mp::connection::wait.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <millrace/connection.hpp>
#include <millrace/errors.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/channels/connection_end.hpp"
#include "shm/interrupt.hpp"

namespace millrace::connection {
namespace {

using Clock = Timeout::Clock;

// A look without asking for descriptors: what is ready of the Connections, and of the descriptors
// as `fds`, one for each object, says.
std::vector<Waitable> find_ready(const std::vector<Waitable>& objects,
                                 const std::vector<pollfd>& fds) {
  std::vector<Waitable> ready;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (objects[i].is_connection()) {
      if (runtime::end_of(objects[i].connection()).poll(std::chrono::seconds(0))) {
        ready.push_back(objects[i]);
      }
      continue;
    }
    if ((fds[i].revents & POLLNVAL) != 0) {
      throw std::system_error(EBADF, std::generic_category(),
                              "wait: descriptor " + std::to_string(fds[i].fd));
    }
    if (fds[i].revents != 0) ready.push_back(objects[i]);
  }
  return ready;
}

void refuse_one_given_twice(const std::vector<Waitable>& objects) {
  std::vector<std::pair<const runtime::ConnectionEnd*, int>> all;
  all.reserve(objects.size());
  for (const Waitable& each : objects) {
    if (each.is_connection()) {
      all.emplace_back(&runtime::end_of(each.connection()), -1);
    } else {
      all.emplace_back(nullptr, each.fileno());
    }
  }
  std::ranges::sort(all);
  const auto twice = std::ranges::adjacent_find(all);
  if (twice == all.end()) return;
  const bool connection = twice->first != nullptr;
  throw KeyError("wait: " + (connection ? "a Connection"
                                        : "descriptor " + std::to_string(twice->second)) +
                 " is given twice");
}

// Those of the Connections; false when one is not there yet.
bool find_descriptors(const std::vector<Waitable>& objects, std::vector<pollfd>& fds) {
  bool all = true;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (!objects[i].is_connection() || fds[i].fd >= 0) continue;
    fds[i].fd = runtime::end_of(objects[i].connection()).try_fileno();
    all = all && fds[i].fd >= 0;
  }
  return all;
}

}  // namespace

const Connection& Waitable::connection() const {
  if (!connection_) throw TypeError("this Waitable is a descriptor, no Connection");
  return *connection_;
}

std::vector<Waitable> wait(std::initializer_list<Waitable> objects, Timeout timeout) {
  return wait(std::vector<Waitable>(objects), timeout);
}

std::vector<Waitable> wait(const std::vector<Waitable>& objects, Timeout timeout) {
  // Connections are looked at once more though no descriptor says so, soon where one has none yet,
  // since another process that is about to make what it waits on may be stopped.
  constexpr auto kSlice = std::chrono::milliseconds(500);
  constexpr auto kSoon = std::chrono::milliseconds(1);
  const Clock::time_point deadline = timeout.deadline();
  std::vector<pollfd> fds;
  for (const Waitable& each : objects) {
    if (each.is_connection()) {
      runtime::end_of(each.connection()).check_readable();
    } else if (each.fileno() < 0) {  // poll() would pass over it
      throw ValueError("wait: invalid file descriptor: " + std::to_string(each.fileno()));
    }
    fds.push_back({each.is_connection() ? -1 : each.fileno(), POLLIN, 0});
  }
  refuse_one_given_twice(objects);
  const shm::BlockingCall call;
  call.poll(fds, Clock::now());
  for (;;) {
    std::vector<Waitable> ready = find_ready(objects, fds);
    const Clock::time_point now = Clock::now();
    if (!ready.empty() || now >= deadline) return ready;
    const auto slice = find_descriptors(objects, fds) ? kSlice : kSoon;
    call.poll(fds, deadline - now > slice ? now + slice : deadline);
  }
}

}  // namespace millrace::connection
