// What a link tells its server of parcels (manager_travel.hpp).
#include <algorithm>
#include <chrono>
#include <millrace/errors.hpp>
#include <system_error>
#include <utility>

#include "runtime/managers/manager_link.hpp"
#include "runtime/managers/manager_wire.hpp"

namespace millrace::runtime {

namespace {

// What a destructor waits for a server that was stopped: to connect, and for a reply. And how long
// it then does without.
constexpr std::chrono::seconds kTellLimit{1};
constexpr std::chrono::seconds kSilence{10};

}  // namespace

std::uint64_t ManagerLink::depart(const std::string& id) {
  if (ended_.load(std::memory_order_relaxed)) return 0;  // a hint, as in call_object()
  const bool python = session()->peer() == ManagerChannel::Peer::python;
  try {
    call_server(python ? "incref" : "depart", {Object(id)});
  } catch (const std::system_error&) {
    if (ended_.load(std::memory_order_relaxed)) return 0;  // another thread has closed it
    throw;
  }
  std::vector<std::shared_ptr<ManagerLink>> over;  // let go of behind the lock
  const std::scoped_lock guard(links_mutex());
  // relaxed: shut_down() takes the lock between setting it and letting go of kept_
  if (python || kept_ != nullptr || ended_.load(std::memory_order_relaxed)) return client_;
  kept_ = shared_from_this();
  for (ManagerLink* const each : links()) {
    if (each == this || each->kept_ == nullptr) continue;
    if (each->session_ == nullptr || each->session_->hung_up()) {
      over.push_back(std::move(each->kept_));
    }
  }
  return client_;
}

void ManagerLink::discard(const std::string& id, std::uint64_t maker) noexcept {
  try {
    if (ended_.load(std::memory_order_relaxed)) return;  // a hint: nobody would answer
    std::vector<std::pair<std::string, std::uint64_t>> late;
    {
      const std::scoped_lock guard(links_mutex());
      late_.emplace_back(id, maker);
      if (Timeout::Clock::now() < silent_until_) return;
      late.swap(late_);
    }
    while (!late.empty() && tell(late.back().first, late.back().second)) late.pop_back();
    if (late.empty()) return;
    const std::scoped_lock guard(links_mutex());
    late_.insert(late_.end(), late.begin(), late.end());
  } catch (...) {
    static_cast<void>(0);  // the server has ended
  }
}

// False when the server is silent, and will not hear of it.
bool ManagerLink::tell(const std::string& id, std::uint64_t maker) {
  const Object request = manager_request({}, "discard", {Object(id), Object(hex_of(maker))});
  Channel channel;
  {
    const std::scoped_lock guard(links_mutex());
    if (session_ != nullptr && !session_->broken()) channel = session_;
  }
  bool sent = false;
  try {
    const bool python = channel != nullptr && channel->peer() == ManagerChannel::Peer::python;
    if (channel != nullptr && !python) {
      const std::unique_lock guard(channel->mutex, std::try_to_lock);
      if (guard) {  // else it may be waiting long, for an object to be made
        channel->take_owed(kTellLimit);
        sent = true;
        channel->exchange(request, nullptr, kTellLimit);
        return true;
      }
    }
    // As a client of its own, who asks one thing; of CPython's, which has no parcels, for another.
    ManagerChannel alone(dial(kTellLimit));
    sent = true;
    const bool heard = !python && alone.exchange(request, nullptr, kTellLimit).kind == "#RETURN";
    if (heard || (channel != nullptr && !python)) return true;
    ManagerChannel other(dial(kTellLimit));
    other.exchange(manager_request({}, "decref", {Object(id)}), nullptr, kTellLimit);
  } catch (const TimeoutError&) {
    const std::scoped_lock guard(links_mutex());
    silent_until_ = Timeout::Clock::now() + kSilence;
    return sent;
  }
  return true;
}

}  // namespace millrace::runtime
