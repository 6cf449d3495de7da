// What may be an item of a queue, and what becomes of it (Q07, Q23): sizes, kinds, serialisers that
// throw, handles inside, what is left behind.
#include <array>
#include <map>
#include <memory>
#include <millrace/millrace.hpp>
#include <vector>

#include "shm/arena.hpp"
#include "tests/api/process_support.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

namespace millrace::test {
namespace {

struct Refuses {
  int value = 0;
  template <class Archive>
  void save(Archive& out) const {
    if (value < 0) throw std::out_of_range("negative");
    out(value);
  }
  template <class Archive>
  void load(Archive& in) {
    in(value);
    if (value == 13) throw std::domain_error("thirteen");
  }
};
struct Block {
  std::array<double, 40> values;
};

class QueueItems : public ProcessTest {};

// test_queue_feeder_donot_stop_onexc, test_queue_feeder_on_queue_feeder_error
TEST_F(QueueItems, ASerialiserThatThrowsDoesSoInPutAndChangesNothingQ07) {
  const mp::Queue<Refuses> queue(1);
  EXPECT_THROW(queue.put({-1}), std::out_of_range);
  EXPECT_THROW((void)queue.try_put({-2}), std::out_of_range);
  EXPECT_EQ(queue.qsize(), 0U);
  queue.put({5});
  EXPECT_TRUE(queue.full());
  EXPECT_THROW(queue.put({-1}, 0s), std::out_of_range);  // encoded before it waits
  EXPECT_EQ(queue.get().value, 5);
}

TEST_F(QueueItems, AnItemThatCannotBeReadIsGone) {
  const mp::Queue<Refuses> queue(1);
  queue.put({13});
  EXPECT_THROW(queue.get(), std::domain_error);
  EXPECT_TRUE(queue.empty());
  queue.put({14});
  EXPECT_EQ(queue.get().value, 14);
}

TEST_F(QueueItems, ItemsOfAnySizeAndKindArriveAsTheyWere) {
  const mp::Queue<std::string> texts;
  std::vector<std::size_t> sizes{0,   1,   90,  95,  96,   97,    104,
                                 105, 500, 512, 513, 4096, 40000, 3000000};
  for (const std::size_t size : sizes) texts.put(std::string(size, 'a'));
  for (const std::size_t size : sizes) EXPECT_EQ(texts.get(), std::string(size, 'a'));

  const mp::Queue<std::map<std::string, std::vector<int>>> maps(2);
  maps.put({{"a", {1, 2}}, {"b", {}}});
  EXPECT_EQ(maps.get().at("a"), (std::vector<int>{1, 2}));

  const mp::Queue<std::unique_ptr<int>> pointers;
  pointers.put(std::make_unique<int>(4));
  EXPECT_EQ(*pointers.get(), 4);

  const mp::Queue<Block> blocks;
  Block block{};
  block.values[39] = 2.5;
  blocks.put(block);
  EXPECT_EQ(blocks.get().values[39], 2.5);

  const mp::Queue<char> small;
  small.put('x');
  EXPECT_EQ(small.get(), 'x');
  const mp::Queue<std::array<char, 119>> odd(3);
  std::array<char, 119> letters{};
  letters[118] = 'z';
  odd.put(letters);
  EXPECT_EQ(odd.get(), letters);
}

TEST_F(QueueItems, ObjectsAreTheDefaultItemsQ02) {
  mp::Queue queue;
  static_assert(std::same_as<decltype(queue), mp::Queue<mp::Object>>);
  queue.put(42);
  queue.put("text");
  queue.put(mp::None);
  queue.put(mp::List{1, "a", mp::None});
  queue.put(std::map<std::string, int>{{"a", 1}});
  queue.put(2.5);
  EXPECT_TRUE(queue.get() == 42);
  EXPECT_TRUE(queue.get() == "text");
  EXPECT_TRUE(queue.get().is<mp::NoneType>());
  EXPECT_EQ(queue.get().repr(), "[1, 'a', None]");
  EXPECT_EQ(queue.get().repr(), "{'a': 1}");
  EXPECT_EQ(queue.get().as<double>(), 2.5);
}

TEST_F(QueueItems, HandlesInsideItemsKeepTheirObjectsQ23) {
  const mp::Queue<mp::Value<int>> values;
  const mp::Queue<mp::Queue<int>> queues;
  {
    const mp::Value<int> value(7);
    values.put(value);
    const mp::Queue<int> inner;
    inner.put(5);
    queues.put(inner);
  }
  EXPECT_EQ(values.get().get(), 7);
  const mp::Queue<int> inner = queues.get();
  EXPECT_EQ(inner.get(), 5);
  mp::Queue any;
  {
    const mp::Queue<int> other;
    other.put(6);
    any.put(other);
  }
  EXPECT_EQ(any.get().as<mp::Queue<int>>().get(), 6);
}

TEST_F(QueueItems, WhatIsLeftInAQueueIsGivenBackWithIt) {
  const auto fill = [] {
    const mp::Queue<std::vector<mp::Value<int>>> values;
    const mp::Queue<std::string> texts(20);
    const mp::Queue<mp::Queue<mp::Value<int>>> nested;
    for (int i = 0; i < 20; ++i) {
      values.put({mp::Value<int>(i), mp::Value<int>(-i)});
      texts.put(std::string(static_cast<std::size_t>(i) * 1000, 'x'));
      const mp::Queue<mp::Value<int>> inner;
      inner.put(mp::Value<int>(i));
      nested.put(inner);
    }
    (void)values.get();
    (void)texts.get();
  };
  fill();
  const shm::ArenaUsage before = shm::Arena::instance().usage();
  for (int i = 0; i < 10; ++i) fill();
  const shm::ArenaUsage after = shm::Arena::instance().usage();
  EXPECT_EQ(after.small_blocks, before.small_blocks);
  EXPECT_EQ(after.span_bytes, before.span_bytes);
  EXPECT_EQ(after.refused_frees, before.refused_frees);
}

TEST_F(QueueItems, APutThatFailsKeepsNothing) {
  const mp::Queue<std::vector<mp::Value<int>>> queue(1);
  queue.put({});
  const mp::Value<int> value(1);
  const std::vector<mp::Value<int>> many(300, value);  // more than fits on the stack
  (void)queue.try_put(many);
  const shm::ArenaUsage before = shm::Arena::instance().usage();
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(queue.try_put(many));
  EXPECT_EQ(shm::Arena::instance().usage().small_blocks, before.small_blocks);
}

}  // namespace
}  // namespace millrace::test
