#include <memory>
#include <millrace/object.hpp>
#include <millrace/queues.hpp>
#include <vector>

#include "tests/runtime/type_key_test.hpp"

namespace millrace::test {
namespace {

template <class T>
TypeNumbers numbers_of() {
  return {wire::type_key<T>(), wire::type_hash<T>(), shm::object_type<T>()};
}

}  // namespace

TypeNumbers queue_numbers_elsewhere() { return numbers_of<Queue<Object>>(); }
TypeNumbers vector_numbers_elsewhere() {
  return numbers_of<std::vector<int, std::allocator<int>>>();
}
bool holds_queue_elsewhere(const Object& value) { return value.is<Queue<Object>>(); }

}  // namespace millrace::test
