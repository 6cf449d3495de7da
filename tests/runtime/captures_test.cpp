#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace millrace {
namespace {

int add(int a, int b) { return a + b; }
struct Cow {
  void call() {}
};
class HiddenText {
 public:
  explicit HiddenText(std::string text) : text_(std::move(text)) {}
  std::size_t operator()() const { return text_.size(); }

 private:
  std::string text_;
};

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
std::string refusal(const F& f) {
  try {
    const wire::Parcel<F> parcel(f);
  } catch (const TypeError& error) {
    return error.what();
  }
  return "";
}

TEST(Captures, NumbersThatLookLikeAddressesPass) {
  int local = 0;
  const auto number = reinterpret_cast<std::uintptr_t>(&local);
  EXPECT_EQ(round_trip([number] { return number; })(), number);
}

TEST(Captures, CapturesOfPrivateMemoryAreTypeErrors) {
  int local = 1;
  static int global = 2;
  const auto owned = std::make_unique<int>(3);
  int* const heap = owned.get();
  const std::string text = "short";
  const std::vector<int> filled{1};
  for (const std::string& error :
       {refusal([&local] { return local; }), refusal([p = &global] { return *p; }),
        refusal([heap] { return *heap; }), refusal([text] { return text; }),
        refusal([text = std::string(100, 'x')] { return text; }),
        refusal([filled] { return filled[0]; }), refusal([f = &add] { return f(1, 2); }),
        refusal(HiddenText("short")),
        refusal([f = std::function<int()>([heap] { return *heap; })] { return f(); })}) {
    EXPECT_NE(error.find("mp::partial"), std::string::npos) << error;
    EXPECT_NE(error.find("word "), std::string::npos) << error;
  }
  EXPECT_NE(refusal([a = 1L, heap] { return a + *heap; }).find("word 1 "), std::string::npos);
  EXPECT_NE(refusal([text] { return text; }).find("inside the object itself"), std::string::npos);
}

TEST(Captures, CapturesOfTheArenaAndOfSharedMappingsPass) {
  auto* const shared = static_cast<int*>(runtime::arena_allocate(sizeof(int)));
  *shared = 5;
  EXPECT_EQ(round_trip([shared] { return *shared; })(), 5);
  EXPECT_EQ(round_trip([s = std::span(shared, 1), flag = true] { return flag ? s[0] : 0; })(), 5);
  runtime::arena_deallocate(shared);
  void* const mapped =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_EQ(refusal([mapped] { return mapped; }), "");
  ::munmap(mapped, 4096);
  EXPECT_EQ(refusal([mapped] { return mapped; }), "");
  EXPECT_EQ(round_trip([empty = std::vector<int>()] { return empty.size(); })(), 0U);
}

// Leaves addresses all over the stack that the next call's objects are made on.
[[gnu::noinline]] void litter_the_stack() {
  volatile std::uintptr_t words[200];
  for (auto& word : words) word = reinterpret_cast<std::uintptr_t>(&words);
}

struct Incomplete;
enum class Colour : short { red };
struct Flags {
  unsigned a : 3, b : 4;
};

[[gnu::noinline]] std::string refusal_with_padding(int* shared, bool flag) {
  litter_the_stack();
  const Incomplete* const nothing = nullptr;
  const Flags flags{1, 2};
  const std::array<short, 3> shorts{1, 2, 3};
  const char text[3] = "ab";
  const std::optional<long> number(5);
  auto member = &Cow::call;
  return refusal([shared, flag] { return flag ? *shared : 0; }) +
         refusal([flag, shared] { return flag ? *shared : 0; }) +
         refusal([flag, shared, shorts, nothing, text, flags, number, c = Colour::red] {
           return flag && nothing && text[0] && flags.a && number && c == Colour::red ? *shared
                                                                                      : shorts[0];
         }) +
         refusal([inner = [shared, flag] { return flag ? *shared : 0; }, flag] {
           return flag ? inner() : 0;
         }) +
         std::to_string(refusal([flag, member] { return flag && member; }).size() > 0);
}

TEST(Captures, WhatLiesBetweenCapturesIsNotMistakenForAnAddress) {
  auto* const shared = static_cast<int*>(runtime::arena_allocate(sizeof(int)));
  EXPECT_EQ(refusal_with_padding(shared, shared != nullptr), "1");
  int local = 0;
  const char text[16] = "text";
  const bool flag = shared != nullptr;
  EXPECT_NE(refusal([flag, &local] { return flag ? local : 0; }), "");
  EXPECT_NE(refusal([flag, &text] { return flag ? text[0] : 0; }), "");
  EXPECT_NE(refusal([flag, p = &local, n = 1] { return flag ? *p : n; }), "");
  runtime::arena_deallocate(shared);
}

TEST(Captures, PartialOfALambdaIsCheckedToo) {
  int local = 0;
  EXPECT_NE(refusal(partial([&local](int x) { return local + x; }, 1)), "");
}

}  // namespace
}  // namespace millrace
