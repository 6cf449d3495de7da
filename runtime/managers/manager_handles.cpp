// mp's own queues as referents of a manager: what register_callable() may give instead of an object
// with a list of methods, so that they are one queue for proxies and for the program itself.
#include <millrace/queues.hpp>

#include "runtime/channels/queue.hpp"
#include "runtime/managers/manager_objects.hpp"
#include "runtime/managers/manager_queue.hpp"

namespace millrace::runtime {

namespace {

using Clock = Timeout::Clock;

// How often a call that waits in shared memory looks whether its client is still there.
constexpr auto kSlice = std::chrono::milliseconds(20);

// Until attempt(slice) succeeds; false at the deadline. Throws CallerGone.
template <class Attempt>
bool keep_trying(ManagerCaller& caller, Clock::time_point deadline, Attempt&& attempt) {
  if (attempt(Timeout(std::chrono::seconds(0)))) return true;
  const ManagerCaller::Watching watching(caller);
  for (;;) {
    if (caller.gone()) throw CallerGone();
    const auto now = Clock::now();
    if (now >= deadline) return false;
    const Timeout::Clock::duration left = deadline - now;
    if (attempt(left < kSlice ? Timeout(left) : Timeout(kSlice))) return true;
  }
}

template <class Q>
constexpr bool kJoinable = requires(const Q& queue) {
  queue.task_done();
};

template <class Q>
class SharedQueueReferent final : public QueueReferentBase<SharedQueueReferent<Q>> {
 public:
  using typename TableReferent<SharedQueueReferent>::Method;
  explicit SharedQueueReferent(Q queue) : queue_(std::move(queue)) {}
  std::string class_name() const override { return "multiprocessing.queues.Queue"; }
  std::string repr() override { return queue_.repr(); }
  const void* identity() const override { return queue_.object().payload(); }

  ManagerAnswer qsize(ManagerCall& call) {
    call.bind({});
    return queue_.qsize();
  }
  ManagerAnswer empty(ManagerCall& call) {
    call.bind({});
    return queue_.empty();
  }
  ManagerAnswer full(ManagerCall& call) {
    call.bind({});
    return queue_.full();
  }
  ManagerAnswer task_done(ManagerCall& call) {
    call.bind({});
    if constexpr (kJoinable<Q>) queue_.task_done();
    return {};
  }
  ManagerAnswer join(ManagerCall& call) {
    call.bind({});
    const auto finished = [this](Timeout slice) { return wait_finished(queue_.object(), slice); };
    if constexpr (kJoinable<Q>) keep_trying(call.caller, Clock::time_point::max(), finished);
    return {};
  }

  static constexpr Method kMethods[] = {
      {"empty", &SharedQueueReferent::empty}, {"full", &SharedQueueReferent::full},
      {"get", &SharedQueueReferent::get},     {"get_nowait", &SharedQueueReferent::get_nowait},
      {"put", &SharedQueueReferent::put},     {"put_nowait", &SharedQueueReferent::put_nowait},
      {"qsize", &SharedQueueReferent::qsize}, {"task_done", &SharedQueueReferent::task_done},
      {"join", &SharedQueueReferent::join}};

  std::vector<std::string> public_methods() const override {
    std::vector<std::string> names = TableReferent<SharedQueueReferent>::public_methods();
    if (!kJoinable<Q>) names.resize(names.size() - 2);
    return names;
  }

 private:
  friend class QueueReferentBase<SharedQueueReferent>;

  ManagerAnswer add(ManagerCaller& caller, const Object& item, Clock::time_point deadline) {
    const auto attempt = [&](Timeout slice) { return queue_.try_put(item, slice); };
    if (!keep_trying(caller, deadline, attempt)) throw queue::Full();
    return {};
  }
  ManagerAnswer take(ManagerCaller& caller, Clock::time_point deadline) {
    std::optional<Object> item;
    const auto attempt = [&](Timeout slice) {
      item = queue_.try_get(slice);
      return item.has_value();
    };
    if (!keep_trying(caller, deadline, attempt)) throw queue::Empty();
    ManagerAnswer answer(*item);
    answer.undo = [queue = queue_, item = *std::move(item)] { put_back(queue, item); };
    return answer;
  }
  // To the end, for that is where a queue takes items; lost if it has been full for a second.
  static void put_back(const Q& queue, const Object& item) noexcept {
    try {
      const bool put = queue.try_put(item, std::chrono::seconds(1));
      if constexpr (kJoinable<Q>) {
        if (put) queue.task_done();  // put() has counted it again
      }
    } catch (const std::exception&) {
      // This process has closed the queue, or there is no memory.
    }
  }

  const Q queue_;
};

template <class Q>
std::shared_ptr<Referent> shared_queue(const Object& value) {
  const void* handle = find_handle(value, wire::type_key<Q>());
  if (handle == nullptr) return nullptr;
  return std::make_shared<SharedQueueReferent<Q>>(*static_cast<const Q*>(handle));
}

}  // namespace

std::shared_ptr<Referent> referent_of_handle(const Object& value) {
  if (auto own = referent_of_proxy(value)) return own;
  if (auto queue = shared_queue<Queue<Object>>(value)) return queue;
  return shared_queue<JoinableQueue<Object>>(value);
}

}  // namespace millrace::runtime
