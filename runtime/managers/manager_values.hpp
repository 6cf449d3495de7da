// The values of a manager: list, dict, set, Namespace, Value, Array, Iterator and Queue, with the
// methods that Python's proxies expose.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

std::shared_ptr<Referent> make_list_referent(List items);
std::shared_ptr<Referent> make_dict_referent(Dict items);
std::shared_ptr<Referent> make_set_referent(Set items);
std::shared_ptr<Referent> make_namespace_referent(Dict attributes);
std::shared_ptr<Referent> make_value_referent(Object typecode, Object value);
/// Throws ValueError for an unknown typecode, TypeError and OverflowError for elements.
std::shared_ptr<Referent> make_array_referent(std::string_view typecode, const Object& elements);
/// Over whatever can be iterated over.
std::shared_ptr<Referent> make_iterator_referent(const Object& over);
std::shared_ptr<Referent> make_queue_referent(std::int64_t maxsize);

/// What iterating over a value gives. Throws TypeError.
List list_of_iterable(const Object& values);
/// A dict of a mapping or of pairs. Throws TypeError, ValueError.
Dict dict_of_pairs(const Object& values);

/// An index into `size` elements, from the end if negative. Throws IndexError naming `what`, and
/// TypeError.
std::size_t place_of(const Object& index, std::size_t size, const char* what,
                     const char* no_index = nullptr);
/// An int or a bool. TypeError: `no_integer`, or that its type cannot be interpreted as one.
std::int64_t integer_in(const Object& value, const char* no_integer = nullptr);
/// Where a slice of `size` elements begins, how far apart its elements are and how many there are.
struct SliceSpan {
  std::int64_t first = 0;
  std::int64_t step = 1;
  std::size_t count = 0;
};
SliceSpan span_of(const Slice& slice, std::size_t size);
/// list[slice] = values, and list[place] = value of a place that there is.
void set_slice(List& list, const Slice& slice, const Object& values);
void put_at(List& list, std::size_t place, Object value);

}  // namespace millrace::runtime
