#include "runtime/values/pickle_handles.hpp"

#include <atomic>
#include <utility>

#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

constinit std::atomic<const HandlePickler*> g_picklers{nullptr};
constinit std::atomic<const HandleRebuilder*> g_rebuilders{nullptr};
thread_local DepartingHandles* g_departing = nullptr;

template <class Entry>
void add(std::atomic<const Entry*>& list, Entry& entry) noexcept {
  const Entry* first = list.load(std::memory_order_relaxed);  // the exchange orders
  do {
    entry.next = first;
    // PUBLISH entry: complete before it can be found.
  } while (!list.compare_exchange_weak(first, &entry, std::memory_order_release,
                                       std::memory_order_relaxed));
}

}  // namespace

void add_handle_pickler(HandlePickler& entry) noexcept { add(g_picklers, entry); }
void add_handle_rebuilder(HandleRebuilder& entry) noexcept { add(g_rebuilders, entry); }

DepartingHandles::DepartingHandles() noexcept : before_(std::exchange(g_departing, this)) {}

DepartingHandles::~DepartingHandles() {
  g_departing = before_;
  for (const Left& each : left_) each.undo(each.key);
}

void DepartingHandles::add(void (*undo)(std::uint64_t) noexcept, std::uint64_t key) {
  if (g_departing == nullptr) return;
  try {
    g_departing->left_.push_back({undo, key});
  } catch (...) {
    undo(key);
    throw;
  }
}

Object python_of_handle(const Object& handle) {
  const std::string_view type = Access::node<HandleNode>(handle)->ops->type;
  // OBSERVE entry: it is complete
  for (auto* each = g_picklers.load(std::memory_order_acquire); each != nullptr;
       each = each->next) {
    if (each->type == type) return each->reduce(handle);
  }
  throw TypeError("cannot pickle '" + handle.type_name() +
                  "' object: it means nothing to another program");
}

Object handle_of_python(Object made, HandleArrival& arrival) {
  const auto parts = Access::node<ItemsNode>(made)->span();
  if (!is_kind(parts[0], ValueKind::global)) return made;
  const std::string_view name = Access::text(Access::node<ItemsNode>(parts[0])->items[1]);
  // OBSERVE entry: it is complete
  for (auto* each = g_rebuilders.load(std::memory_order_acquire); each != nullptr;
       each = each->next) {
    if (each->name == name) return each->rebuild(std::move(made), arrival);
  }
  return made;
}

}  // namespace millrace::runtime
