// Pool: what goes wrong, and how it is told. PYTHON.md O02, O04, O10-O13, O20, O21, and CPython's
// _TestPool.test_traceback, test_wrapped_exception, test_map_unplicklable, test_release_task_refs,
// test_terminate, TestPoolNotLeakOnFailure.
#include <climits>
#include <memory>
#include <millrace/cereal.hpp>
#include <millrace/exceptions.hpp>
#include <millrace/logging.hpp>
#include <millrace/pool.hpp>
#include <stdexcept>
#include <thread>

#include "tests/api/pool_fixture.hpp"

struct Declared : std::runtime_error {
  using runtime_error::runtime_error;
};
MILLRACE_EXCEPTION(Declared);

namespace {

namespace mp = millrace;
using namespace std::chrono_literals;
using millrace::test::add;
using millrace::test::apply_here;
using millrace::test::Gate;
using millrace::test::numbers;
using millrace::test::PoolTest;
using millrace::test::run_program;
using millrace::test::square;

class PoolErrors : public millrace::test::PoolOfAnySize {};
MILLRACE_POOL_SIZES(PoolErrors);

struct Undeclared : std::runtime_error {
  using runtime_error::runtime_error;
};

[[gnu::noinline]] int throw_deep_inside(int x) {
  if (x >= 0) throw std::out_of_range("item " + std::to_string(x));
  return x;
}

/// Cannot be sent when it says so.
struct Stubborn {
  bool refuses = false;
  template <class Archive>
  void save(Archive& archive) const {
    if (refuses) throw std::runtime_error("will not travel");
    archive(refuses);
  }
  template <class Archive>
  void load(Archive& archive) {
    archive(refuses);
  }
};

// O23, test_pickling: a pool stays in its process; Python says so when it is sent
static_assert(!mp::Serializable<mp::Pool> && !mp::Serializable<mp::AsyncResult<int>>);

// O02, O10: the forms of ValueError
TEST_P(PoolErrors, ClosedAndTerminatedPoolsTakeNoWork) {
  const auto expect_closed = [](mp::Pool& pool) {
    std::vector<int> out(1);
    EXPECT_THROW(pool.apply(square, 1), mp::ValueError);
    EXPECT_THROW((void)pool.apply_async(square, 1), mp::ValueError);
    EXPECT_THROW(pool.map(square, {1}), mp::ValueError);
    EXPECT_THROW(pool.map(square, std::vector<int>{}), mp::ValueError);
    EXPECT_THROW((void)pool.map_async(square, {1}), mp::ValueError);
    EXPECT_THROW(pool.starmap(add, {{1, 2}}), mp::ValueError);
    EXPECT_THROW((void)pool.imap(square, {1}), mp::ValueError);
    EXPECT_THROW((void)pool.imap_unordered(square, {1}), mp::ValueError);
    EXPECT_THROW(pool.parallel_for(1, [](std::size_t) {}), mp::ValueError);
    EXPECT_THROW(pool.map_into(square, numbers(1), out), mp::ValueError);
    EXPECT_THROW((void)pool.reduce(square, add, 0, numbers(1)), mp::ValueError);
    try {
      pool.apply(square, 1);
    } catch (const mp::ValueError& error) {
      EXPECT_STREQ(error.what(), "Pool not running");
    }
  };
  mp::Pool pool(workers());
  EXPECT_THROW(pool.join(), mp::ValueError);
  pool.close();
  pool.close();
  expect_closed(pool);
  pool.join();
  pool.join();
  expect_closed(pool);
  mp::Pool other(workers());
  other.terminate();
  other.terminate();
  expect_closed(other);
  other.join();
  other.join();
  other.close();
  EXPECT_EQ(other.repr().find("RUN"), std::string::npos);
  other.terminate();
}

TEST_P(PoolErrors, ChunksizesBelowOneAreValueErrors) {
  mp::Pool pool(workers());
  for (const int chunk : {0, -1}) {
    EXPECT_THROW(pool.map(square, {1}, chunk), mp::ValueError);
    EXPECT_THROW((void)pool.map_async(square, {1}, chunk), mp::ValueError);
    EXPECT_THROW((void)pool.imap(square, {1}, chunk), mp::ValueError);
    EXPECT_THROW((void)pool.imap_unordered(square, {1}, {.chunksize = chunk}), mp::ValueError);
    EXPECT_THROW(pool.parallel_for(1, [](std::size_t) {}, {.chunksize = chunk}), mp::ValueError);
    EXPECT_THROW((void)pool.reduce(square, add, 0, numbers(1), {.chunksize = chunk}),
                 mp::ValueError);
  }
  EXPECT_EQ(pool.apply(square, 2), 4);
}

// Beyond Python: what it does not have is checked as what it has.
TEST_P(PoolErrors, NegativeRetriesAndNodesAreValueErrors) {
  mp::Pool pool(workers());
  std::vector<int> out(1);
  EXPECT_THROW(pool.apply({.retries = -1}, square, 1), mp::ValueError);
  EXPECT_THROW((void)pool.apply_async({.retries = -1}, square, 1), mp::ValueError);
  EXPECT_THROW(pool.map(square, {1}, {.retries = -1}), mp::ValueError);
  EXPECT_THROW(pool.map(square, std::vector<int>{}, {.retries = -1}), mp::ValueError);
  EXPECT_THROW((void)pool.map_async(square, {1}, {.retries = -1}), mp::ValueError);
  EXPECT_THROW((void)pool.imap(square, {1}, {.retries = -1}), mp::ValueError);
  EXPECT_THROW(pool.parallel_for(1, [](std::size_t) {}, {.retries = -1}), mp::ValueError);
  EXPECT_THROW(pool.map_into(square, numbers(1), out, {.retries = -1}), mp::ValueError);
  EXPECT_THROW((void)pool.reduce(square, add, 0, numbers(1), {.retries = -1}), mp::ValueError);
  EXPECT_THROW(pool.apply({.node = -2}, square, 1), mp::ValueError);
  EXPECT_EQ(pool.apply({.retries = INT_MAX}, square, 2), 4);
}

// O21, _TestPool.test_traceback: type, text and the stack of the worker
TEST_P(PoolErrors, ExceptionsKeepTypeTextAndStack) {
  mp::Pool pool(workers());
  const auto check = [](const std::out_of_range& error) {
    EXPECT_STREQ(error.what(), "item 5");
    const std::string trace = mp::remote_traceback(error);
    EXPECT_NE(trace, "");
    EXPECT_EQ(mp::remote_traceback(std::out_of_range("local")), "");
  };
  for (int form = 0; form < 4; ++form) {
    try {
      if (form == 0) pool.apply(throw_deep_inside, 5);
      if (form == 1) pool.map(throw_deep_inside, {5});
      if (form == 2) (void)pool.imap(throw_deep_inside, {5}).next();
      if (form == 3) (void)pool.apply_async(throw_deep_inside, 5).get();
      FAIL() << form;
    } catch (const std::out_of_range& error) {
      check(error);
    }
  }
}

TEST_P(PoolErrors, StandardDeclaredAndOtherTypes) {
  mp::Pool pool(workers());
  EXPECT_THROW(pool.apply([] { throw Declared("d"); }), Declared);
  EXPECT_THROW(pool.apply([] { throw mp::KeyError("k"); }), mp::KeyError);
  EXPECT_THROW(pool.apply([] { throw std::bad_alloc(); }), std::bad_alloc);
  EXPECT_THROW(pool.apply([] { throw std::system_error(ENOSPC, std::generic_category(), "disk"); }),
               std::system_error);
  for (const int chunk : {1, 3}) {
    EXPECT_THROW(pool.map([](int) -> int { throw Declared("d"); }, numbers(6), chunk), Declared);
  }
  try {
    pool.apply([] { throw Undeclared("text"); });
    FAIL();
  } catch (const mp::RemoteError& error) {
    EXPECT_NE(error.type_name().find("Undeclared"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("text"), std::string::npos);
  }
  EXPECT_THROW(pool.apply([] { throw 42; }), mp::RemoteError);
  EXPECT_EQ(pool.apply(square, 2), 4);
}

// O04: the first failure to arrive, once every chunk has finished
TEST_P(PoolErrors, MapRethrowsWhenEveryChunkHasEnded) {
  mp::Pool pool(workers());
  const Gate ran;
  const auto fail_on_even = [ran](int x) {
    ran.arrive();
    if (x % 2 == 0) throw std::domain_error(std::to_string(x));
    return std::string(static_cast<std::size_t>(x), 'x');
  };
  EXPECT_THROW(pool.map(fail_on_even, numbers(40), 1), std::domain_error);
  EXPECT_EQ(ran.arrived(), 40);
  EXPECT_THROW(pool.map(fail_on_even, numbers(40), 2), std::domain_error);
  EXPECT_EQ(ran.arrived(), 60);  // an error ends its chunk
  EXPECT_EQ(pool.map(square, numbers(40)), apply_here(square, numbers(40)));
}

// O20, _TestPool.test_unpickleable_result: the worker lives
TEST_P(PoolErrors, AResultThatCannotTravelIsMaybeEncodingError) {
  mp::Pool pool(workers());
  const auto make = [](int x) { return Stubborn{x == 3}; };
  EXPECT_THROW(pool.apply(make, 3), mp::MaybeEncodingError);
  EXPECT_THROW(pool.map(make, numbers(5), 2), mp::MaybeEncodingError);
  auto results = pool.imap(make, numbers(5), 2);
  for (int i = 0; i < 5; ++i) {
    if (i == 3) {
      EXPECT_THROW((void)results.next(), mp::MaybeEncodingError);
    } else {
      EXPECT_FALSE(results.next()->refuses);
    }
  }
  for (const auto& worker : pool.bindings()) EXPECT_NE(worker.pid, 0);
  EXPECT_FALSE(pool.apply(make, 1).refuses);
}

// an argument that cannot travel fails its call and nothing else
TEST_P(PoolErrors, AnArgumentThatCannotTravelFailsItsCall) {
  mp::Pool pool(workers());
  const auto take = [](const Stubborn& s) { return s.refuses; };
  EXPECT_THROW(pool.apply(take, Stubborn{true}), std::runtime_error);
  EXPECT_THROW(pool.map(take, std::vector<Stubborn>{{false}, {true}}, 1), std::runtime_error);
  EXPECT_THROW((void)pool.map_async(take, std::vector<Stubborn>{{true}}).get(), std::runtime_error);
  auto results = pool.imap(take, std::vector<Stubborn>{{false}, {true}});
  EXPECT_EQ(results.next(), false);
  EXPECT_THROW((void)results.next(), std::runtime_error);
  EXPECT_EQ(pool.apply(take, Stubborn{}), false);
}

// O11, _TestPool.test_terminate: beyond Python pending results fail
TEST_P(PoolErrors, TerminateEndsRunningTasks) {
  mp::Pool pool(workers());
  auto sleeping = pool.map_async([](int) { ::sleep(1000); }, numbers(100), 1);
  pool.terminate();
  EXPECT_THROW(sleeping.get(), mp::PoolTerminated);
  pool.join();
}

// a callback that throws is logged and harms nothing
TEST_P(PoolErrors, ARaisingCallbackHarmsNothing) {
  mp::Pool pool(workers());
  for (int i = 0; i < 3; ++i) {
    auto result = pool.apply_async({.callback = [](int) { throw std::runtime_error("callback"); }},
                                   square, 3);
    EXPECT_EQ(result.get(), 9);
    auto failed = pool.apply_async({.error_callback = [](const std::exception_ptr&) { throw 1; }},
                                   throw_deep_inside, 3);
    EXPECT_THROW(failed.get(), std::out_of_range);
  }
  EXPECT_EQ(pool.map_async(square, {1, 2}, {.callback = [](auto&&) { throw 2; }}).get(),
            (std::vector<int>{1, 4}));
}

TEST_F(PoolTest, ARaisingCallbackIsLogged) {
  const std::string line = "a pool's callback threw: std::runtime_error: from the callback\n";
  for (const bool handler : {false, true}) {
    const auto program = run_program([handler] {
      if (handler) mp::log_to_stderr();
      mp::Pool pool(1);
      pool.apply_async({.callback = [](int) { throw std::runtime_error("from the callback"); }},
                       square, 3)
          .get();
    });
    EXPECT_EQ(program.exitcode, 0);
    EXPECT_EQ(program.err, handler ? "[ERROR/MainProcess] " + line : line);
  }
}

}  // namespace
