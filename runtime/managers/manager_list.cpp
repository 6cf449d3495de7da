// list and array of a manager: G24, G26; and what indices, slices and iterables mean.
#include <algorithm>
#include <mutex>
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
  auto value = wanted.as<std::int64_t>();
  if (value < 0) value = value < -size ? least : value + size;
  return std::clamp(value, least, most);
}

// The elements of a list that one process holds, for writing, without handing them out for good.
ItemsNode& writable(List& list) { return *Access::own<ItemsNode>(Access::inside(list)); }

void set_slice(List& list, const Slice& slice, const Object& values) {
  const SliceSpan span = span_of(slice, list.size());
  const List source = list_of_iterable(values);
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
  ItemsNode& node = writable(list);
  std::int64_t place = span.first;
  for (const Object& each : source) {
    node.items[place] = each;
    place += span.step;
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
      items_.pop(static_cast<std::ptrdiff_t>(
          place_of(key, items_.size(), "list assignment index out of range")));
    }
    return {};
  }
  ManagerAnswer get_item(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    if (key.is<Slice>()) return std::as_const(Access::inside(items_))[key];
    const std::size_t place = place_of(key, items_.size(), "list index out of range");
    return std::as_const(items_)[static_cast<std::ptrdiff_t>(place)];
  }
  ManagerAnswer mul(ManagerCall& call) {
    return Object(repeated(copy(), call.bind({"value"}, 1)[0].as<std::int64_t>()));
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
      const std::size_t place =
          place_of(given[0], items_.size(), "list assignment index out of range");
      writable(items_).items[place] = source;
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
    items_.insert(given[0].as<std::ptrdiff_t>(), given[1]);
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
    const auto times = call.bind({"value"}, 1)[0].as<std::int64_t>();
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
};

// An element as an array of `code` keeps it. Throws what array.array does.
Object array_element(char code, const Object& value) {
  switch (code) {
    case 'b':
      return value.as<signed char>();
    case 'B':
      return value.as<unsigned char>();
    case 'h':
      return value.as<short>();
    case 'H':
      return value.as<unsigned short>();
    case 'i':
      return value.as<int>();
    case 'I':
      return value.as<unsigned>();
    case 'l':
    case 'q':
      return value.as<std::int64_t>();
    case 'L':
    case 'Q':
      return value.as<std::uint64_t>();
    case 'f':
      return static_cast<double>(static_cast<float>(value.as<double>()));
    case 'd':
      return value.as<double>();
    case 'u':
      if (value.is<std::string>() && value.size() == 1) return value;
      throw TypeError("array item must be a unicode character, not " + value.type_name());
    default:
      throw ValueError("bad typecode (must be b, B, u, h, H, i, I, l, L, q, Q, f or d)");
  }
}

class ArrayReferent final : public TableReferent<ArrayReferent> {
 public:
  ArrayReferent(std::string_view code, const Object& elements) {
    if (code.size() != 1) throw TypeError("array() argument 1 must be a unicode character");
    code_ = code[0];
    static_cast<void>(array_element(code_, code_ == 'u' ? Object("a") : Object(0)));
    for (const Object& each : list_of_iterable(elements)) items_.append(array_element(code_, each));
  }
  std::string class_name() const override { return "array.array"; }
  std::string repr() override {
    const std::scoped_lock guard(mutex_);
    if (items_.empty()) return std::string("array('") + code_ + "')";
    return std::string("array('") + code_ + "', " + items_.repr() + ")";
  }
  Object value(const ManagerCaller& caller) override {
    const std::scoped_lock guard(mutex_);
    return array_of(items_, caller);
  }
  ManagerAnswer len(ManagerCall& call) {
    call.bind({});
    const std::scoped_lock guard(mutex_);
    return items_.size();
  }
  ManagerAnswer get_item(ManagerCall& call) {
    const Object& key = call.bind({"key"}, 1)[0];
    const std::scoped_lock guard(mutex_);
    if (key.is<Slice>()) {
      return array_of(std::as_const(Access::inside(items_))[key].as<List>(), call.caller);
    }
    const std::size_t place = place_of(key, items_.size(), "array index out of range");
    return std::as_const(items_)[static_cast<std::ptrdiff_t>(place)];
  }
  ManagerAnswer set_item(ManagerCall& call) {
    const Parameters given = call.bind({"key", "value"}, 2);
    const std::scoped_lock guard(mutex_);
    if (given[0].is<Slice>()) {
      List checked;
      for (const Object& each : list_of_iterable(given[1])) {
        checked.append(array_element(code_, each));
      }
      set_slice(items_, given[0].as<Slice>(), Object(checked));
    } else {
      const std::size_t place =
          place_of(given[0], items_.size(), "array assignment index out of range");
      writable(items_).items[place] = array_element(code_, given[1]);
    }
    return {};
  }

  static constexpr Method kMethods[] = {{"__len__", &ArrayReferent::len},
                                        {"__getitem__", &ArrayReferent::get_item},
                                        {"__setitem__", &ArrayReferent::set_item}};

 private:
  [[nodiscard]] Object array_of(const List& items, const ManagerCaller& caller) const {
    if (!caller.speaks_pickle()) return Object(items);
    return made_by_python("array", "array",
                          Object(Tuple{Object(std::string(1, code_)), Object(items)}));
  }

  std::mutex mutex_;
  char code_ = 0;
  List items_;
};

}  // namespace

SliceSpan span_of(const Slice& slice, std::size_t size) {
  const std::int64_t step = slice.step().is_none() ? 1 : slice.step().as<std::int64_t>();
  if (step == 0) throw ValueError("slice step cannot be zero");
  const SliceSpan limits{0, step, size};
  const auto length = static_cast<std::int64_t>(size);
  const std::int64_t first = bound(slice.start(), step < 0 ? length - 1 : 0, limits);
  const std::int64_t last = bound(slice.stop(), step < 0 ? -1 : length, limits);
  return {first, step, static_cast<std::size_t>(Range(first, last, step).size())};
}

std::size_t place_of(const Object& index, std::size_t size, const char* what) {
  auto place = index.as<std::int64_t>();
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
std::shared_ptr<Referent> make_array_referent(std::string_view typecode, const Object& elements) {
  return std::make_shared<ArrayReferent>(typecode, elements);
}

}  // namespace millrace::runtime
