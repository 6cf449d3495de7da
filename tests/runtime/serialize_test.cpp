#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/serialize.hpp>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

namespace millrace {
namespace {

using namespace std::chrono_literals;

struct Point {
  double x, y;
  friend bool operator==(const Point&, const Point&) = default;
};
struct Rich {
  std::string name;
  std::vector<double> values;
  friend bool operator==(const Rich&, const Rich&) = default;
};
struct Sixteen {
  std::string a, b, c, d, e, f, g, h;
  int i, j, k, l, m, n, o, p;
  friend bool operator==(const Sixteen&, const Sixteen&) = default;
};
struct WithArrays {
  std::string name;
  int counts[3];
  std::string words[2];
  char text[8];
  Point point;
};
struct Constant {
  const std::string name;
  const int number;
};
struct NoDefault {
  explicit NoDefault(int number) : kept(number) {}
  int kept;
};
struct HoldsNoDefault {
  std::string name;
  NoDefault inner;
};
struct Tree {
  std::string name;
  std::vector<Tree> children;
  std::unique_ptr<Tree> next;
};

class MemberSerialized {
 public:
  MemberSerialized() = default;
  explicit MemberSerialized(std::string text) : text_(std::move(text)) {}
  template <class Archive>
  void serialize(Archive& archive) {
    archive(text_, number_);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
  int number_ = 7;
};
struct SaveLoad {
  int value = 0;
  template <class Archive>
  void save(Archive& archive) const {
    static_assert(Archive::is_saving::value && !Archive::is_loading::value);
    archive << value + 1;
  }
  template <class Archive>
  void load(Archive& archive) {
    static_assert(Archive::is_loading::value && !Archive::is_saving::value);
    archive >> value;
  }
};
struct FreelySerialized {
  std::vector<int> values;
};
template <class Archive>
void serialize(Archive& archive, FreelySerialized& value) {
  archive& value.values;
}
struct FreeSaveLoad {
  std::string text;
};
template <class Archive>
void save(Archive& archive, const FreeSaveLoad& value) {
  archive(value.text + "!");
}
template <class Archive>
void load(Archive& archive, FreeSaveLoad& value) {
  archive(value.text);
}
// Trivially copyable, but says how it wants to travel.
struct Preferring {
  int value = 0;
  template <class Archive>
  void serialize(Archive& archive) {
    if constexpr (Archive::is_saving::value) {
      int negated = -value;
      archive(negated);
    } else {
      archive(value);
    }
  }
};

template <class T>
T round_trip(const T& value) {
  wire::Writer out;
  wire::encode(out, value);
  EXPECT_GT(out.size(), 0U);
  wire::Reader in(out.data(), out.size());
  T back = wire::decode<T>(in);
  EXPECT_EQ(in.remaining(), 0U);
  return back;
}

template <class T>
void expect_same(const T& value) {
  EXPECT_EQ(round_trip(value), value);
}

int twice(int x) { return 2 * x; }

// What travels and what does not, as the contract lists it.
static_assert(Serializable<Rich> && Serializable<Sixteen> && Serializable<WithArrays>);
static_assert(Serializable<MemberSerialized> && Serializable<SaveLoad> &&
              Serializable<FreelySerialized> && Serializable<FreeSaveLoad>);
static_assert(Serializable<std::map<std::string, std::vector<Point>>>);
static_assert(Serializable<std::span<int>> && Serializable<decltype(&twice)>);
static_assert(Serializable<Tree> && Serializable<std::monostate> && Serializable<std::tuple<>>);

static_assert(!Serializable<int*> && !Serializable<const char*> && !Serializable<void*>);
static_assert(!Serializable<std::vector<char*>> && !Serializable<std::pair<int*, int>>);
static_assert(!Serializable<std::array<int*, 2>> && !Serializable<std::optional<int*>>);
static_assert(!Serializable<std::variant<int, int*>> && !Serializable<std::map<int, int*>>);
static_assert(!Serializable<std::tuple<int&>> && !Serializable<int&>);
static_assert(!Serializable<std::string_view> && !Serializable<std::reference_wrapper<int>>);
static_assert(!Serializable<std::thread> && !Serializable<std::mutex>);
static_assert(!Serializable<std::atomic<int>> && !Serializable<std::shared_ptr<int>>);
static_assert(!Serializable<std::function<void()>> && !Serializable<std::vector<std::thread>>);
struct Virtual {
  virtual ~Virtual() = default;
  std::string text;
};
struct Derived : Rich {
  int more;
};
class Private {
  std::string text_;
};
struct Seventeen {
  std::string a;
  int b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q;
};
struct HoldsThread {
  int number;
  std::thread thread;
};
struct Closer {
  void operator()(FILE* file) const { std::fclose(file); }
};
static_assert(!Serializable<Virtual> && !Serializable<Derived> && !Serializable<Private>);
static_assert(!Serializable<Seventeen> && !Serializable<HoldsThread> && !Serializable<NoDefault*>);
static_assert(!Serializable<std::unique_ptr<Virtual>> && !Serializable<std::unique_ptr<int[]>>);
static_assert(!Serializable<std::unique_ptr<FILE, Closer>>);

// A class that has a reference member and no assignment is not taken for plain bytes.
class HoldsReference {
 public:
  explicit HoldsReference(int& value) : value_(value) {}
  [[nodiscard]] int get() const { return value_; }

 private:
  int& value_;
};
static_assert(!Serializable<HoldsReference>);

static_assert(std::is_same_v<wire::travel_t<const char (&)[4]>, std::string>);
static_assert(std::is_same_v<wire::travel_t<const std::string_view&>, std::string>);
static_assert(std::is_same_v<wire::travel_t<char*>, std::string>);
static_assert(
    std::is_same_v<wire::travel_t<std::pair<const char*, int>>, std::pair<std::string, int>>);

static_assert(wire::type_name<int>() == "int" && wire::type_name<Rich>().ends_with("Rich"));

TEST(Serialize, PlainValuesKeepTheirBytes) {
  expect_same(42);
  expect_same('x');
  expect_same(true);
  expect_same(std::numeric_limits<long double>::max());
  expect_same(Point{1.5, -2});
  expect_same(std::complex<double>(1, 2));
  expect_same(std::bitset<70>(12345));
  expect_same(1500ms);
  expect_same(std::chrono::system_clock::now());
  expect_same(std::monostate{});
  expect_same(nullptr);
  expect_same(&Point::y);
}

TEST(Serialize, TextMayHoldAnyCharacter) {
  expect_same(std::string());
  expect_same(std::string("a\0b", 3));
  expect_same(std::string(100000, 'x'));
  expect_same(std::u16string(u"wide"));
  expect_same(std::filesystem::path("/some/where.txt"));
}

TEST(Serialize, SequencesKeepTheirOrder) {
  expect_same(std::vector<int>{});
  expect_same(std::vector<double>{1, 2, 3});
  expect_same(std::vector<bool>{true, false, true});
  expect_same(std::vector<std::string>{"a", "", "ccc"});
  expect_same(std::deque<int>{1, 2, 3});
  expect_same(std::list<std::string>{"a", "b"});
  expect_same(std::vector<std::vector<int>>{{1}, {}, {2, 3}});
  expect_same(std::vector<std::pair<int, double>>{{1, 2.5}, {3, 4.5}});
  expect_same(std::array<std::string, 2>{"a", "b"});
  expect_same(std::array<int, 0>{});
  expect_same(std::array<std::pair<char, int>, 3>{{{'a', 1}, {'b', 2}, {'c', 3}}});
}

TEST(Serialize, AssociativeContainersComeBackEqual) {
  expect_same(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
  expect_same(std::multimap<int, std::string>{{1, "a"}, {1, "b"}});
  expect_same(std::set<std::string>{"x", "y"});
  expect_same(std::multiset<int>{1, 1, 2});
  expect_same(std::unordered_map<std::string, Point>{{"p", {1, 2}}});
  expect_same(std::unordered_multimap<int, int>{{1, 1}, {1, 2}});
  expect_same(std::unordered_set<int>{5, 6});
  expect_same(std::unordered_multiset<int>{5, 5});
}

TEST(Serialize, SumsAndProductsNest) {
  expect_same(std::pair<int, std::string>{1, "a"});
  expect_same(std::tuple<>{});
  expect_same(std::tuple<int, std::string, std::optional<int>>{1, "a", std::nullopt});
  expect_same(std::optional<std::string>{"a"});
  expect_same(std::optional<std::optional<int>>{std::optional<int>{}});
  expect_same(std::variant<int, std::string, Rich>{Rich{"r", {1}}});
  expect_same(std::variant<int, int>{std::in_place_index<1>, 5});
  expect_same(std::vector<std::variant<std::monostate, int>>{{}, 1});
}

TEST(Serialize, AggregatesGoFieldByField) {
  expect_same(Rich{"name", {1, 2}});
  expect_same(Sixteen{"a", "b", "c", "d", "e", "f", "g", "h", 1, 2, 3, 4, 5, 6, 7, 8});
  const Constant constant = round_trip(Constant{"fixed", 3});
  EXPECT_EQ(constant.name, "fixed");
  EXPECT_EQ(constant.number, 3);
  const HoldsNoDefault back = round_trip(HoldsNoDefault{"n", NoDefault(1)});
  EXPECT_EQ(back.name, "n");
  EXPECT_EQ(back.inner.kept, 1);
}

TEST(Serialize, AggregatesMayHoldArrays) {
  const WithArrays value{"n", {1, 2, 3}, {"x", "y"}, "text", {4, 5}};
  const WithArrays back = round_trip(value);
  EXPECT_EQ(back.name, "n");
  EXPECT_EQ(std::vector<int>(back.counts, back.counts + 3), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(back.words[1], "y");
  EXPECT_STREQ(back.text, "text");
  EXPECT_EQ(back.point, (Point{4, 5}));
}

TEST(Serialize, UniquePointersCarryWhatTheyOwn) {
  EXPECT_EQ(*round_trip(std::make_unique<int>(3)), 3);
  EXPECT_EQ(round_trip(std::unique_ptr<int>{}), nullptr);
  EXPECT_EQ(round_trip(std::make_unique<Rich>(Rich{"a", {}}))->name, "a");
}

TEST(Serialize, TypesMayContainThemselves) {
  Tree tree{"root", {}, nullptr};
  tree.children.push_back({"leaf", {}, nullptr});
  tree.next = std::make_unique<Tree>(Tree{"next", {}, nullptr});
  const Tree back = round_trip(tree);
  EXPECT_EQ(back.children.at(0).name, "leaf");
  EXPECT_EQ(back.next->name, "next");
}

TEST(Serialize, TooDeepANestingIsAnErrorInsteadOfAStackOverflow) {
  auto first = std::make_unique<Tree>();
  Tree* last = first.get();
  for (int i = 0; i < 2 * wire::kMaxDepth; ++i) {
    last->next = std::make_unique<Tree>();
    last = last->next.get();
  }
  wire::Writer out;
  EXPECT_THROW(wire::encode(out, *first), ValueError);
  EXPECT_EQ(out.size(), 0U);
  while (first) first = std::move(first->next);
}

TEST(Serialize, OwnSerialisationIsPreferred) {
  EXPECT_EQ(round_trip(MemberSerialized("text")).text(), "text");
  EXPECT_EQ(round_trip(SaveLoad{5}).value, 6);
  EXPECT_EQ(round_trip(FreelySerialized{{1, 2}}).values, (std::vector<int>{1, 2}));
  EXPECT_EQ(round_trip(FreeSaveLoad{"a"}).text, "a!");
  EXPECT_EQ(round_trip(Preferring{3}).value, -3);
  EXPECT_EQ(round_trip(std::vector<Preferring>{{1}, {2}}).at(1).value, -2);
}

TEST(Serialize, FunctionPointersOfTheProgramCallTheSameFunction) {
  EXPECT_EQ(round_trip(&twice)(4), 8);
  EXPECT_EQ(round_trip(static_cast<int (*)(int)>(nullptr)), nullptr);
}

TEST(Serialize, ArgumentsTravelDecayed) {
  wire::Writer out;
  wire::encode_argument(out, "literal");
  wire::encode_argument(out, std::string_view("view"));
  wire::encode_argument(out, 5);
  wire::Reader in(out.data(), out.size());
  EXPECT_EQ(wire::decode<std::string>(in), "literal");
  EXPECT_EQ(wire::decode<std::string>(in), "view");
  EXPECT_EQ(wire::decode<int>(in), 5);
}

}  // namespace
}  // namespace millrace
