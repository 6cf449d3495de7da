// Barrier: the handle, its default timeout and its action.
#include "shm/barrier.hpp"

#include <unistd.h>

#include <cstring>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <vector>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/sync/synchronize.hpp"
#include "shm/message_scope.hpp"

namespace millrace {
namespace {

// In front of the encoded action.
struct ActionHead {
  std::uint64_t runner;
  std::uint64_t bytes;
  std::int64_t timeout;  // of wait() without one, in nanoseconds; negative: none
};

shm::Barrier& barrier_of(const shm::ObjectRef& object) {
  return runtime::payload_of<shm::Barrier>(object, "Barrier");
}

// Its head lies behind the address that the barrier keeps; 0 where there is nothing to keep.
const ActionHead* head_of(const shm::Barrier& barrier) {
  return reinterpret_cast<const ActionHead*>(barrier.action());
}

void run(void* head) {
  const auto* action = static_cast<const ActionHead*>(head);
  const auto runner = reinterpret_cast<runtime::ActionRunner>(
      runtime::resolve_function(static_cast<runtime::FunctionId>(action->runner)));
  runner(reinterpret_cast<const std::byte*>(action + 1), action->bytes);
}

// Those that a processor each can be had for wait spinning for a moment: the others come soon.
shm::WaitPolicy policy_for(const shm::Barrier& barrier) {
  static const long cpus = ::sysconf(_SC_NPROCESSORS_ONLN);
  shm::WaitPolicy policy = runtime::wait_policy();
  policy.spin = std::chrono::microseconds(barrier.parties() <= cpus ? 20 : 0);
  policy.slice = std::chrono::milliseconds(10);
  return policy;
}

}  // namespace

namespace runtime {

void keep_for_life(std::shared_ptr<const void> thing) {
  static ForkMutex mutex(ForkMutex::Level::names);
  static auto& things = *new std::vector<std::shared_ptr<const void>>;
  const std::lock_guard guard(mutex);
  things.push_back(std::move(thing));
}

shm::ObjectRef make_barrier(int parties, Timeout timeout, const BarrierAction& action) {
  if (parties < 1 || parties > static_cast<int>(shm::Barrier::kMostParties)) {
    throw ValueError("Barrier: parties is " + std::to_string(parties) + ", must be 1 to 16777215");
  }
  const auto count = static_cast<std::uint32_t>(parties);
  shm::ObjectRef made = make_object<Barrier>(shm::Barrier::bytes_for(count), 1);
  auto& barrier = *static_cast<shm::Barrier*>(made.payload());
  barrier.start_with(count);
  if (action.runner == 0 && timeout.infinite()) return made;
  const std::size_t bytes = action.content != nullptr ? action.content->size() : 0;
  const shm::ObjectRef kept(
      shm::ObjectRequest{sizeof(ActionHead) + bytes, shm::object_type<ActionHead>(), 0, {}});
  auto* head = static_cast<ActionHead*>(kept.payload());
  *head = {action.runner, bytes, timeout.infinite() ? -1 : timeout.duration().count()};
  if (bytes != 0) std::memcpy(head + 1, action.content->data(), bytes);
  const shm::OutsideMessage outside;  // the reference is the barrier's
  shm::depart_object(kept.payload());
  barrier.set_action(reinterpret_cast<std::uint64_t>(kept.payload()));
  return made;
}

}  // namespace runtime

Barrier::Barrier(int parties, NoneType, Timeout timeout)
    : SharedHandle(runtime::make_barrier(parties, timeout, {})) {}

int Barrier::wait(Timeout timeout) const {
  shm::Barrier& barrier = barrier_of(object());
  const ActionHead* head = head_of(barrier);
  if (timeout.infinite() && head != nullptr && head->timeout >= 0) {
    timeout = std::chrono::nanoseconds(head->timeout);
  }
  shm::Barrier::Visit visit{shm::self(), policy_for(barrier), timeout.deadline()};
  if (head != nullptr && head->runner != 0) {
    visit.act = &run;
    visit.argument = const_cast<ActionHead*>(head);
  }
  const std::int64_t index = barrier.wait(visit);
  if (index < 0) throw BrokenBarrierError("the barrier is broken");
  return static_cast<int>(index);
}

void Barrier::reset() const { barrier_of(object()).reset(); }
void Barrier::abort() const { barrier_of(object()).abort(); }
int Barrier::parties() const { return static_cast<int>(barrier_of(object()).parties()); }
int Barrier::n_waiting() const { return static_cast<int>(barrier_of(object()).waiting()); }
bool Barrier::broken() const { return barrier_of(object()).broken(); }

std::string Barrier::repr() const {
  const std::string state =
      broken() ? "broken"
               : "waiters=" + std::to_string(n_waiting()) + "/" + std::to_string(parties());
  return "<multiprocessing.synchronize.Barrier at " + runtime::address_text(object()) + ": " +
         state + ">";
}

}  // namespace millrace
