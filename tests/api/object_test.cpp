// mp::Object and the containers it is used with. CPython: its builtin types.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <complex>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <limits>
#include <list>
#include <map>
#include <millrace/arena.hpp>
#include <millrace/errors.hpp>
#include <millrace/object.hpp>
#include <millrace/pool.hpp>
#include <millrace/serialize.hpp>
#include <millrace/synchronize.hpp>
#include <optional>
#include <ranges>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

namespace mp = millrace;

namespace {

using namespace std::string_literals;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::string repr(const mp::Object& value) { return value.repr(); }

TEST(Object, HoldsWhatPythonHas) {
  EXPECT_EQ(repr(mp::List{42, mp::None, "hello"}), "[42, None, 'hello']");
  EXPECT_EQ(repr(mp::Dict{{"k", 1}, {2, mp::List{}}}), "{'k': 1, 2: []}");
  EXPECT_EQ(repr(mp::Tuple{1}), "(1,)");
  EXPECT_EQ(repr(mp::Tuple{}), "()");
  EXPECT_EQ(repr(mp::Set{}), "set()");
  EXPECT_EQ(repr(mp::Set{1}), "{1}");
  EXPECT_EQ(repr(mp::FrozenSet{1}), "frozenset({1})");
  EXPECT_EQ(repr(mp::Slice{1, 2}), "slice(1, 2, None)");
  EXPECT_EQ(repr(mp::Range{0, 5}), "range(0, 5)");
  EXPECT_EQ(repr(mp::ByteArray("a'")), "bytearray(b\"a\\'\")");
  EXPECT_EQ(repr(mp::Bytes("raw")), "b'raw'");
  EXPECT_EQ(repr(std::complex<double>(1, -2)), "(1-2j)");
  EXPECT_EQ(repr(mp::ValueError("bad")), "ValueError('bad')");
  EXPECT_EQ(repr(true), "True");
  EXPECT_EQ(repr(1e16), "1e+16");
  EXPECT_EQ(repr(0.1F), "0.10000000149011612");
  EXPECT_EQ(repr("it's"), "\"it's\"");
  EXPECT_EQ(repr('c'), "'c'");
}

TEST(Object, IsMadeOfOrdinaryContainers) {
  EXPECT_EQ(repr(std::vector<int>{1, 2}), "[1, 2]");
  EXPECT_EQ(repr(std::pair<int, std::string>{1, "a"}), "(1, 'a')");
  EXPECT_EQ(repr(std::tuple<>()), "()");
  EXPECT_EQ(repr(std::map<std::string, int>{{"a", 1}}), "{'a': 1}");
  EXPECT_EQ(repr(std::unordered_map<int, std::vector<double>>{{1, {0.5}}}), "{1: [0.5]}");
  EXPECT_EQ(repr(std::set<int>{2, 1}), "{1, 2}");
  EXPECT_EQ(repr(std::optional<int>()), "None");
  EXPECT_EQ(repr(std::optional<int>(3)), "3");
  EXPECT_EQ(repr(std::variant<int, std::string>("x")), "'x'");
  EXPECT_EQ(repr(std::vector<bool>{true, false}), "[True, False]");
  EXPECT_EQ(repr(std::array<std::string, 2>{"a", "b"}), "['a', 'b']");
  EXPECT_EQ(repr(std::vector<std::byte>{std::byte{1}}), "b'\\x01'");
  EXPECT_EQ(repr(std::filesystem::path("/tmp")), "'/tmp'");
  EXPECT_EQ(repr(mp::List(std::views::iota(0, 3))), "[0, 1, 2]");
  EXPECT_EQ(repr(mp::Set(std::vector<int>{1, 1})), "{1}");
  EXPECT_EQ(repr(mp::Dict(std::map<int, bool>{{1, true}})), "{1: True}");
}

TEST(Object, IsNotMadeOfWhatPythonHasNot) {
  struct Plain {
    int x;
  };
  static_assert(!std::is_convertible_v<int*, mp::Object>);
  static_assert(!std::is_convertible_v<Plain, mp::Object>);
  static_assert(!std::is_convertible_v<std::nullptr_t, mp::Object>);
  static_assert(!std::is_convertible_v<void (*)(), mp::Object>);
  static_assert(!std::is_convertible_v<decltype(mp::partial(repr, 1)), mp::Object>);
  static_assert(!std::is_assignable_v<mp::Object, int>);  // o["k"] = 5 would be lost
  EXPECT_THROW(mp::Object{std::numeric_limits<std::uint64_t>::max()}, mp::OverflowError);
  EXPECT_EQ(mp::Object(std::uint64_t{1} << 62), std::int64_t{1} << 62);
}

TEST(Object, ConvertsWithoutLoss) {
  using Pair = std::tuple<int, std::string>;
  EXPECT_EQ(mp::Object(42).as<long>(), 42);
  EXPECT_EQ(mp::Object(2.0).as<int>(), 2);
  EXPECT_EQ(mp::Object(3).as<double>(), 3.0);
  EXPECT_EQ(mp::Object(true).as<int>(), 1);
  EXPECT_EQ(mp::Object("x").as<std::string>(), "x");
  EXPECT_EQ(mp::Object("x").as<char>(), 'x');
  EXPECT_EQ(mp::Object(mp::List{1, 2}).as<std::vector<int>>(), (std::vector<int>{1, 2}));
  EXPECT_EQ(mp::Object(mp::Tuple{1, 2}).as<std::deque<long>>(), (std::deque<long>{1, 2}));
  EXPECT_EQ(mp::Object(mp::List{1, "a"}).as<Pair>(), (std::tuple{1, "a"s}));
}

TEST(Object, SaysWhatCannotBeConverted) {
  EXPECT_THROW(mp::Object("x").as<int>(), mp::TypeError);
  EXPECT_THROW(mp::Object(1).as<std::string>(), mp::TypeError);
  EXPECT_THROW(mp::Object(1).as<bool>(), mp::TypeError);
  EXPECT_THROW(mp::Object(mp::None).as<int>(), mp::TypeError);
  EXPECT_THROW(mp::Object(mp::Tuple{1}).as<mp::List>(), mp::TypeError);
  EXPECT_THROW(mp::Object(mp::Bytes("x")).as<std::string>(), mp::TypeError);
  EXPECT_THROW(mp::Object(mp::List{1, "x"}).as<std::vector<int>>(), mp::TypeError);
  EXPECT_THROW(mp::Object(2.5).as<int>(), mp::ValueError);
  EXPECT_THROW(mp::Object(300).as<signed char>(), mp::ValueError);
  EXPECT_THROW(mp::Object(-1).as<unsigned>(), mp::ValueError);
  EXPECT_THROW(mp::Object(1e300).as<long>(), mp::ValueError);
  EXPECT_THROW(mp::Object(kNan).as<long>(), mp::ValueError);
  EXPECT_THROW(mp::Object((std::int64_t{1} << 53) + 1).as<double>(), mp::ValueError);
  EXPECT_THROW(mp::Object(0.1).as<float>(), mp::ValueError);
  EXPECT_THROW((mp::Object(mp::List{1, 2, 3}).as<std::pair<int, int>>()), mp::ValueError);
  EXPECT_THROW((mp::Object(mp::List{1}).as<std::array<int, 2>>()), mp::ValueError);
}

TEST(Object, ConvertsContainersBothWays) {
  const std::map<std::string, std::vector<std::optional<double>>> map{{"a", {1.0, {}}}, {"b", {}}};
  EXPECT_EQ(mp::Object(map).as<std::decay_t<decltype(map)>>(), map);
  const std::set<std::pair<int, std::string>> set{{1, "a"}, {2, "b"}};
  EXPECT_EQ(mp::Object(set).as<std::decay_t<decltype(set)>>(), set);
  using Either = std::variant<std::string, double, int>;
  EXPECT_EQ(mp::Object(3).as<Either>(), Either(3));
  EXPECT_EQ(mp::Object(3.5).as<Either>(), Either(3.5));
  EXPECT_EQ((mp::Object(3).as<std::variant<std::string, double>>()),
            (std::variant<std::string, double>(3.0)));
  EXPECT_EQ(mp::Object(std::vector<std::byte>{std::byte{7}}).as<std::vector<std::byte>>().size(),
            1U);
}

TEST(Object, IsTellsThePythonType) {
  EXPECT_TRUE(mp::Object(1).is<int>());
  EXPECT_TRUE(mp::Object(1).is<long>());
  EXPECT_FALSE(mp::Object(1).is<double>());
  EXPECT_FALSE(mp::Object(1).is<bool>());
  EXPECT_FALSE(mp::Object(true).is<int>());
  EXPECT_FALSE(mp::Object("1").is<int>());
  EXPECT_TRUE(mp::Object(mp::None).is<mp::NoneType>());
  EXPECT_TRUE(mp::Object(mp::None).is<std::optional<int>>());
  EXPECT_TRUE(mp::Object(mp::List{1, 2}).is<std::vector<int>>());
  EXPECT_FALSE(mp::Object(mp::List{1, "x"}).is<std::vector<int>>());
  EXPECT_TRUE((mp::Object(mp::Dict{{"a", 1}}).is<std::map<std::string, int>>()));
  EXPECT_TRUE((mp::Object(mp::Tuple{1, "x"}).is<std::pair<int, std::string>>()));
  EXPECT_TRUE(mp::Object(mp::KeyError("k")).is<std::out_of_range>());
  EXPECT_FALSE(mp::Object(mp::KeyError("k")).is<mp::ValueError>());
}

TEST(Object, EqualityIsPythons) {
  EXPECT_EQ(mp::Object(1), 1.0);
  EXPECT_EQ(mp::Object(1), true);
  EXPECT_NE(mp::Object(1), "1");
  EXPECT_NE(mp::Object(kNan), kNan);
  EXPECT_NE(mp::Object((std::int64_t{1} << 53) + 1), 9007199254740992.0);
  EXPECT_NE(mp::Object(mp::List{1}), mp::Tuple{1});
  EXPECT_EQ(mp::Object(mp::Set{1, 2}), (mp::FrozenSet{2, 1}));
  EXPECT_EQ(mp::Object(mp::Bytes("a")), mp::ByteArray("a"));
  EXPECT_EQ(mp::Object(mp::Dict{{1, 2}, {3, 4}}), (mp::Dict{{3, 4}, {1.0, 2}}));
  EXPECT_EQ((mp::Tuple{1, mp::List{2.0}}), (mp::Tuple{true, mp::List{2}}));
  EXPECT_NE(mp::Object(mp::ValueError("x")), mp::ValueError("x"));
}

TEST(Object, OrderIsPythons) {
  EXPECT_LT(mp::Object(1), 1.5);
  EXPECT_LT(mp::Object("a"), "b");
  EXPECT_LT(mp::Object(mp::List{1, 2}), (mp::List{1, 2, 0}));
  EXPECT_LT(mp::Object(mp::Set{1}), (mp::Set{1, 2}));
  EXPECT_FALSE(mp::Object(kNan) < 1);
  EXPECT_THROW(static_cast<void>(mp::Object(1) < "a"), mp::TypeError);
  mp::List list{3, 1.5, 2};
  list.sort();
  EXPECT_EQ(list.repr(), "[1.5, 2, 3]");
}

TEST(Object, HashesWhatPythonHashes) {
  std::unordered_set<mp::Object> seen{1, "a", mp::Tuple{1, 2}};
  EXPECT_TRUE(seen.contains(1.0));
  EXPECT_TRUE(seen.contains(mp::Tuple{1, 2}));
  EXPECT_FALSE(seen.contains("b"));
  for (const mp::Object& unhashable :
       {mp::Object(mp::List{}), mp::Object(mp::Dict{}), mp::Object(mp::Set{}),
        mp::Object(mp::ByteArray{}), mp::Object(mp::Tuple{mp::List{}})}) {
    EXPECT_THROW(static_cast<void>(unhashable.hash()), mp::TypeError) << unhashable;
  }
  EXPECT_THROW((mp::Dict{{mp::List{}, 1}}), mp::TypeError);
}

TEST(Object, IsIndexedAsInPython) {
  const mp::Object value = mp::Dict{{"k", mp::List{1, 2, 3}}, {2, "é€x"}};
  EXPECT_EQ(value["k"][0], 1);
  EXPECT_EQ(value["k"][-1], 3);
  EXPECT_EQ(value["k"][(mp::Slice{1, mp::None})], (mp::List{2, 3}));
  EXPECT_EQ(value["k"][(mp::Slice{mp::None, mp::None, -1})], (mp::List{3, 2, 1}));
  EXPECT_EQ(value[2][1], "€");
  EXPECT_EQ(value[2].size(), 3U);
  EXPECT_EQ(value[2][(mp::Slice{-2, mp::None})], "€x");
  EXPECT_EQ(mp::Object(mp::Bytes("ab"))[1], 98);
  EXPECT_EQ(mp::Object(mp::Range(0, 10, 3))[-1], 9);
  EXPECT_EQ(mp::Object(mp::Range(0, 10))[(mp::Slice{2, 8, 3})], mp::Range(2, 8, 3));
  EXPECT_THROW(value["zz"], mp::KeyError);
  EXPECT_THROW(value["k"][3], mp::IndexError);
  EXPECT_THROW(value["k"]["x"], mp::TypeError);
  EXPECT_THROW(mp::Object(1)[0], mp::TypeError);
  EXPECT_THROW(static_cast<void>(mp::Object(1).size()), mp::TypeError);
}

TEST(Object, IsIteratedOverAsInPython) {
  std::string seen;
  for (const mp::Object& each : mp::Object(mp::Dict{{"a", 1}, {"b", 2}})) seen += each.repr();
  for (const mp::Object& each : mp::Object("x€")) seen += each.repr();
  for (const mp::Object& each : mp::Object(mp::Bytes("!"))) seen += each.repr();
  for (const mp::Object& each : mp::Object(mp::Range(2))) seen += each.repr();
  for (const mp::Object& each : mp::Object(mp::Set{5})) seen += each.repr();
  EXPECT_EQ(seen, "'a''b''x''€'33015");
  EXPECT_THROW(mp::Object(1).begin(), mp::TypeError);
  EXPECT_TRUE(mp::Object(mp::Range(3)).contains(2));
  EXPECT_TRUE(mp::Object("abc").contains("bc"));
}

TEST(Object, PrintsAsPythonPrints) {
  std::ostringstream out;
  out << mp::Object("text") << ' ' << mp::Object(mp::List{"text"}) << ' ' << mp::Object(1.0) << ' '
      << mp::Object(mp::ValueError("why")) << ' ' << mp::Object(mp::None);
  EXPECT_EQ(out.str(), "text ['text'] 1.0 why None");
  EXPECT_EQ(mp::Object(mp::ValueError("x")).type_name(), "ValueError");
  EXPECT_EQ(mp::Object(1).type_name(), "int");
  EXPECT_EQ(mp::Object(mp::None).type_name(), "NoneType");
}

TEST(List, HasPythonsMethods) {
  mp::List list{1, 2};
  list.append("x");
  list.extend(mp::Tuple{3, 4});
  list.extend(list);
  EXPECT_EQ(list.repr(), "[1, 2, 'x', 3, 4, 1, 2, 'x', 3, 4]");
  EXPECT_EQ(list.count(2), 2U);
  EXPECT_EQ(list.index("x"), 2U);
  list.remove("x");
  EXPECT_EQ(list.pop(), 4);
  EXPECT_EQ(list.pop(0), 1);
  list.insert(-100, "first");
  list.insert(100, "last");
  EXPECT_EQ(list.repr(), "['first', 2, 3, 4, 1, 2, 'x', 3, 'last']");
  list.reverse();
  EXPECT_EQ(list.slice(-3, 100).repr(), "[3, 2, 'first']");
  list[0] = list[-1];
  EXPECT_EQ(list[0], "first");
  EXPECT_THROW(static_cast<void>(list[9]), mp::IndexError);
  EXPECT_THROW(static_cast<void>(list.index("none")), mp::ValueError);
  EXPECT_THROW(mp::List{}.pop(), mp::IndexError);
}

TEST(Dict, HasPythonsMethods) {
  mp::Dict dict{{"a", 1}};
  dict["b"] = 2;
  dict["a"] = dict["b"];
  EXPECT_EQ(dict["a"].as<int>(), 2);
  EXPECT_TRUE(dict["a"] == 2);
  EXPECT_THROW(dict["zz"].as<int>(), mp::KeyError);
  EXPECT_FALSE(dict.contains("zz")) << "reading adds nothing";
  EXPECT_EQ(dict.get("zz", 3), 3);
  EXPECT_EQ(dict.setdefault("c", 4), 4);
  dict.update({{"d", 5}});
  EXPECT_EQ(dict.pop("a"), 2);
  dict.erase("b");
  EXPECT_THROW(dict.erase("b"), mp::KeyError);
  EXPECT_EQ(dict.repr(), "{'c': 4, 'd': 5}");
  EXPECT_EQ(dict.keys().repr(), "['c', 'd']");
  EXPECT_EQ(dict.values().repr(), "[4, 5]");
  for (const auto& [key, value] : dict.items()) EXPECT_EQ(dict.at(key), value);
  const mp::Dict copy = dict;
  dict.clear();
  EXPECT_EQ(copy.size(), 2U);
}

TEST(Set, HasPythonsMethods) {
  mp::Set set{1, 1.0, true, "a"};
  EXPECT_EQ(set.repr(), "{1, 'a'}");
  set.add(mp::Tuple{1});
  EXPECT_TRUE(set.contains(mp::Tuple{1}));
  EXPECT_TRUE(set.discard(1));
  EXPECT_FALSE(set.discard(1));
  EXPECT_THROW(set.add(mp::List{}), mp::TypeError);
}

TEST(Object, CopiesAreValues) {
  mp::List inner{1};
  mp::Object outer = mp::List{mp::Object(inner)};
  inner.append(2);
  EXPECT_EQ(repr(outer), "[[1]]");
  mp::Dict dict{{"k", inner}};
  mp::Object before = dict;
  dict["k"] = 0;
  EXPECT_EQ(repr(before), "{'k': [1, 2]}");
  mp::List taken = std::move(inner);
  inner.append("alive");  // what has been moved from is empty
  EXPECT_EQ(inner.repr(), "['alive']");
}

TEST(Object, HoldsExceptions) {
  const mp::Object value = mp::KeyError("k");
  EXPECT_EQ(value.as<mp::KeyError>().what(), "k"s);
  EXPECT_THROW(std::rethrow_exception(value.as<std::exception_ptr>()), mp::KeyError);
  EXPECT_THROW(value.as<mp::ValueError>(), mp::TypeError);
  EXPECT_EQ(repr(std::runtime_error("x")), "RuntimeError('x')");
}

TEST(Object, HoldsHandles) {
  mp::shared_array<int> array(3);
  array[1] = 7;
  const mp::Object value = array;
  EXPECT_EQ(value.type_name(), "shared_array");
  const auto back = value.as<mp::shared_array<int>>();
  EXPECT_EQ(back, array);
  EXPECT_EQ(back[1], 7);
  EXPECT_EQ(value, mp::Object(back));
  EXPECT_TRUE(value.is<mp::shared_array<int>>());
  EXPECT_FALSE(value.is<mp::shared_array<double>>());
  EXPECT_THROW(value.as<mp::shared_array<double>>(), mp::TypeError);
}

TEST(Object, ALockInsideIsTheSameLock) {
  const mp::Lock lock;
  const mp::Object value = mp::Dict{{"lock", lock}};
  const auto back = value["lock"].as<mp::Lock>();
  EXPECT_EQ(back, lock);
  EXPECT_EQ(value["lock"].type_name(), "Lock");
  EXPECT_EQ(value["lock"].repr(), lock.repr());
  EXPECT_THROW(value["lock"].as<mp::RLock>(), mp::TypeError);
  EXPECT_THROW(value.as<mp::Lock>(), mp::TypeError);
  const std::scoped_lock held(back);
  EXPECT_FALSE(lock.try_acquire());
}

struct Aggregate {
  mp::Object any;
  mp::List list;
  std::string text;
};

mp::Object describe(const mp::Object& value) {
  return mp::Dict{{"type", value.type_name()}, {"value", value}};
}
mp::List doubled(mp::List list) {
  list.extend(list);
  return list;
}
std::string shown(const Aggregate& value) { return value.any.repr() + value.list.repr(); }
bool acquires(const mp::Object& value) { return value["lock"].as<mp::Lock>().try_acquire(); }
int second(const mp::Object& value) { return value["array"].as<mp::shared_array<int>>()[1]; }
mp::Object failing(int) { throw mp::KeyError("k"); }

TEST(Object, IsAnArgumentAndAResult) {
  static_assert(mp::Serializable<mp::Object> && mp::Serializable<mp::List>);
  static_assert(mp::Serializable<Aggregate> && mp::Serializable<std::map<int, mp::Object>>);
  mp::Pool pool(1);
  EXPECT_EQ(pool.apply(describe, mp::List{1, "x"})["value"], (mp::List{1, "x"}));
  EXPECT_EQ(pool.apply(describe, 2.5)["type"], "float");
  EXPECT_EQ(pool.apply(doubled, mp::List{1, "x"}).repr(), "[1, 'x', 1, 'x']");
  EXPECT_EQ(pool.apply(shown, Aggregate{1, {2}, "t"}), "1[2]");
  EXPECT_EQ(pool.map(describe, std::vector<mp::Object>{1, "a"})[1]["type"], "str");
  EXPECT_EQ(pool.apply(mp::partial(describe, mp::Object(mp::Tuple{}))), describe(mp::Tuple{}));
  mp::shared_array<int> array(3);
  array[1] = 7;
  EXPECT_EQ(pool.apply(second, mp::Dict{{"array", array}}), 7);
  EXPECT_THROW(pool.apply(failing, 1), mp::KeyError);
  const mp::Lock lock;
  const std::scoped_lock held(lock);
  EXPECT_FALSE(pool.apply(acquires, mp::Dict{{"lock", lock}}));
}

}  // namespace
