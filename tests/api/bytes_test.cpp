// mp::Bytes. CPython: bytes, as its documentation describes it.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <millrace/bytes.hpp>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace mp = millrace;

namespace {

TEST(Bytes, TakesTextWithoutTheLiteralsNul) {
  EXPECT_EQ(mp::Bytes("abc").size(), 3U);
  EXPECT_EQ(mp::Bytes(std::string("a\0b", 3)).size(), 3U);
  EXPECT_EQ(mp::Bytes(std::string_view("ab")).view(), "ab");
  EXPECT_TRUE(mp::Bytes().empty());
}

TEST(Bytes, TakesTheBytesOfContiguousRanges) {
  const std::vector<int> ints{1, 2, 3};
  EXPECT_EQ(mp::Bytes(ints).size(), 3 * sizeof(int));
  EXPECT_EQ(mp::Bytes(std::span(ints)), mp::Bytes(ints));
  EXPECT_EQ(mp::Bytes(std::array<double, 2>{}).size(), 2 * sizeof(double));
  const short raw[4] = {};
  EXPECT_EQ(mp::Bytes(raw).size(), sizeof raw);
  static_assert(!std::is_constructible_v<mp::Bytes, std::vector<std::string>>);
  static_assert(!std::is_constructible_v<mp::Bytes, std::vector<int*>>);
  static_assert(!std::is_constructible_v<mp::Bytes, std::map<int, int>>);
  static_assert(!std::is_convertible_v<mp::Bytes, std::string>);
}

TEST(Bytes, AreOrderedAsUnsignedBytes) {
  EXPECT_LT(mp::Bytes("a"), mp::Bytes("b"));
  EXPECT_LT(mp::Bytes("a"), mp::Bytes("ab"));
  EXPECT_LT(mp::Bytes("a"), mp::Bytes("\xff"));
  EXPECT_EQ(mp::Bytes("same"), "same");
}

TEST(Bytes, ReprIsPythons) {
  EXPECT_EQ(mp::Bytes("it's").repr(), "b\"it's\"");
  EXPECT_EQ(mp::Bytes("both ' and \"").repr(), "b'both \\' and \"'");
  EXPECT_EQ(mp::Bytes(std::string("\0\n\x7f\\", 4)).repr(), "b'\\x00\\n\\x7f\\\\'");
  std::ostringstream out;
  out << mp::Bytes("x");
  EXPECT_EQ(out.str(), "b'x'");
}

}  // namespace
