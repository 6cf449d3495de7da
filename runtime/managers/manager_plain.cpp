// Namespace and Value of a manager, G23, G28; and Tokens.
#include <algorithm>
#include <mutex>
#include <vector>

#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"

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

}  // namespace

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
