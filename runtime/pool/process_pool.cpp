// Making and ending a pool of processes.
#include "runtime/pool/process_pool.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/pool.hpp>
#include <new>
#include <string>
#include <system_error>

#include "runtime/base/own_pid.hpp"
#include "runtime/pool/pool_range.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/context_state.hpp"
#include "runtime/process/process_record.hpp"
#include "sched/binding.hpp"
#include "sched/homes.hpp"
#include "sched/quota.hpp"
#include "sched/topology.hpp"
#include "shm/arena.hpp"
#include "shm/reaper.hpp"

namespace millrace::runtime {

Ref<PoolCore> PoolCore::make(const PoolOptions& options, Ref<Initializer> initializer) {
  if (options.processes && *options.processes < 1) {
    throw ValueError("Number of processes must be at least 1, not " +
                     std::to_string(*options.processes));
  }
  if (options.processes.value_or(1) > kMaxWorkers) {
    throw ValueError("a pool has at most " + std::to_string(kMaxWorkers) + " processes, not " +
                     std::to_string(*options.processes));
  }
  if (options.maxtasksperchild && *options.maxtasksperchild < 1) {
    throw ValueError("maxtasksperchild must be a positive int or unset, not " +
                     std::to_string(*options.maxtasksperchild));
  }
  if (options.cores_per_worker < 1) {
    throw ValueError("cores_per_worker must be at least 1, not " +
                     std::to_string(options.cores_per_worker));
  }
  {
    const RecordPtr self = current_record();
    const std::lock_guard guard(process_mutex());
    check_may_have_children(*self);
  }
  return make_ref<ProcessPool>(options, std::move(initializer));
}

Ref<PoolCore> PoolCore::make(int workers) { return make(PoolOptions{.processes = workers}, {}); }

namespace {

// Nodes of a topology that only stands for another machine's hold no memory of this one.
Placement placement_on(int node) {
  const bool here = node >= 0 && sched::Topology::system().is_thissystem();
  return here ? Placement{Placement::node, node} : Placement{};
}

// The names of `count` children of this process: what they have in common, and the first number.
std::pair<std::string, int> take_names(const std::string& method, int count) {
  const std::string_view kind = method == "fork"    ? "Fork"
                                : method == "spawn" ? "Spawn"
                                                    : "ForkServer";
  std::string first;
  for (int i = 0; i < count; ++i) {
    const RecordPtr record = new_child_record();
    record->class_name = std::string(kind) + "PoolWorker";
    if (i == 0) first = name_of(*record);
  }
  const std::size_t digits = first.find_last_not_of("0123456789") + 1;
  return {first.substr(0, digits), std::stoi(first.substr(digits))};
}

}  // namespace

ProcessPool::Lane::Lane(int os_node, TaskRing* where)
    : ring(where), node(os_node), cache(placement_on(os_node)), tickets(kTaskSlots) {}

ProcessPool::ProcessPool(const PoolOptions& options, Ref<Initializer> initializer)
    : owner_pid_(own_pid()) {
  plan_.method = method_of(options.context);
  plan_workers(options);
  plan_.initializer = std::move(initializer);
  try {
    make_shared();
    shared_->max_tasks = options.maxtasksperchild.value_or(0);
    if (!options.trace.empty()) {
      trace_ = std::make_unique<PoolTrace>(options.trace, shared_->workers);
      shared_->traces = trace_->buffers();
    }
    start_zygote();
  } catch (...) {
    free_shared();
    throw;
  }
}

// The last reference is gone. In a forked child the pool stays as it is: nothing of it is the
// child's to end or free. In the collector's own thread (a job that held the reference ended there)
// the collector disposes of the pool when it has left its loop.
void ProcessPool::dispose() noexcept {
  if (own_pid() != owner_pid_) return;
  terminate();
  if (collector_.get_id() == std::this_thread::get_id()) {
    orphaned_ = true;
  } else {
    delete this;
  }
}

ProcessPool::~ProcessPool() {
  terminate();
  if (orphaned_) {
    collector_.detach();
  } else if (collector_.joinable()) {
    collector_.join();
  }
  free_shared();
}

void ProcessPool::free_shared() noexcept {
  ranges_.clear();
  if (spare_context_ != nullptr) shm::Arena::instance().deallocate(spare_context_);
  for (auto& lane : lanes_) {
    for (Ticket& ticket : lane->tickets) ticket.drop();
    shm::Arena::instance().deallocate(lane->ring);
  }
  lanes_.clear();
  if (shared_ != nullptr) {
    shm::Arena::instance().deallocate(shared_->slots);
    shm::Arena::instance().deallocate(shared_);
  }
}

void ProcessPool::plan_workers(const PoolOptions& options) {
  const int count = options.processes.value_or(sched::usable_cpu_count());
  const sched::Topology& topology = sched::Topology::system();
  const auto planned = sched::plan(sched::resolve(options.bind, sched::Consumer::pool), count,
                                   options.cores_per_worker, topology);
  const sched::WorkerNodes grouped = sched::group_by_node(planned, topology);
  const bool one_lane = grouped.nodes.size() > kMaxNodes;  // more nodes than lanes: one for all
  const std::vector<int> homes = sched::home_cpus(planned, topology);
  for (std::size_t i = 0; i < planned.size(); ++i) {
    plan_.workers.push_back({.cpus = planned[i].cpus,
                             .node = planned[i].node,
                             .lane = one_lane ? 0 : grouped.index_of_worker[i],
                             .home = homes[i],
                             .source = planned[i].source});
  }
  if (one_lane) {
    plan_.steal_order = {{0}};
    seat_shares_ = {count};
    lanes_.push_back(std::make_unique<Lane>(-1, nullptr));
    lanes_[0]->workers = count;
  } else {
    plan_.steal_order = grouped.steal_order;
    seat_shares_ = grouped.shares;
    for (std::size_t i = 0; i < grouped.nodes.size(); ++i) {
      lanes_.push_back(std::make_unique<Lane>(grouped.nodes[i], nullptr));
      lanes_[i]->workers = grouped.shares[i];
    }
  }
  watched_.assign(lanes_.size(), -1);
  ended_by_dead_.assign(planned.size(), 0);
  plan_.apply_binding = topology.is_thissystem();
  plan_.report_bindings = sched::report_bindings();
  std::tie(plan_.name_prefix, plan_.first_number) = take_names(plan_.method, count);
  plan_.parent = as_parent();
  plan_.probe = &probe_word_;
}

void ProcessPool::make_shared() {
  const std::size_t count = plan_.workers.size();
  shared_ = new (shm::Arena::instance().allocate(sizeof(PoolShared))) PoolShared;
  shared_->workers = static_cast<std::int32_t>(count);
  shared_->nodes = static_cast<std::int32_t>(lanes_.size());
  shared_->parent_pid = owner_pid_;
  shared_->parent_id = shm::self();
  // The workers spread over the cpus the plan names; where it names none, over all usable ones.
  std::vector<int> cpus;
  for (const auto& worker : plan_.workers) {
    cpus.insert(cpus.end(), worker.cpus.begin(), worker.cpus.end());
  }
  std::ranges::sort(cpus);
  const auto [last, end] = std::ranges::unique(cpus);
  cpus.erase(last, end);
  const int usable = sched::usable_cpu_count();
  shared_->cpus = cpus.empty() || !plan_.apply_binding
                      ? usable
                      : std::min(usable, static_cast<int>(cpus.size()));
  // A parent that is not bound with the workers has its own cpu beside them.
  if (usable > shared_->cpus) ++shared_->cpus;
  shared_->slots = new (shm::Arena::instance().allocate(sizeof(WorkerSlot) * count))
      WorkerSlot[count];  // no cookie: trivial end
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i]->ring =
        new (shm::Arena::instance().allocate(sizeof(TaskRing), placement_on(lanes_[i]->node)))
            TaskRing;
    lanes_[i]->depth = std::max<std::size_t>(8, 2 * static_cast<std::size_t>(lanes_[i]->workers));
    shared_->rings[i] = lanes_[i]->ring;
    shared_->low_water[i].store(UINT64_MAX, std::memory_order_relaxed);
  }
  for (std::size_t i = 0; i < count; ++i) {
    shared_->idle[i / 64].fetch_or(std::uint64_t{1} << (i % 64), std::memory_order_relaxed);
  }
}

// One that is killed while it starts is tried again; a system that refuses is believed.
void ProcessPool::start_zygote() {
  for (int attempts_left = 10;; --attempts_left) {
    try {
      zygote_ = std::make_unique<Zygote>(*shared_, plan_);
      return;
    } catch (const std::system_error& error) {
      if (error.code().value() != ECHILD || attempts_left == 0) throw;
    }
    clear_stands();
  }
}

void ProcessPool::check_owner() const {
  if (own_pid() != owner_pid_) {
    throw ForkedError("this pool belongs to process " + std::to_string(owner_pid_) +
                      "; a forked child makes a pool of its own");
  }
}

void ProcessPool::check_running() const {
  check_owner();
  const std::lock_guard lock(mutex_);
  if (state_ != State::run) throw ValueError("Pool not running");
  if (broken_) std::rethrow_exception(broken_);
}

bool ProcessPool::reaches_private_memory() const {
  // REACH parent: worker.cpp writes, process_pool.cpp reads
  return shared_->reach.load(std::memory_order_acquire) == 1;  // REACH: see the worker's probe
}

std::vector<int> ProcessPool::own_cpus() const {
  std::vector<int> cpus;
  if (!plan_.apply_binding || plan_.workers.size() > static_cast<std::size_t>(shared_->cpus)) {
    return cpus;
  }
  for (const auto& worker : plan_.workers) {
    if (worker.home < 0 || std::ranges::find(cpus, worker.home) != cpus.end()) return {};
    cpus.push_back(worker.home);
  }
  return cpus;
}

void ProcessPool::close() {
  check_owner();
  Lock lock(mutex_);
  if (state_ == State::run) state_ = State::close;
  begin_leaving(lock);
}

// Lets the workers leave once nothing is left to do.
void ProcessPool::begin_leaving(Lock&) {
  if (state_ != State::close || leaving_ || busy()) return;
  leaving_ = true;
  // CLOSE pool: written in process_pool.cpp, read in worker.cpp and zygote.cpp
  shared_->closing.store(1, std::memory_order_seq_cst);
  wake_all_workers(*shared_);
  if (zygote_) zygote_->poke();
  changed_.notify_all();
}

bool ProcessPool::busy() const {
  return !jobs_.empty() || std::ranges::any_of(ranges_, [](const auto& one) { return one->busy; });
}

void ProcessPool::terminate() noexcept {
  if (own_pid() != owner_pid_) return;
  {
    Lock lock(mutex_);
    if (state_ == State::terminate) return;
    state_ = State::terminate;
    try {
      fail_everything(terminated_error());
    } catch (...) {  // no memory for the error: waiters are woken all the same
    }
    changed_.notify_all();
    tell_listener();
    shared_->bell.rouse();
  }
  end_processes();
  Lock lock(mutex_);
  ended_ = true;
  clear_remains();
  complete_jobs(lock);
  // What callbacks in other threads refer to may go with the pool; one of our own goes on after us.
  while (!in_callbacks_.empty() && std::ranges::count(in_callbacks_, thread_token()) == 0) {
    ++sleepers_;
    changed_.wait(lock);
    --sleepers_;
  }
  collector_stop_ = true;
  collector_wake_.notify_all();
  changed_.notify_all();
  write_trace();
}

void ProcessPool::end_processes() noexcept {
  if (zygote_) zygote_->end();
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    shared_->slots[i].id.store(0, std::memory_order_relaxed);
  }
  bury_workers();
}

// The workers are gone: what they owned is freed.
void ProcessPool::bury_workers() noexcept {
  const Lock lock(mutex_);
  shm::ProcessTable& table = shm::ProcessTable::instance();
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    for (auto& recent : shared_->slots[i].recent) {
      const std::uint32_t id = recent.load(std::memory_order_relaxed);
      if (id == 0) continue;
      // One whose zygote was killed is not known to be dead; the kernel ends it at once.
      for (int tries = 0; tries < 1000 && table.check_alive(id); ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      if (!table.is_dead(id)) continue;
      shm::reap(id);
      // RECENT worker: zygote.cpp writes before the fork, pool_loss.cpp reads
      recent.store(0, std::memory_order_release);  // RECENT: pairs with the zygote's look
    }
  }
}

void ProcessPool::join() {
  check_owner();
  Lock lock(mutex_);
  if (state_ == State::run) throw ValueError("Pool is still running");
  // Jobs whose input this thread has to read are read to their end now.
  for (const JobPtr& job : jobs_) {
    if (job->settings_.caller_feeds && job->owner_ == thread_token()) job->unbound();
  }
  struct Drained final : Job {
    explicit Drained(const ProcessPool& of) : Job({}), pool(of) {}
    Piece feed(wire::Writer&) override { return {}; }
    Piece skip() override { return {}; }
    void deliver(const Piece&, wire::Reader&, const PieceReport&) override {}
    void fail(const Piece&, const std::exception_ptr&) override {}
    bool ready() const override { return pool.state_ != State::close || !pool.busy(); }
    const ProcessPool& pool;
  } drained(*this);
  const shm::BlockingCall user;
  wait_locked(lock, drained, Clock::time_point::max(), &user);
  begin_leaving(lock);
  lock.unlock();
  // The workers leave by themselves; a pool that is terminated meanwhile ends them.
  if (zygote_) zygote_->wait_exit();
  bury_workers();
  lock.lock();
  write_trace();
  collector_stop_ = true;
  collector_wake_.notify_all();
}

}  // namespace millrace::runtime
