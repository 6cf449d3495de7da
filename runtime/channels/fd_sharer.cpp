#include "runtime/channels/fd_sharer.hpp"

#include <openssl/crypto.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <list>
#include <map>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/object.hpp>
#include <mutex>
#include <new>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/own_pid.hpp"
#include "runtime/base/signals_blocked.hpp"
#include "runtime/channels/acceptor.hpp"
#include "runtime/channels/fd_message.hpp"
#include "runtime/process/exit.hpp"
#include "runtime/process/fork_hazards.hpp"
#include "runtime/process/process_record.hpp"
#include "runtime/values/pickle_handles.hpp"
#include "shm/immortal.hpp"

namespace millrace::runtime {
namespace {

using Clock = Timeout::Clock;

constexpr int kBacklog = 64;
// For a handshake, and then for the request.
constexpr std::chrono::seconds kPatience{5};
// Until a process without descriptors looks again who has come.
constexpr int kRetryMs = 20;
// Behind all finalizers of the user's, and behind the children, who may still ask.
constexpr int kLast = -1000;

class Sharer {
 public:
  explicit Sharer(const Bytes& key)
      : acceptor_({.family = "AF_UNIX", .backlog = kBacklog}, {auth_key(key, true), kPatience}) {}

  [[nodiscard]] const connection::Address& address() const noexcept { return acceptor_.address(); }
  /// Its thread's life.
  void serve();

  // The rest with the mutex.

  void add(std::uint64_t key, Descriptor fd) { waiting_.emplace(key, std::move(fd)); }
  void take_back(std::uint64_t key) noexcept {
    if (waiting_.erase(key) != 0 && waiting_.empty()) end();
  }
  void end() noexcept;
  void abandon() noexcept {
    waiting_.clear();
    callers_.clear();
    acceptor_.abandon();
  }

 private:
  struct Caller {
    Descriptor socket;
    Clock::time_point until;
    FdRequest request{};
  };
  using Callers = std::list<Caller>;

  void sleep();
  void admit();
  void answer_all();
  bool answer(Caller& caller);

  Acceptor acceptor_;
  std::vector<pollfd> events_;  // the thread's
  std::map<std::uint64_t, Descriptor> waiting_;
  Callers callers_;
};

struct Sharing {
  ForkMutex mutex{ForkMutex::Level::names};
  Sharer* sharer = nullptr;  // that new descriptors go to
  std::uint64_t last_key = 0;
};

Sharing& sharing() {
  static shm::Immortal<Sharing> instance;
  return *instance;
}

void forget_parents() noexcept {
  if (Sharer* const parents = std::exchange(sharing().sharer, nullptr)) parents->abandon();
}

[[maybe_unused]] const bool g_prepared =
    (static_cast<void>(sharing()), run_after_fork_in_child(&forget_parents), true);

struct EndSharing final : Deferred {
  void call() override {
    Sharing& all = sharing();
    const std::lock_guard guard(all.mutex);
    if (all.sharer != nullptr) all.sharer->end();
  }
};

void arrange_end() {
  // relaxed: at worst two are registered, and the second finds nothing
  static std::atomic<pid_t> arranged{0};
  const pid_t before = arranged.load(std::memory_order_relaxed);
  if (before == own_pid()) return;
  // OpenSSL's own end at exit comes before whatever was arranged earlier, and handshakes with it:
  // children are waited for, and served, before that. A child inherits this arrangement.
  if (before == 0 &&
      (::OPENSSL_init_crypto(0, nullptr) != 1 || std::atexit([] { run_exit_sequence(); }) != 0)) {
    throw std::bad_alloc();
  }
  (void)add_finalizer(std::make_unique<EndSharing>(), kLast);
  arranged.store(own_pid(), std::memory_order_relaxed);
}

// With the mutex. No signal is for its thread.
Sharer* start_sharer(const Bytes& key) {
  auto made = std::make_unique<Sharer>(key);
  auto own = std::make_unique<OwnThread>();
  const SignalsBlocked quiet;
  Sharer* const sharer = made.get();
  std::thread([own = std::move(own), made = std::move(made)] { made->serve(); }).detach();
  return sharer;
}

int milliseconds_until(Clock::time_point until) {
  if (until == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

void Sharer::serve() {
  try {
    for (;;) {
      sleep();
      admit();
      answer_all();
    }
  } catch (const std::exception&) {  // it has ended, or there is no memory left to serve with
    const std::lock_guard guard(sharing().mutex);
    end();
    callers_.clear();
  }
}

// Until somebody comes or says something.
void Sharer::sleep() {
  const Acceptor::Alarm alarm = acceptor_.alarm();
  Clock::time_point until = alarm.until;
  events_.assign(1, {alarm.event, POLLIN, 0});
  {
    const std::lock_guard guard(sharing().mutex);
    for (const Caller& each : callers_) {
      events_.push_back({each.socket.get(), POLLIN, 0});
      until = std::min(until, each.until);
    }
  }
  (void)::poll(events_.data(), events_.size(), milliseconds_until(until));
}

void Sharer::admit() {
  for (;;) {
    try {
      std::optional<Accepted> accepted = acceptor_.try_accept();
      if (!accepted) return;
      const std::lock_guard guard(sharing().mutex);
      callers_.push_back({std::move(accepted->socket), Clock::now() + kPatience});
    } catch (const AuthenticationError&) {  // that one only; it has been told
      static_cast<void>(0);
    } catch (const std::system_error& error) {
      if (error.code().value() == EBADF) throw;
      (void)::poll(nullptr, 0, kRetryMs);  // no descriptors: those who call wait in the queue
      return;
    }
  }
}

void Sharer::answer_all() {
  const std::lock_guard guard(sharing().mutex);
  const auto now = Clock::now();
  std::erase_if(callers_, [&](Caller& each) { return answer(each) || each.until <= now; });
}

// True when nothing more is to be said.
bool Sharer::answer(Caller& caller) {
  const std::optional<std::uint64_t> key = caller.request.receive(caller.socket.get());
  if (!key) return caller.request.is_over();
  const auto found = waiting_.find(*key);
  if (found == waiting_.end()) return true;
  const Descriptor given = std::move(found->second);
  waiting_.erase(found);
  if (waiting_.empty()) end();
  (void)send_fd(caller.socket.get(), given.get());  // who has gone does not get it
  return true;
}

void Sharer::end() noexcept {
  if (sharing().sharer == this) sharing().sharer = nullptr;
  waiting_.clear();
  acceptor_.close();  // wakes the thread
}

// Keys are numbers of the process's: of a sharer that has ended nothing is found.
void take_back(std::uint64_t key) noexcept {
  Sharing& all = sharing();
  const std::lock_guard guard(all.mutex);
  if (all.sharer != nullptr) all.sharer->take_back(key);
}

}  // namespace

SharedFd share_fd(Descriptor fd) {
  const Bytes authkey = own_authkey();
  arrange_end();
  SharedFd shared;
  Sharing& all = sharing();
  {
    const std::lock_guard guard(all.mutex);
    if (all.sharer == nullptr) all.sharer = start_sharer(authkey);
    shared = {all.sharer->address(), ++all.last_key};
    all.sharer->add(shared.key, std::move(fd));
  }
  DepartingHandles::add(&take_back, shared.key);
  return shared;
}

}  // namespace millrace::runtime
