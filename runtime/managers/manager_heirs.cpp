#include "runtime/managers/manager_heirs.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/base/descriptor.hpp"
#include "runtime/base/fork_mutex.hpp"
#include "runtime/managers/manager_server.hpp"
#include "shm/immortal.hpp"

namespace millrace::runtime {

namespace {

ForkMutex& heirlooms_mutex() {
  static shm::Immortal<ForkMutex> mutex(ForkMutex::Level::names);
  return *mutex;
}
Heirloom* g_first = nullptr;  // under heirlooms_mutex()

// What one server holds for the child that is being forked.
struct Legacy {
  std::shared_ptr<ManagerServer> server;
  std::vector<std::shared_ptr<SharedObject>> objects;
  Descriptor here;
  Descriptor childs;
};
// Of the thread that forks: its handlers run on it, on both sides.
thread_local std::vector<Legacy> g_legacies;

}  // namespace

struct ForkedHeirs {
  // Without memory or descriptors the child holds what it inherits from its first call on.
  static void before() noexcept {
    try {
      std::unordered_map<ManagerServer*, Legacy> found;
      {
        const std::scoped_lock guard(heirlooms_mutex());
        for (const Heirloom* each = g_first; each != nullptr; each = each->next_) {
          if (!each->object_->is_here()) continue;
          auto server = each->object_->server();
          if (server == nullptr) continue;
          Legacy& legacy = found[server.get()];
          legacy.server = std::move(server);
          legacy.objects.push_back(each->object_);
        }
      }
      for (auto& [server, legacy] : found) {
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return;
        legacy.here.reset(ends[0]);
        legacy.childs.reset(ends[1]);
        g_legacies.push_back(std::move(legacy));
      }
    } catch (...) {
      static_cast<void>(0);
    }
  }
  static void in_parent() noexcept {
    for (Legacy& each : std::exchange(g_legacies, {})) {
      each.childs.reset();
      each.server->hold(std::move(each.here), std::move(each.objects));
    }
  }
  // The writing ends stay open as long as the child lives.
  static void in_child() noexcept {
    for (Legacy& each : g_legacies) static_cast<void>(each.childs.release());
    g_legacies.clear();
  }

  static void enter(Heirloom& heirloom) {
    static const int watched = ::pthread_atfork(&before, &in_parent, &in_child);
    if (watched != 0) throw std::system_error(watched, std::generic_category(), "pthread_atfork");
    const std::scoped_lock guard(heirlooms_mutex());
    heirloom.next_ = g_first;
    heirloom.place_ = &g_first;
    if (g_first != nullptr) g_first->place_ = &heirloom.next_;
    g_first = &heirloom;
  }
  static void leave(Heirloom& heirloom) noexcept {
    const std::scoped_lock guard(heirlooms_mutex());
    *heirloom.place_ = heirloom.next_;
    if (heirloom.next_ != nullptr) heirloom.next_->place_ = heirloom.place_;
  }
};

Heirloom::Heirloom(std::shared_ptr<SharedObject> object) : object_(std::move(object)) {
  if (object_ != nullptr) ForkedHeirs::enter(*this);
}

Heirloom::~Heirloom() {
  if (object_ != nullptr) ForkedHeirs::leave(*this);
}

}  // namespace millrace::runtime
