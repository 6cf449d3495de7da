#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/cereal.hpp>
#include <millrace/errors.hpp>
#include <string>
#include <thread>
#include <vector>

namespace shapes {

struct Shape {
  virtual ~Shape() = default;
  [[nodiscard]] virtual double area() const = 0;
  std::string name;
  template <class Archive>
  void serialize(Archive& archive) {
    archive(CEREAL_NVP(name));
  }
};
struct Square : Shape {
  double side = 0;
  [[nodiscard]] double area() const override { return side * side; }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(cereal::base_class<Shape>(this), CEREAL_NVP(side));
  }
};
struct Circle : Shape {
  double radius = 0;
  [[nodiscard]] double area() const override { return 3 * radius * radius; }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(cereal::base_class<Shape>(this), radius);
  }
};
struct Unregistered : Square {
  template <class Archive>
  void serialize(Archive& archive) {
    archive(cereal::base_class<Square>(this));
  }
};

}  // namespace shapes

CEREAL_REGISTER_TYPE(shapes::Square)
CEREAL_REGISTER_TYPE(shapes::Circle)

namespace millrace {
namespace {

struct Point {
  double x, y;
};

class Secretive {
 public:
  Secretive() = default;
  explicit Secretive(std::string text) : text_(std::move(text)) {}
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  friend class cereal::access;
  template <class Archive>
  void serialize(Archive& archive) {
    archive(text_);
  }
  std::string text_;
};
class Versioned {
 public:
  [[nodiscard]] int version() const { return version_; }
  template <class Archive>
  void serialize(Archive& archive, const std::uint32_t version) {
    version_ = static_cast<int>(version);
    archive(text_);
  }

 private:
  std::string text_;
  int version_ = -1;
};
// Called with our own archive; what is inside comes back to us.
struct Mixed {
  std::shared_ptr<std::string> first, second;
  int numbers[3] = {};
  Point point{};
  template <class Archive>
  void serialize(Archive& archive) {
    archive(first, cereal::make_nvp("second", second), point);
    archive(cereal::binary_data(numbers, sizeof numbers));
  }
};
struct Node {
  Point where{};
  std::vector<std::shared_ptr<Node>> neighbours;
  template <class Archive>
  void serialize(Archive& archive) {
    archive(where, neighbours);
  }
};

}  // namespace
}  // namespace millrace

CEREAL_CLASS_VERSION(millrace::Versioned, 3)

namespace millrace {
namespace {

template <class T>
T round_trip(const T& value) {
  wire::Writer out;
  wire::encode(out, value);
  wire::Reader in(out.data(), out.size());
  T back = wire::decode<T>(in);
  EXPECT_EQ(in.remaining(), 0U);
  return back;
}

static_assert(Serializable<std::shared_ptr<int>> && Serializable<std::unique_ptr<shapes::Shape>>);
static_assert(Serializable<Secretive> && Serializable<Versioned> && Serializable<shapes::Square>);
static_assert(!Serializable<std::thread> && !Serializable<int*> && !Serializable<shapes::Shape>);

TEST(Cereal, SharedPointersStaySharedWithinAValue) {
  const auto shared = std::make_shared<int>(3);
  const auto back = round_trip(std::vector<std::shared_ptr<int>>{shared, shared, nullptr});
  EXPECT_EQ(*back.at(0), 3);
  EXPECT_EQ(back.at(0), back.at(1));
  EXPECT_EQ(back.at(2), nullptr);
}

TEST(Cereal, ConsecutiveValuesOfAMessageAreIndependent) {
  const auto shared = std::make_shared<int>(3);
  wire::Writer out;
  wire::encode(out, shared);
  const std::size_t first = out.size();
  wire::encode(out, shared);
  wire::Reader in(out.data() + first, out.size() - first);
  EXPECT_EQ(*wire::decode<std::shared_ptr<int>>(in), 3);
}

TEST(Cereal, PolymorphicPointersKeepTheirType) {
  std::vector<std::unique_ptr<shapes::Shape>> shapes;
  auto square = std::make_unique<shapes::Square>();
  square->name = "square";
  square->side = 2;
  auto circle = std::make_unique<shapes::Circle>();
  circle->radius = 1;
  shapes.push_back(std::move(square));
  shapes.push_back(std::move(circle));
  wire::Writer out;
  wire::encode(out, shapes);
  wire::Reader in(out.data(), out.size());
  const auto back = wire::decode<std::vector<std::unique_ptr<shapes::Shape>>>(in);
  EXPECT_EQ(back.at(0)->name, "square");
  EXPECT_EQ(back.at(0)->area(), 4);
  EXPECT_EQ(back.at(1)->area(), 3);
}

TEST(Cereal, AnUnregisteredTypeThrowsAndLeavesNothing) {
  wire::Writer out;
  const std::unique_ptr<shapes::Shape> shape = std::make_unique<shapes::Unregistered>();
  EXPECT_THROW(wire::encode(out, shape), std::exception);
  EXPECT_EQ(out.size(), 0U);
}

TEST(Cereal, NamedValuesAndBasesWorkInOurOwnArchive) {
  shapes::Square square;
  square.name = "s";
  square.side = 3;
  const auto back = round_trip(square);
  EXPECT_EQ(back.name, "s");
  EXPECT_EQ(back.side, 3);
}

TEST(Cereal, PrivateAndVersionedFunctionsAreFound) {
  EXPECT_EQ(round_trip(Secretive("hidden")).text(), "hidden");
  EXPECT_EQ(round_trip(std::map<int, Secretive>{{1, Secretive("a")}}).at(1).text(), "a");
  EXPECT_EQ(round_trip(Versioned{}).version(), 3);
}

TEST(Cereal, BothArchivesMixInOneValue) {
  Mixed mixed;
  mixed.first = mixed.second = std::make_shared<std::string>("shared");
  mixed.numbers[2] = 7;
  mixed.point = {1, 2};
  const Mixed back = round_trip(mixed);
  EXPECT_EQ(*back.first, "shared");
  EXPECT_EQ(back.first, back.second);
  EXPECT_EQ(back.numbers[2], 7);
  EXPECT_EQ(back.point.y, 2);
}

TEST(Cereal, GraphsWithCyclesComeBack) {
  const auto a = std::make_shared<Node>();
  const auto b = std::make_shared<Node>();
  a->where = {1, 2};
  a->neighbours = {b, a};
  b->neighbours = {a};
  const auto back = round_trip(a);
  EXPECT_EQ(back->where.y, 2);
  EXPECT_EQ(back->neighbours.at(1), back);
  EXPECT_EQ(back->neighbours.at(0)->neighbours.at(0), back);
  for (const auto& node : {a, b, back, back->neighbours.at(0)}) node->neighbours.clear();
}

TEST(Cereal, CallablesMayBindWhatCerealCarries) {
  const auto f =
      partial([](const std::shared_ptr<int>& p) { return *p; }, std::make_shared<int>(4));
  const wire::Parcel parcel(f);
  wire::Writer out;
  parcel.write(out);
  wire::Reader in(out.data(), out.size());
  EXPECT_EQ(wire::unpack<std::remove_const_t<decltype(f)>>(in)(), 4);
}

TEST(Cereal, TruncationIsNoticed) {
  wire::Writer out;
  wire::encode(out, std::make_shared<std::string>("text"));
  wire::Reader in(out.data(), out.size() - 1);
  EXPECT_THROW(wire::decode<std::shared_ptr<std::string>>(in), Corrupt);
}

}  // namespace
}  // namespace millrace
