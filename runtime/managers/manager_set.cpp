// set of a manager, as Python 3.14 has it: G27.
#include <mutex>

#include "runtime/managers/manager_items.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

Set set_of_iterable(const Object& values) {
  const Object plain = plain_of(values);
  if (plain.is<Set>()) return plain.as<Set>();
  Set out;
  for (const Object& each : list_of_iterable(plain)) out.add(each);
  return out;
}

Set intersection_of(const Set& a, const Set& b) {
  Set out;
  for (const Object& each : a) {
    if (b.contains(each)) out.add(each);
  }
  return out;
}
Set difference_of(const Set& a, const Set& b) {
  Set out;
  for (const Object& each : a) {
    if (!b.contains(each)) out.add(each);
  }
  return out;
}
Set union_of(const Set& a, const Set& b) {
  Set out = a;
  for (const Object& each : b) out.add(each);
  return out;
}
Set symmetric_of(const Set& a, const Set& b) {
  return union_of(difference_of(a, b), difference_of(b, a));
}
bool is_subset(const Set& a, const Set& b) { return intersection_of(a, b).size() == a.size(); }

using Operation = Set (*)(const Set&, const Set&);

class SetReferent final : public ItemsReferent<SetReferent, Set> {
 public:
  using ItemsReferent<SetReferent, Set>::ItemsReferent;
  std::string class_name() const override { return "set"; }

  ManagerAnswer contains(ManagerCall& call) {
    const Object& value = call.bind({"value"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    return items_.contains(value);
  }
  ManagerAnswer iterate(ManagerCall& call) {
    call.bind({});
    ManagerAnswer answer;
    answer.referent = make_iterator_referent(Object(copy()));
    return answer;
  }
  ManagerAnswer add(ManagerCall& call) {
    const Object& value = call.bind({"value"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    items_.add(value);
    return {};
  }
  ManagerAnswer discard(ManagerCall& call) {
    const Object& value = call.bind({"value"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    items_.discard(value);
    return {};
  }
  ManagerAnswer remove(ManagerCall& call) {
    const Object& value = call.bind({"value"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    if (!items_.discard(value)) raise_python("KeyError", value);
    return {};
  }
  ManagerAnswer pop(ManagerCall& call) {
    call.bind({});
    const std::scoped_lock guard(mutex_);
    if (items_.empty()) raise_python("KeyError", Object("pop from an empty set"));
    Object value = *items_.begin();
    items_.discard(value);
    return value;
  }
  template <Operation Do>
  ManagerAnswer combine(ManagerCall& call) {
    Set out = copy();
    for (const Object& each : call.arguments) out = Do(out, set_of_iterable(each));
    return Object(std::move(out));
  }
  template <Operation Do>
  ManagerAnswer combine_backwards(ManagerCall& call) {
    return Object(Do(set_of_iterable(call.bind({"other"}, 1)[0]), copy()));
  }
  template <Operation Do>
  ManagerAnswer change(ManagerCall& call) {
    std::vector<Set> others;
    for (const Object& each : call.arguments) others.push_back(set_of_iterable(each));
    const std::scoped_lock guard(mutex_);
    for (const Set& each : others) items_ = Do(items_, each);
    return {};
  }
  ManagerAnswer is_disjoint(ManagerCall& call) {
    return intersection_of(copy(), other(call)).empty();
  }
  ManagerAnswer is_subset_of(ManagerCall& call) { return is_subset(copy(), other(call)); }
  ManagerAnswer is_superset_of(ManagerCall& call) { return is_subset(other(call), copy()); }
  ManagerAnswer less(ManagerCall& call) {
    const Set mine = copy();
    const Set theirs = other(call);
    return mine.size() < theirs.size() && is_subset(mine, theirs);
  }
  ManagerAnswer greater(ManagerCall& call) {
    const Set mine = copy();
    const Set theirs = other(call);
    return theirs.size() < mine.size() && is_subset(theirs, mine);
  }

  static constexpr Method kMethods[] = {
      {"__and__", &SetReferent::combine<&intersection_of>},
      {"__contains__", &SetReferent::contains},
      {"__iand__", &SetReferent::change<&intersection_of>},
      {"__ior__", &SetReferent::change<&union_of>},
      {"__isub__", &SetReferent::change<&difference_of>},
      {"__iter__", &SetReferent::iterate},
      {"__ixor__", &SetReferent::change<&symmetric_of>},
      {"__len__", &SetReferent::len},
      {"__or__", &SetReferent::combine<&union_of>},
      {"__rand__", &SetReferent::combine_backwards<&intersection_of>},
      {"__ror__", &SetReferent::combine_backwards<&union_of>},
      {"__rsub__", &SetReferent::combine_backwards<&difference_of>},
      {"__rxor__", &SetReferent::combine_backwards<&symmetric_of>},
      {"__sub__", &SetReferent::combine<&difference_of>},
      {"__xor__", &SetReferent::combine<&symmetric_of>},
      {"__ge__", &SetReferent::is_superset_of},
      {"__gt__", &SetReferent::greater},
      {"__le__", &SetReferent::is_subset_of},
      {"__lt__", &SetReferent::less},
      {"add", &SetReferent::add},
      {"clear", &SetReferent::clear},
      {"copy", &SetReferent::copied},
      {"difference", &SetReferent::combine<&difference_of>},
      {"difference_update", &SetReferent::change<&difference_of>},
      {"discard", &SetReferent::discard},
      {"intersection", &SetReferent::combine<&intersection_of>},
      {"intersection_update", &SetReferent::change<&intersection_of>},
      {"isdisjoint", &SetReferent::is_disjoint},
      {"issubset", &SetReferent::is_subset_of},
      {"issuperset", &SetReferent::is_superset_of},
      {"pop", &SetReferent::pop},
      {"remove", &SetReferent::remove},
      {"symmetric_difference", &SetReferent::combine<&symmetric_of>},
      {"symmetric_difference_update", &SetReferent::change<&symmetric_of>},
      {"union", &SetReferent::combine<&union_of>},
      {"update", &SetReferent::change<&union_of>}};

 private:
  static Set other(ManagerCall& call) { return set_of_iterable(call.bind({"other"}, 1)[0]); }
};

}  // namespace

std::shared_ptr<Referent> make_set_referent(Set items) {
  return std::make_shared<SetReferent>(std::move(items));
}

}  // namespace millrace::runtime
