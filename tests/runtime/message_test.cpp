#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/serialize.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace millrace {
namespace {

struct Point {
  double x, y;
  friend bool operator==(const Point&, const Point&) = default;
};
struct Rich {
  std::string name;
  std::vector<double> values;
};

// A handle as the library's own: one pointer, references counted.
struct Counted {
  int references = 1;
};
class Handle {
 public:
  Handle() : shared_(new Counted) {}
  Handle(const Handle& other) : shared_(other.shared_) { ++shared_->references; }
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (--shared_->references == 0) delete shared_;
  }
  [[nodiscard]] int references() const { return shared_->references; }
  [[nodiscard]] const Counted* shared() const { return shared_; }

 private:
  Counted* shared_;
};
struct ThrowsOnSave {
  template <class Archive>
  void save(Archive&) const {
    throw std::runtime_error("unwilling");
  }
  template <class Archive>
  void load(Archive&) {}
};

}  // namespace

template <>
struct wire::Custom<Handle> {
  static void encode(Writer& out, const Handle& value) {
    auto* const copy = new Handle(value);
    out.keep(out.size(), [](std::byte* place) noexcept {
      Handle* kept = nullptr;
      std::memcpy(&kept, place, sizeof kept);
      delete kept;
    });
    out.put(copy);
  }
  static Handle decode(Reader& in) {
    auto* const kept = in.take<Handle*>();
    const std::unique_ptr<Handle> owner(in.references() == References::take ? kept : nullptr);
    return *kept;
  }
};

namespace {

static_assert(Serializable<Handle> && Serializable<std::vector<std::optional<Handle>>>);

TEST(Message, UnalignedMessagesDecode) {
  wire::Writer out;
  out.put('x');
  wire::encode(out, std::vector<double>{1, 2, 3});
  wire::encode(out, Point{4, 5});
  wire::Reader in(out.data(), out.size());
  EXPECT_EQ(in.take<char>(), 'x');
  EXPECT_EQ(wire::decode<std::vector<double>>(in), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(wire::decode<Point>(in), (Point{4, 5}));
}

TEST(Message, EveryTruncationIsNoticed) {
  using Value = std::tuple<std::string, std::vector<int>, std::map<int, std::string>, Rich>;
  wire::Writer out;
  wire::encode(out, Value{"text", {1, 2, 3}, {{1, "a"}}, {"r", {1}}});
  for (std::size_t size = 0; size < out.size(); ++size) {
    const std::vector<std::byte> cut(out.data(), out.data() + size);  // exact, for the sanitizer
    wire::Reader in(cut.data(), cut.size());
    EXPECT_THROW(wire::decode<Value>(in), Corrupt) << size;
  }
}

TEST(Message, DamagedCountsAndIndicesAreCorrupt) {
  wire::Writer out;
  out.put(std::numeric_limits<std::uint64_t>::max());
  out.put(std::uint64_t{0});
  const auto decode = [&out]<class T>(std::type_identity<T>) {
    wire::Reader in(out.data(), out.size());
    wire::decode<T>(in);
  };
  EXPECT_THROW(decode(std::type_identity<std::string>{}), Corrupt);
  EXPECT_THROW(decode(std::type_identity<std::vector<double>>{}), Corrupt);
  EXPECT_THROW(decode(std::type_identity<std::vector<std::string>>{}), Corrupt);
  EXPECT_THROW(decode(std::type_identity<std::vector<Rich>>{}), Corrupt);
  EXPECT_THROW(decode(std::type_identity<std::set<int>>{}), Corrupt);
  EXPECT_THROW(decode(std::type_identity<std::variant<int, char>>{}), Corrupt);
  EXPECT_THROW(decode(std::type_identity<int (*)(int)>{}), Corrupt);
}

TEST(Message, AMessageOwnsOneReferenceToAHandle) {
  const Handle handle;
  wire::Writer out;
  wire::encode(out, handle);
  EXPECT_TRUE(out.holds_references());
  EXPECT_EQ(handle.references(), 2);
  wire::Reader in(out.data(), out.size());
  {
    const Handle taken = wire::decode<Handle>(in);
    EXPECT_EQ(taken.shared(), handle.shared());
    EXPECT_EQ(handle.references(), 2);
  }
  EXPECT_EQ(handle.references(), 1);
}

TEST(Message, BorrowingReadersLeaveTheReferenceWithTheMessage) {
  const Handle handle;
  wire::Writer out;
  wire::encode(out, std::vector<Handle>{handle});
  for (int reader = 0; reader < 3; ++reader) {
    wire::Reader in(out.data(), out.size(), wire::References::borrow);
    EXPECT_EQ(wire::decode<std::vector<Handle>>(in).at(0).references(), 3);
  }
  EXPECT_EQ(handle.references(), 2);
  out.revert(0);
  EXPECT_EQ(handle.references(), 1);
  EXPECT_FALSE(out.holds_references());
}

TEST(Message, AFailedEncodingLeavesNothingBehind) {
  const Handle handle;
  wire::Writer out;
  wire::encode(out, std::tuple<int, Handle>(1, handle));
  const std::size_t size = out.size();
  EXPECT_THROW(wire::encode(out, std::tuple<Handle, ThrowsOnSave>(handle, {})), std::runtime_error);
  EXPECT_EQ(out.size(), size);
  EXPECT_EQ(handle.references(), 2);
  out.revert(0);
}

// Grows in blocks of its own, as the pool does in the arena.
class BlockWriter : public wire::Writer {
 public:
  ~BlockWriter() override { delete[] block_; }
  int grown = 0;

 protected:
  void grow(std::size_t more) override {
    const std::size_t capacity = size() + more + 10;
    auto* const block = new std::byte[capacity];
    if (size() != 0) std::memcpy(block, data(), size());
    rebase(block, block + size(), block + capacity);
    delete[] std::exchange(block_, block);
    ++grown;
  }

 private:
  std::byte* block_ = nullptr;
};

TEST(Message, WritersMayGrowInMemoryOfTheirOwn) {
  BlockWriter out;
  const std::vector<std::string> value(50, "some text that is long enough to need memory");
  wire::encode(out, value);
  EXPECT_GT(out.grown, 1);
  wire::Reader in(out.data(), out.size());
  EXPECT_EQ(wire::decode<std::vector<std::string>>(in), value);
}

TEST(Message, AClearedWriterKeepsItsMemory) {
  wire::Writer out;
  wire::encode(out, std::string(1000, 'x'));
  const std::byte* const before = out.data();
  out.clear();
  EXPECT_EQ(out.size(), 0U);
  wire::encode(out, std::string(1000, 'y'));
  EXPECT_EQ(out.data(), before);
}

}  // namespace
}  // namespace millrace
