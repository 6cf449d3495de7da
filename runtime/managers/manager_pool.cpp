// A Pool in a manager's server. What it is asked to do arrives as a typed call (PoolCall):
// functions mean something inside one program only, so a client of another program can but end it.
#include "runtime/managers/manager_pool.hpp"

#include <millrace/context.hpp>
#include <millrace/manager_pool_call.hpp>

#include "runtime/managers/manager_values.hpp"

namespace millrace::runtime {

namespace {

class PromiseReferent final : public TableReferent<PromiseReferent> {
 public:
  explicit PromiseReferent(std::shared_ptr<PoolPromise> promise) : promise_(std::move(promise)) {}
  std::string class_name() const override { return "multiprocessing.pool.AsyncResult"; }
  ManagerAnswer get(ManagerCall& call) {
    return promise_->get(timeout_of(call.bind({"timeout"})[0]));
  }
  ManagerAnswer ready(ManagerCall& call) {
    call.bind({});
    return promise_->ready();
  }
  ManagerAnswer successful(ManagerCall& call) {
    call.bind({});
    return promise_->successful();
  }
  ManagerAnswer wait(ManagerCall& call) {
    promise_->wait(timeout_of(call.bind({"timeout"})[0]));
    return {};
  }
  static constexpr Method kMethods[] = {{"get", &PromiseReferent::get},
                                        {"ready", &PromiseReferent::ready},
                                        {"successful", &PromiseReferent::successful},
                                        {"wait", &PromiseReferent::wait}};

 private:
  const std::shared_ptr<PoolPromise> promise_;
};

class PoolReferent final : public TableReferent<PoolReferent> {
 public:
  explicit PoolReferent(int processes) : pool_(processes) {}
  std::string class_name() const override { return "multiprocessing.pool.Pool"; }

  ManagerAnswer run(ManagerCall& call) { return asked(call).run(pool_); }
  ManagerAnswer run_async(ManagerCall& call) {
    const Object promise = asked(call).run(pool_);
    const auto* const thing = static_cast<const ServerThing*>(
        find_carried(promise)->find(wire::type_hash<ServerThing>()));
    ManagerAnswer answer;
    answer.referent =
        std::make_shared<PromiseReferent>(std::static_pointer_cast<PoolPromise>(thing->object));
    return answer;
  }
  ManagerAnswer iterate(ManagerCall& call) {
    ManagerAnswer answer;
    answer.referent = make_iterator_referent(asked(call).run(pool_));
    return answer;
  }
  ManagerAnswer close(ManagerCall& call) {
    call.bind({});
    pool_.close();
    return {};
  }
  ManagerAnswer join(ManagerCall& call) {
    call.bind({});
    pool_.join();
    return {};
  }
  ManagerAnswer terminate(ManagerCall& call) {
    call.bind({});
    pool_.terminate();
    return {};
  }

  static constexpr Method kMethods[] = {{"apply", &PoolReferent::run},
                                        {"apply_async", &PoolReferent::run_async},
                                        {"close", &PoolReferent::close},
                                        {"imap", &PoolReferent::iterate},
                                        {"imap_unordered", &PoolReferent::iterate},
                                        {"join", &PoolReferent::join},
                                        {"map", &PoolReferent::run},
                                        {"map_async", &PoolReferent::run_async},
                                        {"starmap", &PoolReferent::run},
                                        {"starmap_async", &PoolReferent::run_async},
                                        {"terminate", &PoolReferent::terminate}};

 private:
  static const PoolCall& asked(ManagerCall& call) {
    if (call.arguments.size() != 1 || !call.arguments[0].is<PoolCallHandle>()) {
      throw TypeError(std::string(call.method) +
                      "(): a manager's Pool takes functions of its own program only");
    }
    const void* const handle = find_handle(call.arguments[0], wire::type_key<PoolCallHandle>());
    return *static_cast<const PoolCallHandle*>(handle)->call;
  }

  Pool pool_;
};

}  // namespace

std::shared_ptr<Referent> make_pool_referent(ManagerCall& call) {
  const Parameters given = call.bind({"processes"});
  const int processes = given[0].is_none() ? usable_cpu_count() : given[0].as<int>();
  return std::make_shared<PoolReferent>(processes);
}

std::vector<std::string> pool_method_names() {
  return {"apply", "apply_async", "close",   "imap",          "imap_unordered", "join",
          "map",   "map_async",   "starmap", "starmap_async", "terminate"};
}

std::map<std::string, std::string> pool_method_types() {
  return {{"apply_async", "AsyncResult"},
          {"map_async", "AsyncResult"},
          {"starmap_async", "AsyncResult"},
          {"imap", "Iterator"},
          {"imap_unordered", "Iterator"}};
}

void encode_pool_call(wire::Writer& out, const PoolCallHandle& handle) {
  out.put(handle.call->decoder());
  handle.call->encode(out);
}

PoolCallHandle decode_pool_call(wire::Reader& in) {
  using Decode = std::shared_ptr<const PoolCall> (*)(wire::Reader&);
  return {reinterpret_cast<Decode>(resolve_function(in.take<FunctionId>()))(in)};
}

}  // namespace millrace::runtime
