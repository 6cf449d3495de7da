// mp::Object from the inside: hashes, tables, shared nodes, what happens to hostile shapes. What
// users see is in tests/api/object_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <millrace/object.hpp>
#include <millrace/serialize.hpp>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/utf8.hpp"
#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"

namespace millrace::runtime {
namespace {

using namespace std::string_literals;

Object through_a_message(const Object& value) {
  wire::Writer out;
  wire::encode(out, value);
  wire::Reader in(out.data(), out.size());
  return wire::decode<Object>(in);
}

TEST(ObjectNode, CopiesShareUntilOneIsChanged) {
  List list{1, 2};
  const Object before = list;
  EXPECT_EQ(Access::node(before), Access::node(Object(list)));
  list.append(3);
  EXPECT_NE(Access::node(before), Access::node(Object(list)));
  EXPECT_EQ(before.repr(), "[1, 2]");
}

TEST(ObjectNode, AnElementHandedOutForWritingIsNobodyElses) {
  List list{1, 2};
  Object& first = list[0];
  const List copy(list);
  const Object another = list;
  first = "changed";
  EXPECT_EQ(copy.repr(), "[1, 2]");
  EXPECT_EQ(another.repr(), "[1, 2]");
  EXPECT_EQ(list.repr(), "['changed', 2]");
}

TEST(ObjectNode, NestedElementsHandedOutAreCopiedToo) {
  List inner{1};
  Object& number = inner[0];
  List outer{None};
  outer[0] = std::move(inner);
  const List copy(outer);
  number = 2;
  EXPECT_EQ(copy.repr(), "[[1]]");
  EXPECT_EQ(outer.repr(), "[[2]]");
}

TEST(ObjectNode, AMillionLevelsAreDestroyedWithoutAStack) {
  Object deep = 1;
  for (int i = 0; i < 1000000; ++i) deep = List{std::move(deep)};
  EXPECT_THROW(static_cast<void>(deep.repr()), ValueError);
  EXPECT_THROW(static_cast<void>(deep == List{deep}), ValueError);
  EXPECT_THROW(through_a_message(deep), ValueError);
  deep = None;
}

TEST(ObjectNode, ThreadsMayCopyAndDropOneValue) {
  const Object shared = List{1, std::string(100, 'x'), List{2, 3}};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&shared] {
      for (int k = 0; k < 20000; ++k) {
        Object copy = shared;
        auto list = copy.as<List>();
        list.append(k);
        ASSERT_EQ(list.size(), 4U);
      }
    });
  }
  for (auto& each : threads) each.join();
  EXPECT_EQ(Access::node(shared)->references.load(std::memory_order_relaxed), 1U);
  EXPECT_EQ(shared.size(), 3U);
}

TEST(ObjectTable, KeepsOrderThroughErasuresAndGrowth) {
  Dict dict;
  for (int i = 0; i < 1000; ++i) dict.set(i, i * i);
  for (int i = 0; i < 1000; i += 2) dict.erase(i);
  for (int i = 1000; i < 2000; ++i) dict.set(i, 0);
  dict.set(0, "again");
  EXPECT_EQ(dict.size(), 1501U);
  EXPECT_EQ(dict.at(501), 501 * 501);
  EXPECT_FALSE(dict.contains(500));
  const List keys = dict.keys();
  EXPECT_EQ(keys[0], 1);
  EXPECT_EQ(keys[1], 3);
  EXPECT_EQ(keys[-1], 0);
  std::size_t count = 0;
  for (const Object& each : dict) EXPECT_EQ(each, keys[static_cast<std::ptrdiff_t>(count++)]);
  EXPECT_EQ(count, dict.size());
}

TEST(ObjectTable, ErasingAndAddingForEverNeedsNoMoreMemory) {
  Dict dict;
  for (int i = 0; i < 100000; ++i) {
    dict.set(i, i);
    if (i >= 4) dict.erase(i - 4);
  }
  EXPECT_EQ(dict.size(), 4U);
  EXPECT_LE(Access::node<TableNode>(Object(dict))->capacity, 16U);
}

TEST(ObjectHash, AgreesWithPythonOnNumbers) {
  EXPECT_EQ(hash_of(0), 0U);
  EXPECT_EQ(hash_of(-1), static_cast<std::uint64_t>(-2));
  EXPECT_EQ(hash_of((std::int64_t{1} << 61) - 1), 0U);
  EXPECT_EQ(hash_of(std::numeric_limits<std::int64_t>::min()), static_cast<std::uint64_t>(-4));
  EXPECT_EQ(hash_of(0.5), 1152921504606846976U);
  EXPECT_EQ(hash_of(0.1), 230584300921369408U);
  EXPECT_EQ(hash_of(-1e300), static_cast<std::uint64_t>(-1224995262755759164));
  EXPECT_EQ(hash_of(std::numeric_limits<double>::infinity()), 314159U);
}

TEST(ObjectHash, OfEqualValuesIsEqual) {
  const Object pairs[][2] = {{1, 1.0},
                             {true, 1},
                             {0.0, -0.0},
                             {std::complex<double>(2, 0), 2},
                             {FrozenSet{1, 2, 3}, FrozenSet{3, 1, 2}},
                             {Range(0), Range(5, 5)},
                             {Range(0, 5, 2), Range(0, 6, 2)},
                             {Tuple{1, "a"}, Tuple{1.0, "a"}},
                             {std::string(50, 'a'), std::string(50, 'a')}};
  for (const auto& [a, b] : pairs) {
    EXPECT_EQ(a, b) << a.repr() << b.repr();
    EXPECT_EQ(a.hash(), b.hash()) << a.repr() << b.repr();
  }
}

TEST(ObjectWire, KeepsEveryKindOfValue) {
  const Object value = Dict{{"list", List{1, 2.5, None, true, "text", Bytes("raw")}},
                            {Tuple{1, "x"}, Set{1, 2}},
                            {FrozenSet{1, 2}, Range(1, 10, 3)},
                            {"slice", Slice(1, None)},
                            {"complex", std::complex<double>(1, -2)},
                            {"array", ByteArray("abc")},
                            {"long", std::string(100000, 'y')}};
  EXPECT_EQ(through_a_message(value), value);
  EXPECT_EQ(through_a_message(value).repr(), value.repr());
}

TEST(ObjectWire, ExceptionsKeepTheirCppType) {
  const Object value = through_a_message(WorkerLost(5, -9, true, 3, 4));
  EXPECT_EQ(value.as<WorkerLost>().exitcode(), -9);
  EXPECT_EQ(value.as<WorkerLost>().last(), 4U);
  EXPECT_EQ(through_a_message(KeyError("k")).as<KeyError>().what(), "k"s);
}

TEST(ObjectWire, DamagedMessagesAreCorrupt) {
  wire::Writer out;
  wire::encode(out, Object(List{1, "text", Dict{{1, 2}}}));
  for (std::size_t length = 0; length < out.size(); ++length) {
    wire::Reader in(out.data(), length);
    EXPECT_THROW(wire::decode<Object>(in), Corrupt) << length;
  }
  wire::Reader list(out.data(), out.size());
  EXPECT_THROW(wire::decode<Dict>(list), Corrupt);
  const unsigned char huge[] = {
      static_cast<unsigned char>(ValueKind::list), 255, 255, 255, 255, 255, 255, 255, 127};
  wire::Reader in(huge, sizeof huge);
  EXPECT_THROW(wire::decode<Object>(in), Corrupt);
}

TEST(Utf8, TellsWellFormedTextFromOther) {
  for (const auto& good : {""s, "abc"s, "\xc3\xa9"s, "\xe2\x82\xac"s, "\xf0\x9f\x98\x80"s,
                           "\xed\xa0\x80"s, "12345678\xc3\xa9"s}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const auto& bad : {"\xc3"s, "\x80"s, "\xc0\x80"s, "\xe0\x80\x80"s, "\xf5\x80\x80\x80"s,
                          "\xf4\x90\x80\x80"s, "1234567\xff"s, "12345678\xff"s, "\xe2\x82"s}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

}  // namespace
}  // namespace millrace::runtime
