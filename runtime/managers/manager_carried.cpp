// C++ values inside Objects, and callables among them.
#include <millrace/manager_action.hpp>
#include <millrace/manager_types.hpp>
#include <millrace/manager_values.hpp>
#include <utility>

#include "runtime/managers/manager_objects.hpp"

namespace millrace::runtime {

std::string CarriedHandle::repr() const {
  return "<C++ value of type " + std::string(value == nullptr ? "none" : value->type_name()) + ">";
}

void encode_carried(wire::Writer& out, const CarriedHandle& carried) {
  out.put(carried.value->decoder());
  carried.value->encode(out);
}

CarriedHandle decode_carried(wire::Reader& in) {
  using Decode = std::shared_ptr<const CarriedValue> (*)(wire::Reader&);
  const auto decode = reinterpret_cast<Decode>(resolve_function(in.take<FunctionId>()));
  return {decode(in)};
}

const CarriedValue* find_carried(const Object& value) {
  const void* const handle = find_handle(value, wire::type_key<CarriedHandle>());
  return handle == nullptr ? nullptr : static_cast<const CarriedHandle*>(handle)->value.get();
}

void throw_not_carried(const Object& value, std::string_view type) {
  const CarriedValue* const carried = find_carried(value);
  throw TypeError("a value of type " + std::string(type) + " was expected, not " +
                  (carried != nullptr ? std::string(carried->type_name()) : value.type_name()));
}

namespace {
constinit thread_local std::string_view t_class;
constinit thread_local std::string_view t_method;

std::string called() {
  if (t_class.empty()) return "the method";
  const std::string name(t_class);
  return t_method.empty() ? name + "()" : name + "." + std::string(t_method) + "()";
}
}  // namespace

NamedCall::NamedCall(std::string_view class_name, std::string_view method) noexcept
    : outer_class_(std::exchange(t_class, class_name)),
      outer_method_(std::exchange(t_method, method)) {}

NamedCall::~NamedCall() {
  t_class = outer_class_;
  t_method = outer_method_;
}

void throw_argument_count(std::size_t wanted, std::size_t given) {
  throw TypeError(called() + " takes " + std::to_string(wanted) +
                  (wanted == 1 ? " argument (" : " arguments (") + std::to_string(given) +
                  " given)");
}

const void* ServerThing::find(std::uint64_t type) const noexcept {
  return type == wire::type_hash<ServerThing>() ? this : nullptr;
}
std::string_view ServerThing::type_name() const noexcept { return "object of the server"; }
void ServerThing::encode(wire::Writer&) const {
  throw TypeError("an object of the server cannot be sent: name its type in method_to_typeid");
}
FunctionId ServerThing::decoder() const { return 0; }

std::function<void()> action_of(const Object& value) {
  return [action = from_argument<ManagerAction>(value)] { action.run(); };
}

}  // namespace millrace::runtime
