// Types are the same in all files of a program, however each spells them.
#include "tests/runtime/type_key_test.hpp"

#include <gtest/gtest.h>

#include <millrace/object.hpp>
#include <millrace/queues.hpp>
#include <vector>

namespace millrace {
namespace {

template <class T>
test::TypeNumbers numbers_of() {
  return {wire::type_key<T>(), wire::type_hash<T>(), shm::object_type<T>()};
}

// g++ writes a default template argument out, or not, as the file did first
TEST(TypeKey, IsTheSameWhereverTheTypeIsSpelt) {
  const Queue<> queue;  // elsewhere: Queue<Object>
  EXPECT_EQ(numbers_of<Queue<>>(), test::queue_numbers_elsewhere());
  EXPECT_EQ((numbers_of<std::vector<int>>()), test::vector_numbers_elsewhere());
  EXPECT_TRUE(test::holds_queue_elsewhere(Object(queue)));
}

TEST(TypeKey, TellsTypesApart) {
  EXPECT_NE(wire::type_hash<int>(), wire::type_hash<unsigned>());
  EXPECT_NE(wire::type_hash<Queue<int>>(), wire::type_hash<Queue<long>>());
  const auto first = [] {
    struct Local {
      int x;
    };
    return wire::type_hash<Local>();
  }();
  const auto second = [] {
    struct Local {
      int x;
    };
    return wire::type_hash<Local>();
  }();
  EXPECT_NE(first, second);
}

}  // namespace
}  // namespace millrace
