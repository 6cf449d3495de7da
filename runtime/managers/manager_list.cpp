// list of a manager: G26; and what indices, slices and iterables mean.
#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/managers/manager_items.hpp"
#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

std::int64_t bound(const Object& wanted, std::int64_t otherwise, const SliceSpan& limits) {
  if (wanted.is_none()) return otherwise;
  const auto size = static_cast<std::int64_t>(limits.count);
  const std::int64_t least = limits.step < 0 ? -1 : 0;
  const std::int64_t most = limits.step < 0 ? size - 1 : size;
  auto value =
      integer_in(wanted, "slice indices must be integers or None or have an __index__ method");
  if (value < 0) value = value < -size ? least : value + size;
  return std::clamp(value, least, most);
}

List assigned(const Object& values, std::int64_t step) {
  try {
    return list_of_iterable(values);
  } catch (const TypeError&) {
    throw TypeError(step == 1 ? "can only assign an iterable"
                              : "must assign iterable to extended slice");
  }
}

void erase_slice(List& list, const Slice& slice) {
  const SliceSpan span = span_of(slice, list.size());
  std::vector<bool> goes(list.size(), false);
  std::int64_t place = span.first;
  for (std::size_t i = 0; i < span.count; ++i, place += span.step) {
    goes[static_cast<std::size_t>(place)] = true;
  }
  List out;
  out.reserve(list.size() - span.count);
  std::size_t i = 0;
  for (const Object& each : std::as_const(list)) {
    if (!goes[i++]) out.append(each);
  }
  list = std::move(out);
}

List repeated(const List& list, std::int64_t times) {
  List out;
  if (times > 0 && list.size() > (std::size_t{1} << 40) / static_cast<std::size_t>(times)) {
    throw std::bad_alloc();
  }
  for (std::int64_t i = 0; i < times; ++i) {
    for (const Object& each : list) out.append(each);
  }
  return out;
}

// Each call holds the lock from begin to end; what it gives back shares nodes with the list.
class ListReferent final : public ItemsReferent<ListReferent, List> {
 public:
  using ItemsReferent<ListReferent, List>::ItemsReferent;
  std::string class_name() const override { return "list"; }

  ManagerAnswer add(ManagerCall& call) {
    const Object& other = call.bind({"value"}, 1)[0];
    List out = copy();
    const Object plain = plain_of(other);
    if (!plain.is<List>()) {
      throw TypeError("can only concatenate list (not \"" + plain.type_name() + "\") to list");
    }
    out.extend(plain);
    return Object(std::move(out));
  }
  ManagerAnswer contains(ManagerCall& call) {
    const Object& value = call.bind({"key"}, 1)[0];
    return copy().contains(value);
  }
  ManagerAnswer del_item(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    if (key.is<Slice>()) {
      erase_slice(items_, key.as<Slice>());
    } else {
      items_.pop(
          static_cast<std::ptrdiff_t>(list_place(key, "list assignment index out of range")));
    }
    return {};
  }
  ManagerAnswer get_item(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    if (key.is<Slice>()) return std::as_const(Access::inside(items_))[key];
    const std::size_t place = list_place(key, "list index out of range");
    return std::as_const(items_)[static_cast<std::ptrdiff_t>(place)];
  }
  ManagerAnswer mul(ManagerCall& call) {
    return Object(repeated(copy(), integer_in(call.bind({"value"}, 1)[0])));
  }
  ManagerAnswer reversed(ManagerCall& call) {
    call.bind({});
    List out = copy();
    if (call.caller.speaks_pickle()) {  // as Python pickles its iterator
      return made_by_python("builtins", "reversed", Object(Tuple{Object(std::move(out))}));
    }
    out.reverse();
    return Object(std::move(out));
  }
  ManagerAnswer set_item(ManagerCall& call) {
    const Parameters given = call.bind({"key", "value"}, 2);
    const Object source = given[0].is<Slice>() ? plain_of(given[1]) : given[1];
    const std::scoped_lock guard(mutex_);
    if (given[0].is<Slice>()) {
      set_slice(items_, given[0].as<Slice>(), source);
    } else {
      const std::size_t place = list_place(given[0], "list assignment index out of range");
      put_at(items_, place, source);
    }
    return {};
  }
  ManagerAnswer append(ManagerCall& call) {
    const Object& value = call.bind({"object"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    items_.append(value);
    return {};
  }
  ManagerAnswer count(ManagerCall& call) {
    const Object& value = call.bind({"value"}, 1)[0];
    return copy().count(value);
  }
  ManagerAnswer extend(ManagerCall& call) {
    const Object values = plain_of(call.bind({"iterable"}, 1)[0]);
    const std::scoped_lock guard(mutex_);
    items_.extend(values);
    return {};
  }
  ManagerAnswer index(ManagerCall& call) {
    const Parameters given = call.bind({"value", "start", "stop"}, 1);
    const List list = copy();
    const SliceSpan span = span_of(Slice(given[1], given[2]), list.size());
    const List& items = list;
    for (std::size_t i = 0; i < span.count; ++i) {
      const std::ptrdiff_t place = span.first + static_cast<std::ptrdiff_t>(i);
      if (items[place] == given[0]) return place;
    }
    throw ValueError(given[0].repr() + " is not in list");
  }
  ManagerAnswer insert(ManagerCall& call) {
    const Parameters given = call.bind({"index", "object"}, 2);
    const std::scoped_lock guard(mutex_);
    items_.insert(static_cast<std::ptrdiff_t>(integer_in(given[0])), given[1]);
    return {};
  }
  ManagerAnswer pop(ManagerCall& call) {
    const Parameters given = call.bind({"index"});
    const std::scoped_lock guard(mutex_);
    if (items_.empty()) throw IndexError("pop from empty list");
    const Object last(-1);
    const std::size_t place =
        place_of(given.has(0) ? given[0] : last, items_.size(), "pop index out of range");
    return items_.pop(static_cast<std::ptrdiff_t>(place));
  }
  ManagerAnswer remove(ManagerCall& call) {
    const Object& value = call.bind({"value"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    items_.remove(value);
    return {};
  }
  ManagerAnswer reverse(ManagerCall& call) {
    call.bind({});
    const std::scoped_lock guard(mutex_);
    items_.reverse();
    return {};
  }
  ManagerAnswer sort(ManagerCall& call) {
    if (!call.arguments.empty()) throw TypeError("sort() takes no positional arguments");
    const Parameters given = call.bind({"key", "reverse"});
    if (!given[0].is_none()) throw TypeError("sort() in a manager takes no key");
    const std::scoped_lock guard(mutex_);
    const bool backwards = given.flag(1, false);
    if (backwards) items_.reverse();  // equal elements keep their order
    items_.sort();
    if (backwards) items_.reverse();
    return {};
  }
  ManagerAnswer imul(ManagerCall& call) {
    const std::int64_t times = integer_in(call.bind({"value"}, 1)[0]);
    const std::scoped_lock guard(mutex_);
    items_ = repeated(items_, times);
    return {};
  }

  static constexpr Method kMethods[] = {{"__add__", &ListReferent::add},
                                        {"__contains__", &ListReferent::contains},
                                        {"__delitem__", &ListReferent::del_item},
                                        {"__getitem__", &ListReferent::get_item},
                                        {"__len__", &ListReferent::len},
                                        {"__mul__", &ListReferent::mul},
                                        {"__reversed__", &ListReferent::reversed},
                                        {"__rmul__", &ListReferent::mul},
                                        {"__setitem__", &ListReferent::set_item},
                                        {"append", &ListReferent::append},
                                        {"count", &ListReferent::count},
                                        {"extend", &ListReferent::extend},
                                        {"index", &ListReferent::index},
                                        {"insert", &ListReferent::insert},
                                        {"pop", &ListReferent::pop},
                                        {"remove", &ListReferent::remove},
                                        {"reverse", &ListReferent::reverse},
                                        {"sort", &ListReferent::sort},
                                        {"__imul__", &ListReferent::imul},
                                        {"clear", &ListReferent::clear},
                                        {"copy", &ListReferent::copied}};

 private:
  // With the lock.
  std::size_t list_place(const Object& key, const char* what) const {
    const std::string no_index = "list indices must be integers or slices, not " + key.type_name();
    return place_of(key, items_.size(), what, no_index.c_str());
  }
};

}  // namespace

// The elements of a list that one process holds, without handing them out for good.
void put_at(List& list, std::size_t place, Object value) {
  Access::own<ItemsNode>(Access::inside(list))->items[place] = std::move(value);
}

void set_slice(List& list, const Slice& slice, const Object& values) {
  const SliceSpan span = span_of(slice, list.size());
  const List source = assigned(values, span.step);
  if (span.step == 1) {
    List out;
    out.reserve(list.size() - span.count + source.size());
    const List& from = list;
    const Object* const first = from.begin() + span.first;
    for (const Object* at = from.begin(); at != first; ++at) out.append(*at);
    for (const Object& each : source) out.append(each);
    for (const Object* at = first + span.count; at != from.end(); ++at) out.append(*at);
    list = std::move(out);
    return;
  }
  if (source.size() != span.count) {
    throw ValueError("attempt to assign sequence of size " + std::to_string(source.size()) +
                     " to extended slice of size " + std::to_string(span.count));
  }
  std::int64_t place = span.first;
  for (const Object& each : source) {
    put_at(list, static_cast<std::size_t>(place), each);
    place += span.step;
  }
}

SliceSpan span_of(const Slice& slice, std::size_t size) {
  const std::int64_t step = slice.step().is_none() ? 1 : slice.step().as<std::int64_t>();
  if (step == 0) throw ValueError("slice step cannot be zero");
  const SliceSpan limits{0, step, size};
  const auto length = static_cast<std::int64_t>(size);
  const std::int64_t first = bound(slice.start(), step < 0 ? length - 1 : 0, limits);
  const std::int64_t last = bound(slice.stop(), step < 0 ? -1 : length, limits);
  return {first, step, static_cast<std::size_t>(Range(first, last, step).size())};
}

std::int64_t integer_in(const Object& value, const char* no_integer) {
  if (is_kind(value, ValueKind::boolean)) return value.as<bool>() ? 1 : 0;
  if (is_kind(value, ValueKind::integer)) return value.as<std::int64_t>();
  throw TypeError(no_integer != nullptr
                      ? no_integer
                      : "'" + value.type_name() + "' object cannot be interpreted as an integer");
}

std::size_t place_of(const Object& index, std::size_t size, const char* what,
                     const char* no_index) {
  std::int64_t place = integer_in(index, no_index);
  if (place < 0) place += static_cast<std::int64_t>(size);
  if (place < 0 || static_cast<std::uint64_t>(place) >= size) throw IndexError(what);
  return static_cast<std::size_t>(place);
}

List list_of_iterable(const Object& values) {
  const Object plain = plain_of(values);
  if (plain.is<List>()) return plain.as<List>();
  List out;
  out.extend(plain);
  return out;
}

std::shared_ptr<Referent> make_list_referent(List items) {
  return std::make_shared<ListReferent>(std::move(items));
}

}  // namespace millrace::runtime
