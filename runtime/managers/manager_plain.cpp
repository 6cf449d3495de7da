// Namespace and Value of a manager, G23, G28; and values of Python's that are made by a call.
#include <algorithm>
#include <mutex>
#include <vector>

#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/pickle_names.hpp"

namespace millrace::runtime {

namespace {

class NamespaceReferent final : public TableReferent<NamespaceReferent> {
 public:
  explicit NamespaceReferent(Dict attributes) : attributes_(std::move(attributes)) {}
  std::string class_name() const override { return "Namespace"; }
  std::string repr() override {
    std::vector<std::string> parts;
    const Dict all = copy();
    for (const auto& [name, value] : all.items()) {
      const std::string text = name.str();
      if (!text.starts_with('_')) parts.push_back(text + "=" + value.repr());
    }
    std::ranges::sort(parts);
    std::string out = "Namespace(";
    for (const std::string& each : parts) out += (&each == parts.data() ? "" : ", ") + each;
    return out + ")";
  }
  Object value(const ManagerCaller& caller) override {
    if (!caller.speaks_pickle()) return Object(copy());
    return built_by_python({"multiprocessing.managers", "Namespace"}, Object(copy()));
  }
  ManagerAnswer get(ManagerCall& call) {
    const auto name = call.bind({"name"}, 1)[0].as<std::string>();
    const std::scoped_lock guard(mutex_);
    const Object* const found = attributes_.find(name);
    if (found == nullptr) throw_missing(name);
    return *found;
  }
  ManagerAnswer set(ManagerCall& call) {
    const Parameters given = call.bind({"name", "value"}, 2);
    const auto name = given[0].as<std::string>();
    const std::scoped_lock guard(mutex_);
    attributes_.set(name, given[1]);
    return {};
  }
  ManagerAnswer remove(ManagerCall& call) {
    const auto name = call.bind({"name"}, 1)[0].as<std::string>();
    const std::scoped_lock guard(mutex_);
    if (!attributes_.contains(name)) throw_missing(name);
    attributes_.erase(name);
    return {};
  }

  static constexpr Method kMethods[] = {{"__getattribute__", &NamespaceReferent::get},
                                        {"__setattr__", &NamespaceReferent::set},
                                        {"__delattr__", &NamespaceReferent::remove}};

 private:
  [[noreturn]] static void throw_missing(const std::string& name) {
    throw AttributeError("'Namespace' object has no attribute '" + name + "'");
  }
  Dict copy() {
    const std::scoped_lock guard(mutex_);
    return attributes_;
  }

  std::mutex mutex_;
  Dict attributes_;
};

class ValueReferent final : public TableReferent<ValueReferent> {
 public:
  ValueReferent(Object typecode, Object value)
      : typecode_(std::move(typecode)), value_(std::move(value)) {}
  std::string class_name() const override { return "Value"; }
  std::string repr() override {
    return "Value(" + typecode_.repr() + ", " + copy().repr() + ")";
  }
  Object value(const ManagerCaller& caller) override {
    if (!caller.speaks_pickle()) return copy();
    return built_by_python({"multiprocessing.managers", "Value"},
                           Object(Dict{{"_typecode", typecode_}, {"_value", copy()}}));
  }
  ManagerAnswer get(ManagerCall& call) {
    call.bind({});
    return copy();
  }
  ManagerAnswer set(ManagerCall& call) {
    Object value = call.bind({"value"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    std::swap(value_, value);
    return {};
  }

  static constexpr Method kMethods[] = {{"get", &ValueReferent::get}, {"set", &ValueReferent::set}};

 private:
  Object copy() {
    const std::scoped_lock guard(mutex_);
    return value_;
  }

  std::mutex mutex_;
  const Object typecode_;
  Object value_;
};

Object global_of(std::string_view module, std::string_view name) {
  Object made = Access::adopt(new_items(ValueKind::global, 2));
  auto& global = *Access::node<ItemsNode>(made);
  global.items[0] = text_of(module);
  global.items[1] = text_of(name);
  global.capacity = static_cast<std::size_t>(find_name(module, name).callable);
  return made;
}

Object instance_of(std::string_view module, std::string_view name, Object arguments) {
  Object made = Access::adopt(new_items(ValueKind::instance, 4));
  auto& parts = *Access::node<ItemsNode>(made);
  parts.items[0] = global_of(module, name);
  parts.items[1] = std::move(arguments);
  return made;
}

}  // namespace

Object python_global(std::string_view module, std::string_view name) {
  return global_of(module, name);
}

Object made_by_python(std::string_view module, std::string_view name, Object arguments) {
  return instance_of(module, name, std::move(arguments));
}

Object built_by_python(PythonGlobal of, Object state) {
  Object made = instance_of(of.module, of.name, Object(Tuple()));
  auto& parts = *Access::node<ItemsNode>(made);
  parts.items[2] = std::move(state);
  parts.items[3] = Object(true);
  return made;
}

std::optional<PythonCall> python_call(const Object& value) {
  if (!is_kind(value, ValueKind::instance)) return std::nullopt;
  const auto parts = Access::node<ItemsNode>(value)->span();
  if (!is_kind(parts[0], ValueKind::global) || !is_kind(parts[1], ValueKind::tuple)) {
    return std::nullopt;
  }
  const auto name = Access::node<ItemsNode>(parts[0])->span();
  return PythonCall{Access::text(name[0]), Access::text(name[1]), &parts[1], &parts[2]};
}

std::optional<PythonGlobal> python_name(const Object& value) {
  if (!is_kind(value, ValueKind::global)) return std::nullopt;
  const auto parts = Access::node<ItemsNode>(value)->span();
  return PythonGlobal{Access::text(parts[0]), Access::text(parts[1])};
}

Object object_of_token(const TokenValue& token) {
  return built_by_python({"multiprocessing.managers", "Token"},
                         Object(Tuple{token.typeid_name, token.address, token.id}));
}

TokenValue token_of_object(const Object& value) {
  const std::optional<PythonCall> call = python_call(value);
  if (!call || call->name != "Token" || !call->state->is<Tuple>() || call->state->size() != 3) {
    throw TypeError("a Token was expected, not " + value.type_name());
  }
  const auto parts = call->state->as<Tuple>();
  return {parts[0].as<std::string>(), parts[1], parts[2].as<std::string>()};
}

std::shared_ptr<Referent> make_namespace_referent(Dict attributes) {
  return std::make_shared<NamespaceReferent>(std::move(attributes));
}
std::shared_ptr<Referent> make_value_referent(Object typecode, Object value) {
  return std::make_shared<ValueReferent>(std::move(typecode), std::move(value));
}

}  // namespace millrace::runtime
