// The types of SyncManager, G13-G28, and referents of the user's own types.
#include <millrace/manager_types.hpp>
#include <utility>

#include "runtime/managers/manager_locks.hpp"
#include "runtime/managers/manager_objects.hpp"
#include "runtime/managers/manager_pool.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_registry.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

using Names = std::vector<std::string>;

// The names that CPython 3.11's proxies expose, in its order, then those of 3.14.
const Names& list_names() {
  static const Names names = {"__add__", "__contains__", "__delitem__", "__getitem__", "__len__",
                              "__mul__", "__reversed__", "__rmul__",    "__setitem__", "append",
                              "count",   "extend",       "index",       "insert",      "pop",
                              "remove",  "reverse",      "sort",        "__imul__",    "clear",
                              "copy"};
  return names;
}
const Names& dict_names() {
  static const Names names = {
      "__contains__", "__delitem__",  "__getitem__", "__iter__", "__len__", "__setitem__",
      "clear",        "copy",         "get",         "items",    "keys",    "pop",
      "popitem",      "setdefault",   "update",      "values",   "__or__",  "__ror__",
      "__ior__",      "__reversed__", "fromkeys"};
  return names;
}
const Names& set_names() {
  static const Names names = {"__and__",
                              "__contains__",
                              "__iand__",
                              "__ior__",
                              "__isub__",
                              "__iter__",
                              "__ixor__",
                              "__len__",
                              "__or__",
                              "__rand__",
                              "__ror__",
                              "__rsub__",
                              "__rxor__",
                              "__sub__",
                              "__xor__",
                              "__ge__",
                              "__gt__",
                              "__le__",
                              "__lt__",
                              "add",
                              "clear",
                              "copy",
                              "difference",
                              "difference_update",
                              "discard",
                              "intersection",
                              "intersection_update",
                              "isdisjoint",
                              "issubset",
                              "issuperset",
                              "pop",
                              "remove",
                              "symmetric_difference",
                              "symmetric_difference_update",
                              "union",
                              "update"};
  return names;
}

using Made = std::shared_ptr<Referent>;

Made make_list(ManagerCall& call) {
  const Parameters given = call.bind({"iterable"});
  return make_list_referent(given.has(0) ? list_of_iterable(given[0]) : List());
}
Made make_dict(ManagerCall& call) {
  if (call.arguments.size() > 1) {
    throw TypeError("dict expected at most 1 argument, got " +
                    std::to_string(call.arguments.size()));
  }
  Dict items = call.arguments.empty() ? Dict() : dict_of_pairs(call.arguments[0]);
  items.update(call.keywords);
  return make_dict_referent(std::move(items));
}
Made make_set(ManagerCall& call) {
  const Parameters given = call.bind({"iterable"});
  Set items;
  if (given.has(0)) {
    for (const Object& each : list_of_iterable(given[0])) items.add(each);
  }
  return make_set_referent(std::move(items));
}
Made make_namespace(ManagerCall& call) {
  // Python's takes keywords only; C++ has none and gives a dict.
  if (call.arguments.size() > 1) throw TypeError("Namespace() takes at most 1 argument");
  Dict attributes = call.arguments.empty() ? Dict() : dict_of_pairs(call.arguments[0]);
  attributes.update(call.keywords);
  return make_namespace_referent(std::move(attributes));
}
Made make_lock(ManagerCall& call) {
  call.bind({});
  return make_lock_referent();
}
Made make_rlock(ManagerCall& call) {
  call.bind({});
  return make_rlock_referent();
}
std::int64_t value_of_semaphore(ManagerCall& call) {
  const Parameters given = call.bind({"value"});
  return given.has(0) ? given[0].as<std::int64_t>() : 1;
}
Made make_semaphore(ManagerCall& call) {
  return make_semaphore_referent(value_of_semaphore(call), false);
}
Made make_bounded_semaphore(ManagerCall& call) {
  return make_semaphore_referent(value_of_semaphore(call), true);
}
Made make_condition(ManagerCall& call) {
  const Parameters given = call.bind({"lock"});
  if (given[0].is_none()) return make_condition_referent(make_rlock_referent());
  auto lock = std::dynamic_pointer_cast<LockReferent>(referent_of_proxy(given[0]));
  if (lock == nullptr) {
    throw TypeError("a Condition takes a Lock or RLock of its own manager, not " +
                    given[0].type_name());
  }
  return make_condition_referent(std::move(lock));
}
Made make_event(ManagerCall& call) {
  call.bind({});
  return make_event_referent();
}
Made make_barrier(ManagerCall& call) {
  const Parameters given = call.bind({"parties", "action", "timeout"}, 1);
  BarrierPlan plan{given[0].as<std::int64_t>(), {}, given[2]};
  if (!given[1].is_none()) plan.action = action_of(given[1]);
  return make_barrier_referent(std::move(plan));
}
Made make_queue(ManagerCall& call) {
  const Parameters given = call.bind({"maxsize"});
  return make_queue_referent(given.has(0) ? given[0].as<std::int64_t>() : 0);
}
Made make_value(ManagerCall& call) {
  const Parameters given = call.bind({"typecode", "value", "lock"}, 2);
  return make_value_referent(given[0], given[1]);
}
Made make_array(ManagerCall& call) {
  const Parameters given = call.bind({"typecode", "sequence", "lock"}, 2);
  return make_array_referent(given[0].as<std::string>(), given[1]);
}

// An object of the user's with the methods that were registered for it.
class ObjectReferent final : public Referent {
 public:
  ObjectReferent(std::shared_ptr<void> object, std::shared_ptr<const MethodList> methods,
                 std::string class_name)
      : object_(std::move(object)),
        methods_(std::move(methods)),
        class_name_(std::move(class_name)) {}
  std::string class_name() const override { return class_name_; }
  std::vector<std::string> public_methods() const override {
    Names names;
    for (const auto& [name, call] : methods_->methods) names.push_back(name);
    return names;
  }
  bool has_method(std::string_view name) const override { return find(name) != nullptr; }
  ManagerAnswer call(ManagerCall& call) override {
    if (!call.keywords.empty()) {
      throw TypeError(std::string(call.method) + "() takes no keyword arguments");
    }
    const NamedCall named(class_name_, call.method);
    return (*find(call.method))(object_.get(), call.arguments);
  }
  const void* identity() const override { return object_.get(); }

 private:
  const MethodList::Call* find(std::string_view name) const noexcept {
    for (const auto& [known, call] : methods_->methods) {
      if (known == name) return &call;
    }
    return nullptr;
  }

  const std::shared_ptr<void> object_;
  const std::shared_ptr<const MethodList> methods_;
  const std::string class_name_;
};

// A value without methods: it can be copied and printed.
class PlainReferent final : public TableReferent<PlainReferent> {
 public:
  explicit PlainReferent(Object value) : value_(std::move(value)) {}
  std::string class_name() const override { return value_.type_name(); }
  std::string repr() override { return value_.repr(); }
  Object value(const ManagerCaller&) override { return value_; }
  ManagerAnswer get(ManagerCall&) { return value_; }
  static constexpr Method kMethods[] = {{"get", &PlainReferent::get}};

 private:
  const Object value_;
};

ManagerType python_type(Made (*make)(ManagerCall&), const char* proxy_class,
                        std::optional<Names> exposed = {}, MethodTypes methods = {}) {
  return {make, std::move(exposed), std::move(methods), proxy_class, true};
}

ManagerTypes make_python_types() {
  const Names acquirer = {"acquire", "release", "locked"};
  const MethodTypes iterator = {{"__iter__", "Iterator"}};
  ManagerTypes types;
  types["Queue"] = python_type(&make_queue, "AutoProxy");
  types["JoinableQueue"] = python_type(&make_queue, "AutoProxy");
  types["Event"] = python_type(&make_event, "EventProxy", Names{"is_set", "set", "clear", "wait"});
  types["Lock"] = python_type(&make_lock, "AcquirerProxy", acquirer);
  types["RLock"] = python_type(&make_rlock, "AcquirerProxy", acquirer);
  const Names semaphore = {"acquire", "release", "get_value"};
  types["Semaphore"] = python_type(&make_semaphore, "AcquirerProxy", semaphore);
  types["BoundedSemaphore"] = python_type(&make_bounded_semaphore, "AcquirerProxy", semaphore);
  types["Condition"] =
      python_type(&make_condition, "ConditionProxy",
                  Names{"acquire", "release", "wait", "notify", "notify_all", "locked"});
  types["Barrier"] = python_type(&make_barrier, "BarrierProxy",
                                 Names{"__getattribute__", "wait", "abort", "reset"});
  types["list"] = python_type(&make_list, "ListProxy", list_names());
  types["dict"] = python_type(&make_dict, "DictProxy", dict_names(), iterator);
  types["set"] = python_type(&make_set, "SetProxy", set_names(), iterator);
  types["Value"] = python_type(&make_value, "ValueProxy", Names{"get", "set"});
  types["Array"] =
      python_type(&make_array, "ArrayProxy", Names{"__len__", "__getitem__", "__setitem__"});
  types["Namespace"] = python_type(&make_namespace, "NamespaceProxy",
                                   Names{"__getattribute__", "__setattr__", "__delattr__"});
  types["Pool"] =
      python_type(&make_pool_referent, "PoolProxy", pool_method_names(), pool_method_types());
  types["Iterator"] = {
      nullptr, Names{"__next__", "send", "throw", "close"}, {}, "IteratorProxy", false};
  types["AsyncResult"] = {nullptr, {}, {}, "AutoProxy", false};
  return types;
}

}  // namespace

ManagerTypes python_manager_types() {
  static const ManagerTypes types = make_python_types();
  return types;
}

std::shared_ptr<Referent> referent_of_thing(MadeThing made,
                                            const std::shared_ptr<const MethodList>& methods,
                                            const std::string& class_name) {
  if (made.object != nullptr) {
    return std::make_shared<ObjectReferent>(std::move(made.object), methods, class_name);
  }
  const Object& value = made.value;
  if (value.is<List>()) return make_list_referent(value.as<List>());
  if (value.is<Dict>()) return make_dict_referent(value.as<Dict>());
  if (value.is<Set>()) return make_set_referent(value.as<Set>());
  if (auto handle = referent_of_handle(value)) return handle;
  return std::make_shared<PlainReferent>(value);
}

}  // namespace millrace::runtime
