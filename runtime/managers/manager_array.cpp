// array of a manager: G24, as Python's array.array.
#include <limits>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/managers/manager_proxy_values.hpp"
#include "runtime/managers/manager_referent.hpp"
#include "runtime/managers/manager_values.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/pickle.hpp"

namespace millrace::runtime {

namespace {

// What array.array says of ints beyond those of a code.
struct ArrayCode {
  char code;
  std::int64_t least;
  std::int64_t most;
  const char* name;
};
template <class T>
constexpr ArrayCode array_code(char code, const char* name) {
  constexpr bool wide = sizeof(T) == sizeof(std::int64_t);
  return {code, static_cast<std::int64_t>(std::numeric_limits<T>::min()),
          wide ? std::numeric_limits<std::int64_t>::max()
               : static_cast<std::int64_t>(std::numeric_limits<T>::max()),
          name};
}
constexpr ArrayCode kArrayCodes[] = {array_code<signed char>('b', "signed char"),
                                     array_code<unsigned char>('B', "unsigned byte integer"),
                                     array_code<short>('h', "signed short integer"),
                                     array_code<unsigned short>('H', "unsigned short"),
                                     array_code<int>('i', "signed integer"),
                                     array_code<unsigned>('I', "unsigned int"),
                                     array_code<long>('l', "signed long"),
                                     array_code<unsigned long>('L', "unsigned long"),
                                     array_code<long long>('q', "signed long long"),
                                     array_code<unsigned long long>('Q', "unsigned long long")};

// An element as an array of `code` keeps it. Throws what array.array does.
Object array_element(char code, const Object& value) {
  if (code == 'u') {
    if (value.is<std::string>() && value.size() == 1) return value;
    throw TypeError("array item must be a unicode character, not " + value.type_name());
  }
  if (code == 'f' || code == 'd') {
    if (!value.is<double>()) static_cast<void>(integer_in(value, "must be real number"));
    const auto number = value.as<double>();
    return code == 'd' ? number : static_cast<double>(static_cast<float>(number));
  }
  for (const ArrayCode& each : kArrayCodes) {
    if (each.code != code) continue;
    const std::int64_t number = integer_in(value);
    if (number < each.least || number > each.most) {
      if (number < 0 && (code == 'I' || code == 'L')) {
        throw OverflowError("can't convert negative value to unsigned int");
      }
      if (number < 0 && code == 'Q') throw OverflowError("can't convert negative int to unsigned");
      throw OverflowError(std::string(each.name) + (number < each.least
                                                        ? " is less than minimum"
                                                        : " is greater than maximum"));
    }
    return number;
  }
  throw ValueError("bad typecode (must be b, B, u, h, H, i, I, l, L, q, Q, f or d)");
}

// What an array of `code` is made of.
List array_elements(char code, const Object& given) {
  if (given.is<std::string>() && code != 'u') {
    throw TypeError(std::string("cannot use a str to initialize an array with typecode '") + code +
                    "'");
  }
  if (is_byte_run(given)) {
    try {
      return array_numbers(code, to_bytes(given).view());
    } catch (const UnpicklingError&) {
      throw ValueError("bytes length not a multiple of item size");
    }
  }
  List elements;
  for (const Object& each : list_of_iterable(given)) elements.append(array_element(code, each));
  return elements;
}

class ArrayReferent final : public TableReferent<ArrayReferent> {
 public:
  ArrayReferent(std::string_view code, const Object& elements) {
    if (code.size() != 1) throw TypeError("array() argument 1 must be a unicode character");
    code_ = code[0];
    static_cast<void>(array_element(code_, code_ == 'u' ? Object("a") : Object(0)));
    items_ = array_elements(code_, elements);
  }
  std::string class_name() const override { return "array.array"; }
  std::string repr() override {
    const std::scoped_lock guard(mutex_);
    if (items_.empty()) return std::string("array('") + code_ + "')";
    std::string elements = items_.repr();
    if (code_ == 'u') {
      std::string text;
      for (const Object& each : std::as_const(items_)) text += each.as<std::string>();
      elements = Object(text).repr();
    }
    return std::string("array('") + code_ + "', " + elements + ")";
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
    const std::size_t place =
        place_of(key, items_.size(), "array index out of range", "array indices must be integers");
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
          place_of(given[0], items_.size(), "array assignment index out of range",
                   "array indices must be integers");
      put_at(items_, place, array_element(code_, given[1]));
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

std::shared_ptr<Referent> make_array_referent(std::string_view typecode, const Object& elements) {
  return std::make_shared<ArrayReferent>(typecode, elements);
}

}  // namespace millrace::runtime
