// Pickles, both ways, against CPython's own pickle module. PYTHON.md 2d.
#include "runtime/values/pickle.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <complex>
#include <cstdint>
#include <limits>
#include <millrace/errors.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "tests/runtime/python_oracle.hpp"

namespace millrace::runtime {
namespace {

using namespace std::string_literals;

std::string pickled(const Object& value) {
  wire::Writer out;
  pickle(out, value);
  return {reinterpret_cast<const char*>(out.data()), out.size()};
}

Object round_trip(const Object& value) { return unpickle(pickled(value)); }

bool orders_of_sets_matter(const std::string& repr) {
  return repr.find("set(") != std::string::npos || repr.find('{') != std::string::npos;
}

TEST(Pickle, ReadsWhatCPythonWritesInEveryProtocol) {
  const auto lines = oracle::ask("dump 1 4000");
  ASSERT_GT(lines.size(), 4000U);
  for (const auto& line : lines) {
    ASSERT_EQ(line.size(), 3U);
    const std::string expected = line[2] == "-" ? "" : oracle::from_hex(line[2]);
    try {
      ASSERT_EQ(unpickle(oracle::from_hex(line[1])).repr(), expected)
          << "protocol " << line[0] << ", pickle " << line[1].substr(0, 400);
    } catch (const std::exception& error) {
      FAIL() << error.what() << ": protocol " << line[0] << ": " << expected.substr(0, 300);
    }
  }
}

TEST(Pickle, IsReadByCPythonAsTheSameValue) {
  std::vector<Object> values;
  std::vector<std::string> pickles;
  for (const auto& line : oracle::ask("dump 2 3000")) {
    values.push_back(unpickle(oracle::from_hex(line[1])));
    pickles.push_back(oracle::to_hex(pickled(values.back())));
  }
  const auto answers = oracle::ask("load", pickles);
  ASSERT_EQ(answers.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::string repr = values[i].repr();
    ASSERT_NE(answers[i][0], "ERROR") << answers[i][1] << repr.substr(0, 300);
    ASSERT_EQ(unpickle(oracle::from_hex(answers[i][0])).repr().size(), repr.size()) << repr;
    if (!orders_of_sets_matter(repr)) {
      ASSERT_EQ(oracle::from_hex(answers[i][1]), repr);
    }
  }
}

// Programs for the machine, by hand.
Object run(const std::string& program) { return unpickle(program); }

// What the error says, or "" when there is none.
std::string refusal(const std::string& program, const PickleLimits& limits = {}) {
  try {
    unpickle(program, limits);
    return {};
  } catch (const UnpicklingError& error) {
    return error.what();
  }
}

// ]MEMOIZE, then each level a pair of the level before: 2^levels values in a few bytes.
std::string bomb(int levels) {
  std::string program = "\x80\x04]\x94"s;
  for (int i = 0; i < levels; ++i) {
    program += std::string("h") + static_cast<char>(i) + 'h' + static_cast<char>(i) + "\x86\x94"s;
  }
  return program;
}

TEST(Pickle, KeepsEveryKindOfValue) {
  const Object value = Dict{{"list", List{1, 2.5, None, true, "text", Bytes("raw")}},
                            {Tuple{1, "x"}, Set{1, 2}},
                            {FrozenSet{1, 2}, Range(1, 10, 3)},
                            {"slice", Slice(1, None)},
                            {"complex", std::complex<double>(1, -2)},
                            {"array", ByteArray("abc")},
                            {-1, std::numeric_limits<std::int64_t>::min()},
                            {"long", std::string(100000, 'y')}};
  EXPECT_EQ(round_trip(value), value);
}

TEST(Pickle, CarriesExceptionsByTheirPythonNames) {
  EXPECT_EQ(round_trip(ValueError("bad")).repr(), "ValueError('bad')");
  EXPECT_EQ(round_trip(ValueError("bad")).as<ValueError>().what(), "bad"s);
  EXPECT_TRUE(round_trip(queue::Empty()).is<queue::Empty>());
  EXPECT_TRUE(round_trip(TimeoutError("late")).is<TimeoutError>());
  EXPECT_EQ(round_trip(BufferTooShort("whole")).as<BufferTooShort>().message(), "whole");
  const auto error = round_trip(std::system_error(ENOENT, std::generic_category(), "open x"));
  EXPECT_EQ(error.type_name(), "FileNotFoundError");
  EXPECT_EQ(error.as<std::system_error>().code(), std::errc::no_such_file_or_directory);
  EXPECT_EQ(round_trip(SystemExit(3)).as<SystemExit>().code(), 3);
}

TEST(Pickle, AnExceptionWithoutACounterpartIsARemoteError) {
  const Object value =
      run("cbuiltins\nZeroDivisionError\n(\x8c\x03"
          "divtR."s);
  EXPECT_EQ(value.as<RemoteError>().type_name(), "ZeroDivisionError");
  EXPECT_EQ(value.as<RemoteError>().what(), "div"s);
  EXPECT_EQ(round_trip(value).repr(), "ZeroDivisionError('div')");
}

TEST(Pickle, WritesAgainWhatItOnlyPasses) {
  const std::string token =
      "\x80\x04"
      "cmultiprocessing.managers\nToken\n)\x81(\x8c\x04listN\x8c\x02"
      "7ftb."s;
  EXPECT_EQ(run(token).type_name(), "Token");
  EXPECT_EQ(pickled(run(token)),
            "\x80\x04"
            "cmultiprocessing.managers\nToken\n)\x81\x8c\x04listN"
            "\x8c\x02"
            "7f\x87"
            "b."s);
}

TEST(Pickle, NeverCallsWhatIsNotOnTheList) {
  EXPECT_NE(refusal("cos\nsystem\n(\x8c\x02lstR."s).find("os.system"), std::string::npos);
  for (const char* name : {"builtins\neval", "builtins\nexec", "builtins\n__import__",
                           "subprocess\nPopen", "builtins\nopen", "functools\npartial"}) {
    EXPECT_NE(refusal("c"s + name + "\n."), "") << name;
  }
  EXPECT_NE(refusal("\x8c\x02os\x8c\x06system\x93."s), "");
  EXPECT_NE(refusal("K\x01)R."s), "") << "a call of a value";
  EXPECT_NE(refusal("(cos\nsystem\no."s), "") << "OBJ";
  EXPECT_NE(refusal("(ios\nsystem\n."s), "") << "INST";
  EXPECT_NE(refusal("Pname\n."s), "") << "PERSID";
  EXPECT_NE(refusal("\x82\x01."s), "") << "EXT1";
}

TEST(Pickle, IntsBeyond64BitsAreAnOverflow) {
  EXPECT_EQ(run("\x8a\x08\0\0\0\0\0\0\0\x80."s), std::numeric_limits<std::int64_t>::min());
  EXPECT_THROW(run("\x8a\x09\0\0\0\0\0\0\0\x80\0."s), OverflowError);
  EXPECT_THROW(run("\x8a\x0a\0\0\0\0\0\0\0\0\0\x01."s), OverflowError);
  EXPECT_THROW(run("L9223372036854775808L\n."), OverflowError);
  EXPECT_THROW(run("I-9223372036854775809\n."), OverflowError);
  EXPECT_EQ(run("\x8a\x0a\x05\0\0\0\0\0\0\0\0\0."s), 5);
}

TEST(Pickle, MalformedOnesAreRefused) {
  for (const std::string& program : {""s,
                                     "."s,
                                     "K"s,
                                     "K\x01"s,
                                     "(."s,
                                     "e."s,
                                     "(e."s,
                                     "]K\x01u."s,
                                     "}K\x01s."s,
                                     "}(K\x01u."s,
                                     "K\x01K\x02\x87."s,
                                     "h\0."s,
                                     "jzzzz."s,
                                     "\x80\x06N."s,
                                     "\x95\x09\0\0\0\0\0\0\0N."s,
                                     "\x8c\x05"
                                     "abc."s,
                                     "\x8d\xff\xff\xff\xff\xff\xff\xff\xff."s,
                                     "\x8c\x01\xff."s,
                                     "}]K\x01s."s,
                                     "\x8f(]\x90."s,
                                     "Ifive\n."s,
                                     "S'abc\n."s,
                                     "K\x01K\x01"
                                     "b."s,
                                     "(K\x01\x94"s,
                                     "\x97."s,
                                     "\x98."s,
                                     "(0e."s,
                                     "]\x94(h\0e."s}) {
    EXPECT_NE(refusal(program), "") << oracle::to_hex(program);
  }
}

TEST(Pickle, AValueCannotContainItself) {
  EXPECT_NE(refusal("]\x94h\0"
                    "a."s)
                .find("contain itself"),
            std::string::npos);
  EXPECT_NE(refusal("}\x94K\x01h\0s."s).find("contain itself"), std::string::npos);
  EXPECT_NE(refusal("]\x94]\x94h\0"
                    "ah\x01"
                    "a."s),
            "")
      << "through another";
  EXPECT_NE(refusal("]2a."s), "") << "DUP";
}

TEST(Pickle, WhatOccursTwiceIsSharedAndStaysAValue) {
  Object value =
      run("](]\x94K\x01"
          "ah\0e."s);
  EXPECT_EQ(value.repr(), "[[1], [1]]");
  auto list = value.as<List>();
  auto first = list[0].as<List>();
  first.append(2);
  EXPECT_EQ(value.repr(), "[[1], [1]]");
}

TEST(Pickle, LimitsHold) {
  std::string deep;
  for (int i = 0; i < 3000; ++i) deep += ']';
  for (int i = 1; i < 3000; ++i) deep += 'a';
  EXPECT_NE(refusal(deep + '.').find("nested"), std::string::npos);
  EXPECT_NE(refusal("](K\x01]"
                    "ee."s +
                        "",
                    {.depth = 0}),
            "");
  EXPECT_EQ(refusal("](K\x01K\x02"
                    "e."s,
                    {.depth = 0}),
            "");
  EXPECT_NE(refusal("](K\x01K\x02"
                    "e."s,
                    {.bytes = 5})
                .find("limit"),
            std::string::npos);
  EXPECT_NE(refusal("N\x94\x94\x94."s, {.memo = 2}).find("memo"), std::string::npos);
  EXPECT_NE(refusal("N\x94r\xff\xff\0\0."s).find("memo"), std::string::npos);
}

TEST(Pickle, ValuesThatUnfoldWithoutEndAreRefused) {
  EXPECT_EQ(refusal(bomb(10) + '.'), "");
  EXPECT_NE(refusal(bomb(60) + '.').find("more values"), std::string::npos);
  // As a key each level would be looked into again and again.
  const std::string key = bomb(20) + "}h\x14K\x01s."s;
  EXPECT_NE(refusal(key), "");
}

TEST(Pickle, CallsThatCopyAreCountedAgainstTheInput) {
  std::string program = "(";
  for (int i = 0; i < 10000; ++i) program += 'N';
  program +=
      "t\x94"
      "cbuiltins\nlist\n\x94](";
  for (int i = 0; i < 10000; ++i) program += "h\x01h\0\x85R"s;
  EXPECT_NE(refusal(program + "e.").find("more work"), std::string::npos);
}

TEST(Pickle, AHundredThousandKeysThatCollideInCPythonAreNoMoreWork) {
  // All are 0 modulo 2^k: a table of that size without a key of its own would search them all.
  std::string program = "}(";
  for (std::uint64_t i = 1; i <= 100000; ++i) {
    const std::uint64_t key = i << 40;
    program += "\x8a\x08"s + std::string(reinterpret_cast<const char*>(&key), 8) + 'N';
  }
  EXPECT_EQ(run(program + "u.").size(), 100000U);
}

TEST(Pickle, TheMemoKeepsTextWhereverItCameFrom) {
  const std::string text = "'a text that is not short'";
  EXPECT_EQ(run("Va text that is not short\np0\n0g0\n.").repr(), text);
  EXPECT_EQ(run("(\x8c\x18"
                "a text that is not short\x94h\0h\0e."s.replace(0, 1, "]("))
                .repr(),
            "[" + text + ", " + text + ", " + text + "]");
  EXPECT_EQ(run("(\x8c\x18"
                "a text that is not short\x94"
                "0\x8c\x18"
                "A TEXT THAT IS NOT SHORT"
                "\x94h\0h\x01t."s)
                .repr(),
            "('A TEXT THAT IS NOT SHORT', " + text + ", 'A TEXT THAT IS NOT SHORT')");
}

TEST(Pickle, ReadsWhatPython2Writes) {
  EXPECT_EQ(run("(dp1\nS'a\\x41\\n'\np2\nI1\ns."s).repr(), "{'aA\\n': 1}");
  EXPECT_EQ(run("c__builtin__\nxrange\n(K\x01K\x05tR."s).repr(), "range(1, 5)");
  EXPECT_EQ(run("cexceptions\nValueError\n(U\x01xtR."s).repr(), "ValueError('x')");
  EXPECT_NE(refusal("U\x01\xff."s), "");
}

TEST(Pickle, RefusesToWriteWhatMeansNothingElsewhere) {
  EXPECT_THROW(pickled(std::string("\xff\xfe")), ValueError);
  Object deep = 1;
  for (int i = 0; i < 3000; ++i) deep = List{std::move(deep)};
  EXPECT_THROW(pickled(deep), ValueError);
  wire::Writer out;
  out.put('x');
  EXPECT_THROW(pickle(out, List{1, std::string("\xff")}), ValueError);
  EXPECT_EQ(out.size(), 1U) << "a failure leaves the message as it was";
}

TEST(Pickle, ReadsArraysOfNumbersAsLists) {
  const Object value =
      run("carray\narray\n(\x8c\x01"
          "dC\x10\0\0\0\0\0\0\xf0?\0\0\0\0\0\0\0@tR."s);
  EXPECT_EQ(value.as<std::vector<double>>(), (std::vector<double>{1.0, 2.0}));
  EXPECT_NE(refusal("carray\narray\n(\x8c\x01"
                    "dC\x03"
                    "abctR."s),
            "");
}

}  // namespace
}  // namespace millrace::runtime
