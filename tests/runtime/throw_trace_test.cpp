#include "runtime/base/throw_trace.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "runtime/base/exceptions.hpp"

namespace mp = millrace;

// Not in an unnamed namespace and not static: frames of these names are looked for.
[[gnu::noinline]] void throw_from_the_depths(int depth) {
  if (depth == 0) throw std::runtime_error("deep");
  throw_from_the_depths(depth - 1);
  asm volatile("");
}
[[gnu::noinline]] void reach_into_the_void() {
  (void)std::string("a").at(5);
  asm volatile("");
}

namespace {

template <class Body>
std::exception_ptr caught(Body body) {
  try {
    body();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t found = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    ++found;
  }
  return found;
}

TEST(ThrowTrace, HookIsLinked) { EXPECT_TRUE(mp::runtime::throw_trace_linked()); }

TEST(ThrowTrace, NamesTheFunctionsFromTheThrowToTheScope) {
  const mp::runtime::ThrowTraceScope scope;
  const auto error = caught([] { throw_from_the_depths(3); });
  const std::string text = mp::runtime::throw_trace_text(error);
  EXPECT_EQ(count(text, "throw_from_the_depths(int)"), 4U) << text;
  EXPECT_EQ(count(text, "main"), 0U) << "frames outside of the scope:\n" << text;
}

TEST(ThrowTrace, SeesWhatTheStandardLibraryThrows) {
  const mp::runtime::ThrowTraceScope scope;
  const std::string text = mp::runtime::throw_trace_text(caught([] { reach_into_the_void(); }));
  EXPECT_EQ(count(text, "reach_into_the_void()"), 1U) << text;
}

TEST(ThrowTrace, IsOffOutsideOfAScope) {
  EXPECT_EQ(mp::runtime::throw_trace_text(caught([] { throw_from_the_depths(1); })), "");
  { const mp::runtime::ThrowTraceScope scope; }
  EXPECT_EQ(mp::runtime::throw_trace_text(caught([] { throw_from_the_depths(1); })), "");
}

TEST(ThrowTrace, SurvivesOtherThrowsMeanwhile) {
  const mp::runtime::ThrowTraceScope scope;
  const auto error = caught([] { throw_from_the_depths(0); });
  (void)caught([] { throw 1; });
  (void)caught([] { throw 2; });
  EXPECT_EQ(count(mp::runtime::throw_trace_text(error), "throw_from_the_depths(int)"), 1U);
}

TEST(ThrowTrace, IsPartOfTheRemoteTraceback) {
  const mp::runtime::ThrowTraceScope scope;
  mp::wire::Writer out;
  mp::runtime::encode_exception(out, caught([] { throw_from_the_depths(2); }));
  mp::wire::Reader in(out.data(), out.size());
  const std::string text = mp::remote_traceback(mp::runtime::decode_exception(in));
  EXPECT_EQ(count(text, "throw_from_the_depths(int)"), 3U) << text;
  EXPECT_EQ(count(text, "std::runtime_error: deep"), 1U) << text;
}

TEST(ThrowTrace, KeepsThreadsApart) {
  const mp::runtime::ThrowTraceScope scope;
  const auto error = caught([] { throw_from_the_depths(0); });
  std::string elsewhere = "not run";
  // A thread that noted nothing knows nothing of another's throw.
  std::exception_ptr copy = error;
  struct Runner {
    std::string& text;
    std::exception_ptr& error;
    static void* run(void* self) {
      auto& me = *static_cast<Runner*>(self);
      me.text = mp::runtime::throw_trace_text(me.error);
      return nullptr;
    }
  } runner{elsewhere, copy};
  pthread_t thread{};
  ASSERT_EQ(::pthread_create(&thread, nullptr, &Runner::run, &runner), 0);
  ASSERT_EQ(::pthread_join(thread, nullptr), 0);
  EXPECT_EQ(elsewhere, "");
  EXPECT_NE(mp::runtime::throw_trace_text(error), "");
}

}  // namespace
