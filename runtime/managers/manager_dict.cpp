// dict, set and Iterator of a manager: G25, G27, X11.
#include <mutex>

#include "runtime/managers/manager_items.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"

namespace millrace::runtime {

namespace {

Object pair_of(Object key, Object value) { return Tuple{std::move(key), std::move(value)}; }

List items_of_dict(const Dict& dict) {
  List out;
  out.reserve(dict.size());
  for (auto& [key, value] : dict.items()) out.append(pair_of(key, value));
  return out;
}

[[noreturn]] void raise_key_error(const Object& key) { raise_python("KeyError", key); }

class DictReferent final : public ItemsReferent<DictReferent, Dict> {
 public:
  using ItemsReferent<DictReferent, Dict>::ItemsReferent;
  std::string class_name() const override { return "dict"; }

  ManagerAnswer contains(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    return items_.contains(key);
  }
  ManagerAnswer del_item(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    Object old;
    const std::scoped_lock guard(mutex_);
    if (!items_.contains(key)) raise_key_error(key);
    old = items_.pop(key);
    return {};
  }
  ManagerAnswer get_item(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    const Object* const found = items_.find(key);
    if (found == nullptr) raise_key_error(key);
    return *found;
  }
  ManagerAnswer iterate(ManagerCall& call);
  ManagerAnswer set_item(ManagerCall& call) {
    const Parameters given = call.bind({"key", "value"}, 2);
    const std::scoped_lock guard(mutex_);
    tail_ = kUnknown;
    items_.set(given[0], given[1]);
    return {};
  }
  ManagerAnswer clear(ManagerCall& call) {
    call.bind({});
    Dict old;
    const std::scoped_lock guard(mutex_);
    std::swap(old, items_);
    tail_ = kUnknown;
    return {};
  }
  ManagerAnswer get(ManagerCall& call) {
    const Parameters given = call.bind({"key", "default"}, 1);
    const std::scoped_lock guard(mutex_);
    const Object* const found = items_.find(given[0]);
    return found != nullptr ? *found : given[1];
  }
  ManagerAnswer items(ManagerCall& call) {
    call.bind({});
    return Object(items_of_dict(copy()));
  }
  ManagerAnswer keys(ManagerCall& call) {
    call.bind({});
    return Object(copy().keys());
  }
  ManagerAnswer values(ManagerCall& call) {
    call.bind({});
    return Object(copy().values());
  }
  ManagerAnswer pop(ManagerCall& call) {
    const Parameters given = call.bind({"key", "default"}, 1);
    const std::scoped_lock guard(mutex_);
    if (items_.contains(given[0])) return items_.pop(given[0]);
    if (!given.has(1)) raise_key_error(given[0]);
    return given[1];
  }
  ManagerAnswer pop_item(ManagerCall& call) {
    call.bind({});
    const std::scoped_lock guard(mutex_);
    if (items_.empty()) raise_python("KeyError", Object("popitem(): dictionary is empty"));
    auto& table = *Access::own<TableNode>(Access::inside(items_));
    std::uint32_t place = std::min(tail_, table.used);
    do {
      --place;
    } while (table.entries[place].hash == TableEntry::kHole);
    tail_ = place;
    Object key = table.entries[place].key;
    Object value = remove_entry(table, place);
    return pair_of(std::move(key), std::move(value));
  }
  ManagerAnswer set_default(ManagerCall& call) {
    const Parameters given = call.bind({"key", "default"}, 1);
    const std::scoped_lock guard(mutex_);
    tail_ = kUnknown;
    return items_.setdefault(given[0], given[1]);
  }
  ManagerAnswer update(ManagerCall& call) {
    if (call.arguments.size() > 1) throw TypeError("update expected at most 1 argument");
    const Dict more = call.arguments.empty() ? Dict() : dict_of_pairs(call.arguments[0]);
    const std::scoped_lock guard(mutex_);
    tail_ = kUnknown;
    items_.update(more);
    items_.update(call.keywords);
    return {};
  }
  ManagerAnswer unite(ManagerCall& call) {
    Dict out = copy();
    out.update(dict_of_pairs(call.bind({"other"}, 1)[0]));
    return Object(std::move(out));
  }
  ManagerAnswer united_by(ManagerCall& call) {
    Dict out = dict_of_pairs(call.bind({"other"}, 1)[0]);
    out.update(copy());
    return Object(std::move(out));
  }
  ManagerAnswer reversed(ManagerCall& call) {
    call.bind({});
    List out = copy().keys();
    out.reverse();
    return Object(std::move(out));
  }
  ManagerAnswer from_keys(ManagerCall& call) {
    const Parameters given = call.bind({"iterable", "value"}, 1);
    Dict out;
    for (const Object& each : list_of_iterable(given[0])) out.set(each, given[1]);
    return Object(std::move(out));
  }

  static constexpr Method kMethods[] = {{"__contains__", &DictReferent::contains},
                                        {"__delitem__", &DictReferent::del_item},
                                        {"__getitem__", &DictReferent::get_item},
                                        {"__iter__", &DictReferent::iterate},
                                        {"__len__", &DictReferent::len},
                                        {"__setitem__", &DictReferent::set_item},
                                        {"clear", &DictReferent::clear},
                                        {"copy", &DictReferent::copied},
                                        {"get", &DictReferent::get},
                                        {"items", &DictReferent::items},
                                        {"keys", &DictReferent::keys},
                                        {"pop", &DictReferent::pop},
                                        {"popitem", &DictReferent::pop_item},
                                        {"setdefault", &DictReferent::set_default},
                                        {"update", &DictReferent::update},
                                        {"values", &DictReferent::values},
                                        {"__or__", &DictReferent::unite},
                                        {"__ror__", &DictReferent::united_by},
                                        {"__ior__", &DictReferent::update},
                                        {"__reversed__", &DictReferent::reversed},
                                        {"fromkeys", &DictReferent::from_keys}};

 private:
  static constexpr std::uint32_t kUnknown = ~std::uint32_t{0};

  std::uint32_t tail_ = kUnknown;  // no live entry from here on, unless one was added
};

// Over the keys of a dict as they were, or over the elements of a value.
class IteratorReferent final : public TableReferent<IteratorReferent> {
 public:
  IteratorReferent(List items, std::shared_ptr<DictReferent> dict)
      : items_(std::move(items)), dict_(std::move(dict)) {}
  std::string class_name() const override {
    return dict_ != nullptr ? "dict_keyiterator" : "list_iterator";
  }
  ManagerAnswer next(ManagerCall& call) {
    call.bind({});
    const std::scoped_lock guard(mutex_);
    if (at_ == items_.size()) {
      dict_.reset();
      raise_stop_iteration();
    }
    if (dict_ != nullptr && dict_->size() != items_.size()) {
      throw std::runtime_error("dictionary changed size during iteration");
    }
    return std::as_const(items_)[static_cast<std::ptrdiff_t>(at_++)];
  }
  static constexpr Method kMethods[] = {{"__next__", &IteratorReferent::next}};

 private:
  std::mutex mutex_;
  const List items_;
  std::shared_ptr<DictReferent> dict_;
  std::size_t at_ = 0;
};

ManagerAnswer DictReferent::iterate(ManagerCall& call) {
  call.bind({});
  ManagerAnswer answer;
  answer.referent = std::make_shared<IteratorReferent>(
      copy().keys(), std::static_pointer_cast<DictReferent>(shared_from_this()));
  return answer;
}

List pair_of(const Object& element, std::size_t place) {
  try {
    return list_of_iterable(element);
  } catch (const TypeError&) {
    throw TypeError("cannot convert dictionary update sequence element #" + std::to_string(place) +
                    " to a sequence");
  }
}

}  // namespace

Dict dict_of_pairs(const Object& values) {
  const Object plain = plain_of(values);
  if (plain.is<Dict>()) return plain.as<Dict>();
  Dict out;
  std::size_t place = 0;
  for (const Object& each : list_of_iterable(plain)) {
    const List pair = pair_of(each, place);
    if (pair.size() != 2) {
      throw ValueError("dictionary update sequence element #" + std::to_string(place) +
                       " has length " + std::to_string(pair.size()) + "; 2 is required");
    }
    out.set(pair[0], pair[1]);
    ++place;
  }
  return out;
}

std::shared_ptr<Referent> make_dict_referent(Dict items) {
  return std::make_shared<DictReferent>(std::move(items));
}
std::shared_ptr<Referent> make_iterator_referent(const Object& over) {
  return std::make_shared<IteratorReferent>(list_of_iterable(over), nullptr);
}

}  // namespace millrace::runtime
