// queue.Queue of a manager: G20, G21. put() is synchronous: the item is there when it returns.
//
// A client that ends while it waits in get() takes nothing; an item whose answer could not be sent
// goes back to the front (undo).
#include "runtime/managers/manager_queue.hpp"

#include <deque>

#include "runtime/managers/manager_values.hpp"

namespace millrace::runtime {

namespace {

using Clock = Timeout::Clock;
using Guard = std::unique_lock<Monitor>;

class QueueReferent final : public QueueReferentBase<QueueReferent> {
 public:
  explicit QueueReferent(std::int64_t maxsize)
      : maxsize_(maxsize <= 0 ? SIZE_MAX : static_cast<std::size_t>(maxsize)) {}
  std::string class_name() const override { return "queue.Queue"; }

  ManagerAnswer qsize(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    return items_.size();
  }
  ManagerAnswer empty(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    return items_.empty();
  }
  ManagerAnswer full(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    return items_.size() >= maxsize_;
  }
  ManagerAnswer task_done(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    if (unfinished_ == 0) throw ValueError("task_done() called too many times");
    if (--unfinished_ == 0) monitor_->changed();
    return {};
  }
  ManagerAnswer join(ManagerCall& call) {
    call.bind({});
    const Guard guard(*monitor_);
    call.caller.wait(
        monitor_, [this] { return unfinished_ == 0; }, Clock::time_point::max());
    return {};
  }

  static constexpr Method kMethods[] = {{"empty", &QueueReferent::empty},
                                        {"full", &QueueReferent::full},
                                        {"get", &QueueReferent::get},
                                        {"get_nowait", &QueueReferent::get_nowait},
                                        {"join", &QueueReferent::join},
                                        {"put", &QueueReferent::put},
                                        {"put_nowait", &QueueReferent::put_nowait},
                                        {"qsize", &QueueReferent::qsize},
                                        {"task_done", &QueueReferent::task_done}};

 private:
  friend class QueueReferentBase<QueueReferent>;

  ManagerAnswer add(ManagerCaller& caller, const Object& item, Clock::time_point deadline) {
    const Guard guard(*monitor_);
    const auto room = [this] { return items_.size() < maxsize_; };
    if (!caller.wait(monitor_, room, deadline)) throw queue::Full();
    items_.push_back(item);
    ++unfinished_;
    monitor_->changed();
    return {};
  }
  ManagerAnswer take(ManagerCaller& caller, Clock::time_point deadline) {
    const Guard guard(*monitor_);
    if (!caller.wait(
            monitor_, [this] { return !items_.empty(); }, deadline))
      throw queue::Empty();
    ManagerAnswer answer(std::move(items_.front()));
    items_.pop_front();
    monitor_->changed();
    answer.undo = [self = std::static_pointer_cast<QueueReferent>(shared_from_this()),
                   item = answer.value] { self->put_back(item); };
    return answer;
  }
  void put_back(const Object& item) {
    const Guard guard(*monitor_);
    items_.push_front(item);
    monitor_->changed();
  }

  const std::size_t maxsize_;
  const std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  std::deque<Object> items_;
  std::size_t unfinished_ = 0;
};

}  // namespace

Clock::time_point deadline_of_queue(const Parameters& given, std::size_t block) {
  if (!given.flag(block, true)) return Clock::time_point::min();
  const Object& timeout = given[block + 1];
  if (timeout.is_none()) return Clock::time_point::max();
  if (is_negative(timeout)) throw ValueError("'timeout' must be a non-negative number");
  return timeout_of(timeout).deadline();
}

std::shared_ptr<Referent> make_queue_referent(std::int64_t maxsize) {
  return std::make_shared<QueueReferent>(maxsize);
}

}  // namespace millrace::runtime
