#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "shm/arena.hpp"

namespace millrace {
namespace {

int add(int a, int b) { return a + b; }
int negate(int x) noexcept { return -x; }
std::string greet(const std::string& name) { return "hello " + name; }
void append(std::string& text, int number) { text += std::to_string(number); }
int consume(std::unique_ptr<int> value) { return *value; }
std::size_t swallow(std::string&& text) { return std::string(std::move(text)).size(); }

struct Animal {
  Animal() = default;
  Animal(const Animal&) = default;
  Animal& operator=(const Animal&) = default;
  virtual ~Animal() = default;
  [[nodiscard]] virtual std::string sound() const { return "..."; }
};
struct Named {
  std::string name = "n";
  virtual ~Named() = default;
};
struct Cow : Named, Animal {
  [[nodiscard]] std::string sound() const override { return "moo"; }
  std::string call(int times) const& noexcept { return name + std::to_string(times); }
};
struct Scale {
  std::string unit;
  double factor;
  double operator()(double x) const { return factor * x; }
};
class Hidden {
 public:
  explicit Hidden(int k) : k_(k) {}
  int operator()(int x) const { return k_ * x; }

 private:
  int k_;
};
class SelfSerialized {
 public:
  SelfSerialized() = default;
  explicit SelfSerialized(std::string text) : text_(std::move(text)) {}
  std::string operator()() const { return text_; }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(text_);
  }

 private:
  std::string text_;
};
struct AppliesFunction {
  int (*function)(int, int);
  int first;
  int operator()(int second) const { return function(first, second); }
};
struct Stateless {
  int operator()(int x) const { return x + 1; }
};
struct FinalStateless final {
  int operator()(int x) const { return x + 1; }
};
struct Overloaded {
  int operator()(int x) const { return x; }
  double operator()(double x) const { return x; }
};

// Counted as the library's handles are: the count is in shared memory.
class CountedToken {
 public:
  CountedToken() : count_(static_cast<int*>(runtime::arena_allocate(sizeof(int)))) { *count_ = 1; }
  CountedToken(const CountedToken& other) : count_(other.count_) { ++*count_; }
  CountedToken& operator=(const CountedToken&) = delete;
  ~CountedToken() {
    if (--*count_ == 0) runtime::arena_deallocate(count_);
  }
  [[nodiscard]] int count() const { return *count_; }

 private:
  int* count_;
};

}  // namespace

template <>
struct wire::Custom<CountedToken> {
  static void encode(Writer& out, const CountedToken& value) {
    auto* const copy = new CountedToken(value);
    out.keep(out.size(), [](std::byte* place) noexcept {
      CountedToken* kept = nullptr;
      std::memcpy(&kept, place, sizeof kept);
      delete kept;
    });
    out.put(copy);
  }
  static CountedToken decode(Reader& in) {
    auto* const kept = in.take<CountedToken*>();
    const std::unique_ptr<CountedToken> owner(in.references() == References::take ? kept : nullptr);
    return *kept;
  }
};

namespace {

template <class F>
F round_trip(const F& f) {
  const wire::Parcel<F> parcel(f);
  wire::Writer out;
  parcel.write(out);
  wire::Reader in(out.data(), out.size());
  F back = wire::unpack<F>(in);
  EXPECT_EQ(in.remaining(), 0U);
  return back;
}

template <class F>
std::size_t parcel_bytes(const F& f) {
  const wire::Parcel<F> parcel(f);
  wire::Writer out;
  parcel.write(out);
  return out.size();
}

// Runs f in a forked child that gets the callable through shared memory; its result is the exit
// code.
template <class F, class... A>
int call_in_child(const F& f, A... arguments) {
  const wire::Parcel<F> parcel(f);
  wire::Writer out;
  parcel.write(out);
  auto* const message = static_cast<std::byte*>(runtime::arena_allocate(out.size() + 1));
  const std::size_t size = out.size();
  *message = std::byte{};  // what had this memory before may have left anything in it
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      while (*static_cast<volatile std::byte*>(message) == std::byte{}) {
      }
      wire::Reader in(message + 1, size);
      auto callable = wire::unpack<F>(in);
      ::_exit(wire::call(callable, arguments...));
    } catch (...) {
      ::_exit(255);
    }
  }
  if (size != 0) std::memcpy(message + 1, out.data(), size);
  *static_cast<volatile std::byte*>(message) = std::byte{1};
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  runtime::arena_deallocate(message);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

auto move_only = [p = std::make_unique<int>(1)] { return *p; };

static_assert(Sendable<decltype(&add)> && Sendable<decltype(negate)> &&
              Sendable<decltype(&Cow::call)>);
static_assert(Sendable<Scale> && Sendable<Hidden> && Sendable<SelfSerialized> &&
              Sendable<Overloaded>);
static_assert(Sendable<Stateless> && Sendable<FinalStateless> && Sendable<std::plus<>>);
static_assert(Sendable<decltype(partial(add, 1))> && Serializable<decltype(partial(add, 1))>);
static_assert(Sendable<decltype([](auto&&...) {})>);
static_assert(!Sendable<std::function<void()>> && !Sendable<decltype(move_only)>);
static_assert(!Sendable<int*> && !Sendable<int> && !Sendable<std::string>);
static_assert(!Sendable<decltype(partial(add, static_cast<int*>(nullptr)))>);
static_assert(!Sendable<decltype(partial(std::function<void()>()))>);

static_assert(std::is_same_v<wire::arguments_of<decltype(add)>, std::tuple<int, int>>);
static_assert(std::is_same_v<wire::arguments_of<decltype(negate)>, std::tuple<int>>);
static_assert(std::is_same_v<wire::arguments_of<decltype(&Cow::call)>, std::tuple<Cow, int>>);
static_assert(std::is_same_v<wire::arguments_of<decltype(&Animal::sound)>, std::tuple<Animal>>);
static_assert(std::is_same_v<wire::arguments_of<decltype([](const char*, const double&) {})>,
                             std::tuple<std::string, double>>);
static_assert(std::is_same_v<wire::arguments_of<decltype(partial(add, 1))>, std::tuple<int>>);
static_assert(!wire::HasArguments<decltype([](auto) {})> && !wire::HasArguments<Overloaded>);

static_assert(wire::CallableWith<decltype(greet), const char (&)[4]>);
static_assert(wire::CallableWith<decltype(append), const char*, int>);
static_assert(!wire::CallableWith<decltype(append), int, int>);
static_assert(!wire::CallableWith<decltype(add), int>);
static_assert(wire::CallableWith<decltype(consume), std::unique_ptr<int>>);
static_assert(std::is_same_v<wire::invoke_result_t<decltype(&append), std::string, int>, void>);
static_assert(std::is_same_v<wire::invoke_result_t<decltype([](auto& x) { return x; }), int>, int>);

TEST(Callable, FunctionsAndMembersTravelByName) {
  EXPECT_EQ(round_trip(&add)(1, 2), 3);
  EXPECT_EQ(round_trip(&negate)(1), -1);
  const Cow cow;
  EXPECT_EQ((cow.*round_trip(&Cow::call))(3), "n3");
  EXPECT_EQ((cow.*round_trip(&Animal::sound))(), "moo");
  EXPECT_EQ((cow.*round_trip(static_cast<std::string (Cow::*)() const>(&Animal::sound)))(), "moo");
  EXPECT_EQ(cow.*round_trip(&Cow::name), "n");
  EXPECT_EQ(round_trip(static_cast<std::string (Animal::*)() const>(nullptr)), nullptr);
}

TEST(Callable, StatelessCallablesAreNoBytes) {
  EXPECT_EQ(parcel_bytes(Stateless{}), 0U);
  EXPECT_EQ(parcel_bytes([](int x) { return x; }), 0U);
  EXPECT_EQ(round_trip(Stateless{})(1), 2);
  EXPECT_EQ(round_trip(FinalStateless{})(1), 2);
  EXPECT_EQ(round_trip([=](int x) { return x + 5; })(1), 6);
}

TEST(Callable, PlainCapturesTravelAsBytes) {
  const double factor = 2.5;
  const int offset = 1;
  const bool negative = true;
  auto f = [=](double x) { return (negative ? -1 : 1) * (x * factor + offset); };
  EXPECT_EQ(parcel_bytes(f), sizeof f);
  EXPECT_EQ(round_trip(f)(2), -6);
  EXPECT_EQ(round_trip(Hidden(3))(4), 12);
  EXPECT_EQ(round_trip([count = 0]() mutable { return ++count; })(), 1);
}

TEST(Callable, FunctionObjectsAreSerialised) {
  const Scale scale = round_trip(Scale{"a unit with a name that needs memory", 2});
  EXPECT_EQ(scale.unit, "a unit with a name that needs memory");
  EXPECT_EQ(scale(4), 8);
  EXPECT_EQ(round_trip(SelfSerialized("text"))(), "text");
  EXPECT_EQ(round_trip(AppliesFunction{&add, 3})(4), 7);
}

TEST(Callable, HandlesInLambdasAreCountedForTheParcelAndEachCopy) {
  const CountedToken token;
  {
    auto f = [token] { return token.count(); };
    const wire::Parcel parcel(f);
    EXPECT_EQ(token.count(), 3);
    wire::Writer out;
    parcel.write(out);
    for (int receiver = 0; receiver < 3; ++receiver) {
      wire::Reader in(out.data(), out.size());
      EXPECT_EQ(wire::unpack<decltype(f)>(in)(), 4);
    }
    EXPECT_EQ(token.count(), 3);
  }
  EXPECT_EQ(token.count(), 1);
}

TEST(Callable, PartialFillsInTheFirstArguments) {
  EXPECT_EQ(partial(add, 1)(2), 3);
  EXPECT_EQ(partial(partial(add, 1), 2)(), 3);
  EXPECT_EQ(partial(greet, "bob")(), "hello bob");
  EXPECT_EQ(partial(&Cow::call, Cow())(2), "n2");
  EXPECT_EQ(partial(swallow, "four")(), 4U);
  const auto appends = partial(append, std::string("x"));
  int five = 5;
  appends(five);
  EXPECT_EQ(std::get<0>(appends.bound()), "x5");
}

TEST(Callable, PartialTravelsWithWhatItHolds) {
  EXPECT_EQ(round_trip(partial(add, 1))(2), 3);
  EXPECT_EQ(round_trip(partial(partial(add, 1), 2))(), 3);
  EXPECT_EQ(round_trip(partial(greet, std::string(100, 'x')))(), "hello " + std::string(100, 'x'));
  const std::vector<int> filled{1, 2, 3};
  EXPECT_EQ(
      round_trip(partial([](const std::vector<int>& v, std::size_t i) { return v[i]; }, filled))(1),
      2);
  EXPECT_EQ(round_trip(partial([](auto f, int x) { return f(x); }, partial(add, 1)))(4), 5);
  const CountedToken token;
  {
    const auto counts =
        partial([token](const CountedToken& bound) { return bound.count(); }, token);
    EXPECT_EQ(token.count(), 3);
    EXPECT_EQ(round_trip(counts)(), 5);
    EXPECT_EQ(token.count(), 3);
  }
  EXPECT_EQ(token.count(), 1);
}

TEST(Callable, ClosuresAreValuesToo) {
  wire::Writer out;
  int local = 0;
  EXPECT_THROW(wire::encode(out, [&local] { return local; }), TypeError);
  const CountedToken token;
  auto f = [token] { return token.count(); };
  wire::encode(out, f);
  wire::Reader in(out.data(), out.size());
  EXPECT_EQ(wire::decode<decltype(f)>(in)(), 3);
  EXPECT_EQ(token.count(), 2);
}

TEST(Callable, ArgumentsAreHandedOver) {
  auto value = std::make_unique<int>(4);
  auto consumer = &consume;
  EXPECT_EQ(wire::call(consumer, value), 4);
  std::string text = "x";
  int number = 1;
  auto appender = &append;
  wire::call(appender, text, number);
  EXPECT_EQ(text, "x1");
  auto generic = [](auto& x) { return ++x; };
  EXPECT_EQ(wire::call(generic, number), 2);
  auto member = &Cow::call;
  Cow cow;
  EXPECT_EQ(wire::call(member, cow, number), "n2");
  std::pair<int, int> pair{1, 2};
  EXPECT_EQ(wire::call_tuple(add, pair), 3);
}

TEST(Callable, AForkedChildMayUnpackWhatWasPackedLater) {
  EXPECT_EQ(call_in_child(&add, 3, 4), 7);
  EXPECT_EQ(call_in_child([k = 5](int x) { return k * x; }, 2), 10);
  EXPECT_EQ(call_in_child(partial([](const std::string& s) { return static_cast<int>(s.size()); },
                                  std::string(77, 'x'))),
            77);
}

}  // namespace
}  // namespace millrace
