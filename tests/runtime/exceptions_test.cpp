// Exceptions on the wire. CPython: test_multiprocessing's traceback and exception pickling tests.
#include "runtime/base/exceptions.hpp"

#include <gtest/gtest.h>

#include <any>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <millrace/errors.hpp>
#include <optional>
#include <regex>
#include <variant>
#include <vector>

#include "runtime/base/throw_trace.hpp"

namespace mp = millrace;

struct Declared : std::runtime_error {
  using runtime_error::runtime_error;
};
MILLRACE_EXCEPTION(Declared);

struct Coordinates : std::exception {
  Coordinates() = default;
  Coordinates(int a, std::string b) : x(a), label(std::move(b)) {}
  const char* what() const noexcept override { return "coordinates"; }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(x, label);
  }
  int x = 0;
  std::string label;
};
MILLRACE_EXCEPTION(Coordinates);

struct Plain {
  int code;
};
MILLRACE_EXCEPTION(Plain);

struct Last final : std::runtime_error {
  using runtime_error::runtime_error;
};
MILLRACE_EXCEPTION(Last);

struct Unwilling : std::exception {
  template <class Archive>
  void serialize(Archive&) {
    throw std::length_error("does not fit");
  }
};
MILLRACE_EXCEPTION(Unwilling);

struct Undeclared : std::runtime_error {
  using runtime_error::runtime_error;
};
struct Opaque {};

namespace {

template <class Error>
std::exception_ptr thrown(Error error) {
  try {
    throw error;
  } catch (...) {
    return std::current_exception();
  }
}

std::exception_ptr carried(const std::exception_ptr& error) {
  mp::wire::Writer out;
  mp::runtime::encode_exception(out, error);
  mp::wire::Reader in(out.data(), out.size());
  std::exception_ptr back = mp::runtime::decode_exception(in);
  EXPECT_EQ(in.remaining(), 0U);
  return back;
}

// Hands the carried exception, caught as an E, to `check`.
template <class E, class Check>
void expect_as(const std::exception_ptr& error, Check check) {
  const std::exception_ptr back = carried(error);
  EXPECT_NE(mp::remote_traceback(back), "");
  try {
    std::rethrow_exception(back);
  } catch (const E& e) {
    check(e);
  } catch (...) {
    ADD_FAILURE() << "arrived as another type: " << mp::runtime::describe_exception(back);
  }
}

template <class E>
void expect_same_text() {
  expect_as<E>(thrown(E("the text")), [](const E& e) {
    EXPECT_STREQ(e.what(), "the text");
    EXPECT_NE(mp::remote_traceback(e), "");
  });
}

template <class E>
void expect_same_type() {
  expect_as<E>(thrown(E()), [](const E&) {});
}

TEST(Exceptions, LibraryTypesKeepTypeAndText) {  // P18-P21
  expect_same_text<mp::ProcessError>();
  expect_same_text<mp::TimeoutError>();
  expect_same_text<mp::AuthenticationError>();
  expect_same_text<mp::MaybeEncodingError>();
  expect_same_text<mp::PoolTerminated>();
  expect_same_text<mp::ForkedError>();
  expect_same_text<mp::Corrupt>();
  expect_same_text<mp::ValueError>();
  expect_same_text<mp::AssertionError>();
  expect_same_text<mp::TypeError>();
  expect_same_text<mp::IndexError>();
  expect_same_text<mp::KeyError>();
  expect_same_text<mp::AttributeError>();
  expect_same_text<mp::OverflowError>();
  expect_same_text<mp::EOFError>();
  expect_same_text<mp::NotImplementedError>();
  expect_same_text<mp::UnpicklingError>();
  expect_same_text<mp::BrokenBarrierError>();
  expect_same_text<mp::queue::Empty>();
  expect_same_text<mp::queue::Full>();
  expect_same_type<mp::KeyboardInterrupt>();
}

TEST(Exceptions, StandardTypesKeepTypeAndText) {
  expect_same_text<std::logic_error>();
  expect_same_text<std::invalid_argument>();
  expect_same_text<std::domain_error>();
  expect_same_text<std::length_error>();
  expect_same_text<std::out_of_range>();
  expect_same_text<std::runtime_error>();
  expect_same_text<std::range_error>();
  expect_same_text<std::overflow_error>();
  expect_same_text<std::underflow_error>();
}

TEST(Exceptions, StandardTypesWithoutTextKeepType) {
  expect_same_type<std::exception>();
  expect_same_type<std::bad_alloc>();
  expect_same_type<std::bad_array_new_length>();
  expect_same_type<std::bad_cast>();
  expect_same_type<std::bad_typeid>();
  expect_same_type<std::bad_exception>();
  expect_same_type<std::bad_optional_access>();
  expect_same_type<std::bad_variant_access>();
  expect_same_type<std::bad_function_call>();
  expect_same_type<std::bad_weak_ptr>();
  expect_same_type<std::bad_any_cast>();
}

TEST(Exceptions, SystemErrorKeepsCodeAndText) {
  const std::system_error error(ENOSPC, std::generic_category(), "write of results");
  expect_as<std::system_error>(thrown(error), [&](const std::system_error& e) {
    EXPECT_EQ(e.code(), error.code());
    EXPECT_STREQ(e.what(), error.what());
  });
}

TEST(Exceptions, ErrorCodeOfAnUnknownCategoryKeepsNameAndNumber) {
  struct Category : std::error_category {
    const char* name() const noexcept override { return "reactor"; }
    std::string message(int) const override { return "too hot"; }
  };
  static const Category category;
  expect_as<std::system_error>(thrown(std::system_error(7, category, "core")),
                               [](const std::system_error& e) {
                                 EXPECT_STREQ(e.code().category().name(), "reactor");
                                 EXPECT_EQ(e.code().value(), 7);
                               });
}

TEST(Exceptions, ErrorCodesOfOneUnknownCategoryAreEqual) {
  struct Category : std::error_category {
    const char* name() const noexcept override { return "turbine"; }
    std::string message(int) const override { return "too cold"; }
  };
  static const Category category;
  std::error_code first;
  const auto keep = [&first](const std::system_error& e) { first = e.code(); };
  const auto compare = [&first](const std::system_error& e) { EXPECT_EQ(e.code(), first); };
  expect_as<std::system_error>(thrown(std::system_error(7, category)), keep);
  expect_as<std::system_error>(thrown(std::system_error(7, category)), compare);
}

TEST(Exceptions, FilesystemErrorKeepsPaths) {
  std::exception_ptr error;
  try {
    std::filesystem::copy_file("/nowhere/a", "/nowhere/b");
  } catch (...) {
    error = std::current_exception();
  }
  expect_as<std::filesystem::filesystem_error>(
      error, [](const std::filesystem::filesystem_error& e) {
        EXPECT_EQ(e.path1(), "/nowhere/a");
        EXPECT_EQ(e.path2(), "/nowhere/b");
        EXPECT_EQ(e.code(), std::errc::no_such_file_or_directory);
      });
}

TEST(Exceptions, StreamFailureArrivesAsStreamFailure) {
  std::exception_ptr error;
  try {
    std::ifstream file;
    file.exceptions(std::ios::failbit);
    file.open("/nowhere/at/all");
  } catch (...) {
    error = std::current_exception();
  }
  expect_as<std::ios_base::failure>(error, [](const std::ios_base::failure&) {});
}

TEST(Exceptions, FutureAndRegexErrorsKeepTheirCodes) {
  expect_as<std::future_error>(
      thrown(std::future_error(std::future_errc::broken_promise)), [](const std::future_error& e) {
        EXPECT_EQ(e.code(), std::make_error_code(std::future_errc::broken_promise));
      });
  expect_as<std::regex_error>(
      thrown(std::regex_error(std::regex_constants::error_brack)),
      [](const std::regex_error& e) { EXPECT_EQ(e.code(), std::regex_constants::error_brack); });
}

TEST(Exceptions, WorkerLostKeepsItsFields) {
  expect_as<mp::WorkerLost>(thrown(mp::WorkerLost(123, -9, true, 10, 19)),
                            [](const mp::WorkerLost& e) {
                              EXPECT_EQ(e.pid(), 123);
                              EXPECT_EQ(e.exitcode(), -9);
                              EXPECT_TRUE(e.oom());
                              EXPECT_EQ(e.first(), 10U);
                              EXPECT_EQ(e.last(), 19U);
                            });
}

TEST(Exceptions, BufferTooShortKeepsTheMessage) {  // P19
  const std::string message("a\0b", 3);
  expect_as<mp::BufferTooShort>(
      thrown(mp::BufferTooShort(mp::Bytes(message))),
      [&](const mp::BufferTooShort& e) { EXPECT_EQ(e.message(), mp::Bytes(message)); });
}

TEST(Exceptions, SystemExitKeepsCodeAndText) {
  expect_as<mp::SystemExit>(thrown(mp::SystemExit(7)),
                            [](const mp::SystemExit& e) { EXPECT_EQ(e.code(), 7); });
  expect_as<mp::SystemExit>(thrown(mp::SystemExit("over")), [](const mp::SystemExit& e) {
    EXPECT_EQ(e.text(), "over");
    EXPECT_EQ(e.code(), 1);
  });
  expect_as<mp::SystemExit>(thrown(mp::SystemExit("")),
                            [](const mp::SystemExit& e) { EXPECT_TRUE(e.has_text()); });
  expect_as<mp::SystemExit>(thrown(mp::SystemExit(1)),
                            [](const mp::SystemExit& e) { EXPECT_FALSE(e.has_text()); });
}

TEST(Exceptions, DeclaredTypeArrivesAsItself) {
  expect_same_text<Declared>();
  expect_as<Plain>(thrown(Plain{5}), [](const Plain& e) { EXPECT_EQ(e.code, 5); });
}

TEST(Exceptions, DeclaredSerializableTypeKeepsItsFields) {
  expect_as<Coordinates>(thrown(Coordinates(3, "west")), [](const Coordinates& e) {
    EXPECT_EQ(e.x, 3);
    EXPECT_EQ(e.label, "west");
  });
}

TEST(Exceptions, FinalTypeArrivesWithoutItsTrace) {
  const std::exception_ptr back = carried(thrown(Last("the end")));
  try {
    std::rethrow_exception(back);
  } catch (const Last& e) {
    EXPECT_STREQ(e.what(), "the end");
    EXPECT_EQ(mp::remote_traceback(e), "");
  }
}

TEST(Exceptions, UndeclaredTypeArrivesAsRemoteError) {
  expect_as<mp::RemoteError>(thrown(Undeclared("lost")), [](const mp::RemoteError& e) {
    EXPECT_EQ(e.type_name(), "Undeclared");
    EXPECT_STREQ(e.what(), "lost");
    EXPECT_NE(e.traceback(), "");
    EXPECT_EQ(mp::remote_traceback(e), e.traceback());
  });
}

TEST(Exceptions, WhatIsNoExceptionArrivesAsRemoteError) {
  expect_as<mp::RemoteError>(thrown(42), [](const mp::RemoteError& e) {
    EXPECT_EQ(e.type_name(), "int");
    EXPECT_STREQ(e.what(), "42");
  });
  expect_as<mp::RemoteError>(thrown(Opaque()),
                             [](const mp::RemoteError& e) { EXPECT_EQ(e.type_name(), "Opaque"); });
  expect_as<mp::RemoteError>(thrown(static_cast<const char*>("text")),
                             [](const mp::RemoteError& e) { EXPECT_STREQ(e.what(), "text"); });
}

TEST(Exceptions, NestedExceptionArrivesAsItsOuterTypeAndNamesItsCause) {
  std::exception_ptr error;
  try {
    try {
      throw std::out_of_range("inner");
    } catch (...) {
      std::throw_with_nested(Declared("outer"));
    }
  } catch (...) {
    error = std::current_exception();
  }
  expect_as<Declared>(error, [](const Declared& e) {
    EXPECT_STREQ(e.what(), "outer");
    EXPECT_NE(mp::remote_traceback(e).find("caused by std::out_of_range: inner"),
              std::string::npos);
  });
}

TEST(Exceptions, NestedUndeclaredTypeIsNamedWithoutItsWrapping) {
  std::exception_ptr error;
  try {
    try {
      throw 1;
    } catch (...) {
      std::throw_with_nested(Undeclared("outer"));
    }
  } catch (...) {
    error = std::current_exception();
  }
  expect_as<mp::RemoteError>(
      error, [](const mp::RemoteError& e) { EXPECT_EQ(e.type_name(), "Undeclared"); });
}

TEST(Exceptions, FailingSerialiserArrivesAsMaybeEncodingError) {  // O20
  expect_as<mp::MaybeEncodingError>(thrown(Unwilling()), [](const mp::MaybeEncodingError& e) {
    EXPECT_NE(std::string(e.what()).find("Unwilling"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("does not fit"), std::string::npos);
  });
}

TEST(Exceptions, SecondCarriageKeepsTypeAndBothTraces) {
  const std::exception_ptr once = carried(thrown(Declared("deep")));
  expect_as<Declared>(once, [&](const Declared& e) {
    const std::string trace = mp::remote_traceback(e);
    EXPECT_EQ(trace.find(mp::remote_traceback(once)), 0U);
    EXPECT_GT(trace.size(), mp::remote_traceback(once).size());
  });
  expect_as<mp::RemoteError>(carried(thrown(Undeclared("deep"))), [](const mp::RemoteError& e) {
    EXPECT_EQ(e.type_name(), "Undeclared");
  });
}

TEST(Exceptions, LocalExceptionHasNoRemoteTrace) {
  EXPECT_EQ(mp::remote_traceback(std::runtime_error("here")), "");
  EXPECT_EQ(mp::remote_traceback(thrown(Declared("here"))), "");
  EXPECT_EQ(mp::remote_traceback(std::exception_ptr()), "");
}

TEST(Exceptions, DamagedMessageArrivesAsRemoteError) {
  mp::wire::Writer out;
  mp::runtime::encode_exception(out, thrown(Coordinates(3, "west")));
  for (std::size_t size = 0; size < out.size(); ++size) {
    const std::vector<std::byte> cut(out.data(), out.data() + size);
    mp::wire::Reader in(cut.data(), cut.size());
    EXPECT_THROW(std::rethrow_exception(mp::runtime::decode_exception(in)), mp::RemoteError)
        << "cut at " << size;
  }
}

TEST(Exceptions, DescriptionNamesTypeAndCauses) {
  EXPECT_EQ(mp::runtime::describe_exception(thrown(std::out_of_range("item 3"))),
            "std::out_of_range: item 3\n");
  EXPECT_EQ(mp::runtime::describe_exception(thrown(Opaque())), "Opaque\n");
}

}  // namespace
