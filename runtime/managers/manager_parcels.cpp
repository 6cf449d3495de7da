// What a link tells its server of references that it drops, and of those of parcels
// (manager_travel.hpp).
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <millrace/errors.hpp>
#include <new>
#include <system_error>
#include <utility>

#include "runtime/managers/manager_link.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {

namespace {

// What a destructor waits for a server that was stopped: to connect, for other threads' calls, and
// for a reply. And how long it then does without.
constexpr std::chrono::seconds kTellLimit{1};
constexpr std::chrono::seconds kSilence{10};

// A parcel's reference, by its maker's number; one of the asking process, if that is 0.
Object request_for(const std::string& id, std::uint64_t maker) {
  if (maker == 0) return manager_request({}, "decref", {Object(id)});
  return manager_request({}, "discard", {Object(id), Object(hex_of(maker))});
}

// The reply's kind. `sent`: also when the reply does not come, or cannot be read.
std::string ask(ManagerChannel& channel, const Object& request, bool& sent, Timeout limit) {
  channel.take_owed(limit);
  ManagerRequest encoded(channel, request);
  try {
    std::string kind = channel.exchange(encoded, nullptr, limit).kind;
    sent = true;
    return kind;
  } catch (...) {
    sent = encoded.frame.size() == 0;
    throw;
  }
}

}  // namespace

bool says_ended(const std::system_error& error) noexcept {
  const int code = error.code().value();
  return code == ECONNREFUSED || code == ENOENT || code == EPIPE || code == ECONNRESET ||
         code == EIO;
}

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
  if (ended_.load(std::memory_order_relaxed)) return;  // a hint: nobody would answer
  give_back(id, maker);
}

void ManagerLink::give_back(const std::string& id, std::uint64_t maker) noexcept {
  std::shared_ptr<ManagerLink> told;  // let go of behind the lock; the caller has another
  try {
    std::vector<Dropped> late;
    {
      const std::scoped_lock guard(links_mutex());
      late_.push_back({id, maker});
      if (Timeout::Clock::now() < silent_until_) {
        told = stay_while_late();
        return;
      }
      late.swap(late_);
    }
    while (!late.empty()) {
      const Heard heard = tell(late.back());
      if (heard == Heard::later) break;
      if (heard == Heard::over) late.clear();
      if (heard == Heard::yes) late.pop_back();
    }
    const std::scoped_lock guard(links_mutex());
    late_.insert(late_.end(), late.begin(), late.end());
    told = stay_while_late();
  } catch (const std::bad_alloc&) {
    static_cast<void>(0);  // it goes with its maker, or this process
  }
}

// Behind a change of late_, under the lock: the link lives while it has something to tell; who
// made it anew would not know of that, nor that the server is silent. What it gives back is let
// go of without the lock.
std::shared_ptr<ManagerLink> ManagerLink::stay_while_late() noexcept {
  // relaxed: as in depart()
  if (late_.empty() || ended_.load(std::memory_order_relaxed)) {
    return std::exchange(late_keeps_, nullptr);
  }
  if (late_keeps_ == nullptr) late_keeps_ = weak_from_this().lock();
  return nullptr;
}

// Later: it was not sent. Over: the server has ended, and has nothing to be given back to.
ManagerLink::Heard ManagerLink::tell(const Dropped& dropped) noexcept {
  bool sent = false;
  try {
    dropped.maker == 0 ? tell_own(dropped, sent) : tell_makers(dropped, sent);
    return Heard::yes;
  } catch (const TimeoutError&) {
    const std::scoped_lock guard(links_mutex());
    silent_until_ = Timeout::Clock::now() + kSilence;
  } catch (const KeyboardInterrupt&) {
    // A destructor cannot throw it: the next call that waits does. False: there is another one.
    static_cast<void>(shm::request_interrupt());
  } catch (const AuthenticationError&) {
    return Heard::over;  // another server is there now
  } catch (const std::system_error& error) {
    if (says_ended(error)) return Heard::over;
  } catch (...) {
    static_cast<void>(0);  // no memory; or the end of file, behind which the next is refused
  }
  return sent ? Heard::yes : Heard::later;
}

void ManagerLink::tell_own(const Dropped& dropped, bool& sent) {
  const Object request = request_for(dropped.id, 0);
  const Channel channel = session(kTellLimit);
  if (channel->peer() == ManagerChannel::Peer::python) {
    ManagerChannel alone(dial(kTellLimit));
    ask(alone, request, sent, kTellLimit);
    return;
  }
  const std::unique_lock guard(channel->mutex, kTellLimit);
  if (!guard) throw TimeoutError("a manager's server makes an object, or does not answer");
  ask(*channel, request, sent, kTellLimit);
}

void ManagerLink::tell_makers(const Dropped& dropped, bool& sent) {
  Channel channel;
  {
    const std::scoped_lock guard(links_mutex());
    if (session_ != nullptr && !session_->broken()) channel = session_;
  }
  const Object request = request_for(dropped.id, dropped.maker);
  const bool python = channel != nullptr && channel->peer() == ManagerChannel::Peer::python;
  if (channel != nullptr && !python) {
    const std::unique_lock guard(channel->mutex, std::try_to_lock);
    if (guard) {  // else it may be waiting long, for an object to be made
      ask(*channel, request, sent, kTellLimit);
      return;
    }
  }
  // As a client of its own, who asks one thing; of CPython's, which has no parcels, for another.
  if (!python) {
    ManagerChannel alone(dial(kTellLimit));
    if (ask(alone, request, sent, kTellLimit) == "#RETURN" || channel != nullptr) return;
  }
  ManagerChannel other(dial(kTellLimit));
  ask(other, request_for(dropped.id, 0), sent, kTellLimit);
}

// In front of a call, which waits anyway, and may count the objects. By the session, whose mutex
// the caller has; null: of a server of CPython's. What it throws is the call's; what was not sent
// stays for the next one.
void ManagerLink::tell_late(ManagerChannel* session) {
  std::shared_ptr<ManagerLink> told;  // as in give_back()
  for (;;) {
    Dropped late;
    {
      const std::scoped_lock guard(links_mutex());
      told = stay_while_late();
      if (late_.empty()) return;
      late = std::move(late_.back());
      late_.pop_back();
      silent_until_ = {};
    }
    bool sent = false;
    try {
      if (session != nullptr) {
        ask(*session, request_for(late.id, late.maker), sent, {});
      } else {
        ManagerChannel alone(dial());
        ask(alone, request_for(late.id, 0), sent, {});
      }
    } catch (...) {
      const std::scoped_lock guard(links_mutex());
      if (!sent) late_.push_back(std::move(late));  // no memory: the second error of its kind
      told = stay_while_late();
      throw;
    }
  }
}

}  // namespace millrace::runtime
