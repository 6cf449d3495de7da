#include "runtime/pool/zygote_start.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <millrace/context.hpp>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/process/child_binding.hpp"
#include "runtime/process/context_state.hpp"
#include "runtime/process/fork_server.hpp"
#include "runtime/process/process_record.hpp"

namespace millrace::runtime {
namespace {

// The zygote as a process: what its workers take over from it.
RecordPtr zygote_record() {
  const RecordPtr self = current_record();
  auto record = std::make_shared<ProcessRecord>();
  record->name = "zygote";
  record->class_name = "Process";
  record->authkey = own_authkey();
  record->may_have_children = true;
  const std::lock_guard guard(process_mutex());
  record->identity = self->identity;
  return record;
}

}  // namespace

std::unique_ptr<SpawnMessage> describe_zygote(PoolShared& shared, const PoolPlan& plan) {
  constexpr FunctionId kNone = 0;
  auto message = describe_child(*zygote_record(), plan.method, plan.parent,
                                ChildBinding(affinity::PlannedWorker{}));
  wire::Writer& out = message->writer();
  out.put(reinterpret_cast<std::uintptr_t>(&shared));
  wire::encode(out, plan.workers);
  wire::encode(out, plan.steal_order);
  out.put(reinterpret_cast<std::uintptr_t>(plan.probe));
  wire::encode(out, plan.apply_binding);
  wire::encode(out, plan.report_bindings);
  wire::encode(out, plan.parent);
  wire::encode(out, plan.name_prefix);
  wire::encode(out, plan.first_number);
  wire::encode(out, plan.method);
  wire::encode(out,
               plan.method == "forkserver" ? forkserver_preload() : std::vector<std::string>());
  const std::size_t place = out.size();
  out.put(kNone);
  if (!plan.initializer) return message;
  const shm::InMessage counted = message->encoding();
  const FunctionId decode = plan.initializer->encode(out);
  std::memcpy(out.data() + place, &decode, sizeof decode);
  return message;
}

ZygoteOrders take_zygote_orders(wire::Reader& in) {
  ZygoteOrders orders;
  PoolPlan& plan = orders.plan;
  orders.shared = reinterpret_cast<PoolShared*>(in.take<std::uintptr_t>());
  plan.workers = wire::decode<std::vector<PoolPlan::Worker>>(in);
  plan.steal_order = wire::decode<std::vector<std::vector<int>>>(in);
  plan.probe = reinterpret_cast<const void*>(in.take<std::uintptr_t>());
  plan.apply_binding = wire::decode<bool>(in);
  plan.report_bindings = wire::decode<bool>(in);
  plan.parent = wire::decode<ParentIdentity>(in);
  plan.name_prefix = wire::decode<std::string>(in);
  plan.first_number = wire::decode<int>(in);
  plan.method = wire::decode<std::string>(in);
  load_libraries(wire::decode<std::vector<std::string>>(in));
  if (const auto decode = in.take<FunctionId>(); decode != 0) {
    plan.initializer = reinterpret_cast<Initializer::Decode>(resolve_function(decode))(in);
  }
  return orders;
}

}  // namespace millrace::runtime
