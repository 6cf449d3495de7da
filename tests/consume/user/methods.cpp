// Functions of every kind to children of every kind: what must hold however a program is linked.
#include <cstdio>
#include <cstdlib>
#include <millrace/context.hpp>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <stdexcept>
#include <string>

namespace mp = millrace;

namespace {

struct Offset {
  int by;
  [[nodiscard]] int plus(int x) const { return x + by; }
};

struct OwnError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
MILLRACE_EXCEPTION(OwnError);

int square(int x) { return x * x; }

template <class Error, class F>
bool throws(mp::Pool& pool, F f) {
  try {
    pool.apply(f);
  } catch (const Error& error) {
    return std::string(error.what()) == "own";
  }
  return false;
}

int failures(const char* method, int by) {
  mp::Context& context = mp::get_context(method);
  mp::Pool pool({.processes = 2, .context = &context});
  int failed = 0;
  failed += pool.apply(square, 3) != 9;
  failed += pool.apply([by](int x) { return x + by; }, 3) != 3 + by;
  failed += pool.apply(mp::partial(&Offset::plus, Offset{7}), 1) != 8;
  failed += pool.apply([](const std::string& s) { return s + "!"; }, "a") != "a!";
  failed += !throws<OwnError>(pool, [] { throw OwnError("own"); });
  failed += !throws<std::out_of_range>(pool, [] { throw std::out_of_range("own"); });
  mp::Process child({.context = &context}, [by] { std::exit(by); });
  child.start();
  child.join();
  failed += child.exitcode() != by;
  if (failed != 0) std::printf("%s: %d failed\n", method, failed);
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  return failures("fork", 5) + failures("spawn", 6) + failures("forkserver", 7);
}
