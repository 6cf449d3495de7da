// ShareableList (H08-H16).
// CPython: _TestSharedMemory.test_shared_memory_ShareableList_basics; more: ported_shared_test.cpp.
#include <cstring>
#include <limits>
#include <millrace/millrace.hpp>
#include <sstream>

#include "tests/api/shared_memory_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

class ShareableListTest : public NamedMemory {
 protected:
  static std::string text_of(const mp::ShareableList& list) {
    const auto bytes = list.shm().buf();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
};

TEST_F(ShareableListTest, ItemsAreReadAsTheyWereGivenH08H09H11) {
  const mp::ShareableList list(
      {-7, 2.5, true, "text", mp::Bytes("b\x01"), mp::None, "", false, "h\xc3\xa9llo"});
  EXPECT_EQ(list.size(), 9U);
  EXPECT_TRUE(list[0] == -7 && list[0].is<int>());
  EXPECT_EQ(list[1].as<double>(), 2.5);
  EXPECT_TRUE(list[2].is<bool>() && list[2].as<bool>() && !list[7].as<bool>());
  EXPECT_TRUE(list[3] == "text" && list[4] == mp::Bytes("b\x01") && list[5].is_none());
  EXPECT_TRUE(list[6] == "" && list[-1] == "h\xc3\xa9llo");
  EXPECT_THROW((void)list[9], mp::IndexError);
  EXPECT_THROW((void)list[-10], mp::IndexError);
  list.shm().unlink();
}

TEST_F(ShareableListTest, OtherTypesAreRefusedH08) {
  EXPECT_THROW(mp::ShareableList({mp::List{1}}), mp::TypeError);
  EXPECT_THROW(mp::ShareableList(std::vector<std::pair<int, int>>{{1, 2}}), mp::TypeError);
  EXPECT_THROW(mp::ShareableList({std::string(10'000'000, 'x')}), mp::ValueError);
}

TEST_F(ShareableListTest, AnItemsTypeMayChangeWithinItsRoomH10) {
  const mp::ShareableList list({1, "0123456789"});
  list[0] = 2.5;
  EXPECT_EQ(list[0].as<double>(), 2.5);
  list[0] = "12345678";
  EXPECT_TRUE(list[0] == "12345678");
  EXPECT_THROW(list[0] = "123456789", mp::ValueError);
  list[1] = mp::None;
  EXPECT_TRUE(list[1].is_none());
  list[1] = mp::Bytes(std::string(16, 'y'));
  EXPECT_TRUE(list[1] == mp::Bytes(std::string(16, 'y')));
  EXPECT_THROW(list[1] = std::string(17, 'y'), mp::ValueError);
  EXPECT_THROW(list[0] = list[1], mp::ValueError);
  list[1] = list[0];
  EXPECT_TRUE(list[1] == "12345678");
  list.shm().unlink();
}

TEST_F(ShareableListTest, CountIndexFormatAndReprH12H13H14H15) {
  const mp::ShareableList list({"a", "b", 1, 2.5, mp::None, true, mp::None});
  EXPECT_EQ(list.count(1), 2U);  // True == 1
  EXPECT_EQ(list.count(mp::None), 2U);
  EXPECT_EQ(list.index("b"), 1U);
  EXPECT_THROW((void)list.index("c"), mp::ValueError);
  EXPECT_EQ(list.format(), "8s8sqdxxxxxx?xxxxxxxx?xxxxxx?x");
  std::ostringstream shown;
  shown << list;
  EXPECT_EQ(shown.str(), "ShareableList(['a', 'b', 1, 2.5, None, True, None], name='" +
                             list.shm().name() + "')");
  list.shm().unlink();
}

TEST_F(ShareableListTest, NulsAtTheEndStayH10) {
  using namespace std::string_literals;
  const mp::ShareableList list({"a\0\0"s, mp::Bytes("\0"s), "plain", 7});
  const auto other = mp::ShareableList::attach(list.shm().name());
  EXPECT_TRUE(other[0] == "a\0\0"s && other[1] == mp::Bytes("\0"s) && other[2] == "plain");
  list[2] = "\0\0\0"s;
  list[3] = mp::Bytes("\0\0\0\0\0\0\0\0"s);
  EXPECT_TRUE(other[2] == "\0\0\0"s && other[3] == mp::Bytes("\0\0\0\0\0\0\0\0"s));
  list[2] = "x";
  EXPECT_TRUE(other[2] == "x");
  list.shm().unlink();
}

TEST_F(ShareableListTest, ListsAreNamedAttachedAndSentH08) {
  const std::string name = own_name("list");
  const mp::ShareableList list({1, 2}, {.name = name});
  EXPECT_EQ(error_of([&] { mp::ShareableList({1}, {.name = name}); }, name), EEXIST);
  const std::string none = own_name("none");
  EXPECT_EQ(error_of([&] { (void)mp::ShareableList::attach(none); }, none), ENOENT);
  mp::Pool pool(1);
  EXPECT_EQ(pool.apply(
                [](const mp::ShareableList& l) {
                  l[0] = 10;
                  return l[1].as<int>();
                },
                list),
            2);
  EXPECT_EQ(pool.apply([list] { return list[0].as<int>(); }), 10);
  list.shm().unlink();
  const mp::ShareableList empty({});
  EXPECT_EQ(empty.size(), 0U);
  empty.shm().unlink();
}

TEST_F(ShareableListTest, WhatIsNoListIsCorruptH08) {
  const mp::SharedMemory memory({.create = true, .size = 64});
  memory.buf<std::uint64_t>()[0] = 1000;
  EXPECT_THROW((void)mp::ShareableList::attach(memory.name()), mp::Corrupt);
  memory.buf<std::uint64_t>()[0] = 1;
  memory.buf<std::uint64_t>()[2] = ~std::uint64_t{7};
  EXPECT_THROW((void)mp::ShareableList::attach(memory.name()), mp::Corrupt);
  memory.unlink();
}

// CPython's own bytes for the same items are the first bytes of ours.
TEST_F(ShareableListTest, TheBytesAreCPythonsH16) {
  const mp::ShareableList list({-5, 1.5, true, mp::None, "abcdefgh", mp::Bytes("xy"), "",
                                "\xc3\xa9", std::numeric_limits<std::int64_t>::min()});
  const Outcome dumped = python(
      "from multiprocessing import shared_memory\n"
      "import sys\n"
      "l = shared_memory.ShareableList([-5, 1.5, True, None, 'abcdefgh', b'xy', '', '\\xe9', "
      "-2**63])\n"
      "sys.stdout.buffer.write(bytes(l.shm.buf)); sys.stdout.flush()\n"
      "l.shm.close(); l.shm.unlink()\n");
  ASSERT_GT(dumped.out.size(), 100U) << dumped.err;
  EXPECT_EQ(text_of(list).substr(0, dumped.out.size()), dumped.out);
  list.shm().unlink();
}

TEST_F(ShareableListTest, CPythonReadsAndWritesOursH16) {
  using namespace std::string_literals;
  const mp::ShareableList list({-5, 1.5, true, mp::None, "h\xc3\xa9\xe2\x82\xac", mp::Bytes("b\0"s),
                                "n\0\0"s, std::string(20, 'z')});
  const Outcome read = python(
      "from multiprocessing import shared_memory, resource_tracker\n"
      "l = shared_memory.ShareableList(name='" +
      list.shm().name() +
      "')\n"
      "resource_tracker.unregister(l.shm._name, 'shared_memory')\n"
      "print(ascii(list(l)), l.format)\n"
      "l[0] = 'new'; l[4] = None; l[6] = 'm'; l[7] = b'bytes'\n"
      "l.shm.close()\n");
  EXPECT_EQ(read.out,
            "[-5, 1.5, True, None, 'h\\xe9\\u20ac', b'b', 'n', 'zzzzzzzzzzzzzzzzzzzz'] "
            "qdxxxxxxx?xxxxxx?x8s8s8s24s\n")
      << read.err;
  EXPECT_TRUE(list[0] == "new" && list[4].is_none() && list[6] == "m");
  EXPECT_TRUE(list[7] == mp::Bytes("bytes") && list[5] == mp::Bytes("b\0"s));
  list.shm().unlink();
}

TEST_F(ShareableListTest, ReprQuotesTheNameAsPythonH15) {
  const std::string name = own_name("o'hara");
  const mp::ShareableList list({1}, {.name = name});
  list.shm().unlink();
  EXPECT_EQ(list.repr(), "ShareableList([1], name=\"" + name + "\")");
}

TEST_F(ShareableListTest, WeReadAndWriteCPythonsH16) {
  const std::string name = own_name("pylist");
  const Outcome made = python(
      "from multiprocessing import shared_memory, resource_tracker\n"
      "l = shared_memory.ShareableList([-5, 1.5, True, None, 'h\\xe9', b'b', '', 7], name='" +
      name +
      "')\n"
      "resource_tracker.unregister(l.shm._name, 'shared_memory')\n");
  EXPECT_EQ(made.exitcode, 0) << made.err;
  const auto list = mp::ShareableList::attach(name);
  EXPECT_EQ(list.repr(),
            "ShareableList([-5, 1.5, True, None, 'h\xc3\xa9', b'b', '', 7], name='" + name + "')");
  list[7] = "seven";
  list[4] = -8;
  const Outcome read = python(
      "from multiprocessing import shared_memory, resource_tracker\n"
      "l = shared_memory.ShareableList(name='" +
      name +
      "')\n"
      "resource_tracker.unregister(l.shm._name, 'shared_memory')\n"
      "print(l[7], l[4])\n");
  EXPECT_EQ(read.out, "seven -8\n") << read.err;
  list.shm().unlink();
}

}  // namespace
}  // namespace millrace::test
