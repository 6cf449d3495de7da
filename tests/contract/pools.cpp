// Every form in which pools and arrays can be called. It has to compile, and without a warning.
#include <algorithm>
#include <array>
#include <functional>
#include <iostream>
#include <map>
#include <millrace/millrace.hpp>
#include <optional>
#include <ranges>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace mp = millrace;
using namespace std::chrono_literals;

namespace {

struct Point {
  double x, y;
};
struct Rich {
  std::string name;
  std::vector<double> values;
};
struct Maths {
  int base = 0;
  std::string name() const { return std::to_string(base); }
};
struct Scale {
  std::string unit;
  double factor;
  double operator()(double x) const { return factor * x; }
};
struct MyError : std::runtime_error {
  using runtime_error::runtime_error;
};

int square(int x) { return x * x; }
int add(int a, int b) { return a + b; }
bool even(int x) { return x % 2 == 0; }
double f0() { return 0; }
double norm(const Point& p) { return p.x + p.y; }
std::size_t width(const std::string& s) { return s.size(); }
void greet(const std::string&) {}
Rich rich(int) { return {}; }

/// A single-pass, move-only generator.
class Countdown : public std::ranges::view_interface<Countdown> {
 public:
  explicit Countdown(int n) : n_(n) {}
  Countdown(Countdown&&) = default;
  Countdown& operator=(Countdown&&) = default;
  struct Iterator {
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const { return from->n_; }
    Iterator& operator++() {
      --from->n_;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return from->n_ == 0; }
    Countdown* from = nullptr;
  };
  Iterator begin() { return {this}; }
  std::default_sentinel_t end() { return {}; }

 private:
  int n_;
};

}  // namespace

MILLRACE_EXCEPTION(MyError);

void constructors() {
  mp::Pool standard;
  mp::Pool four(4);
  mp::Pool named({.processes = 2,
                  .maxtasksperchild = 10,
                  .bind = "numa",
                  .context = &mp::get_context("fork")});
  mp::Pool initialised({.processes = 2}, greet, "init");
  mp::Pool short_form(4, greet, "init");
  mp::Pool wide({.cores_per_worker = 4, .trace = "run.json"});
  mp::Pool moved(std::move(four));
  std::cout << moved << moved.repr();
}

void apply(mp::Pool& pool) {
  int r = pool.apply(add, 1, 2);
  pool.apply(greet, "bob");
  r = pool.apply([](int x) { return x; }, 1);
  const std::string name = pool.apply(&Maths::name, Maths());
  r = pool.apply({.timeout = 1s, .retries = 2}, add, 1, 2);
  auto one = pool.apply_async(add, 1, 2);
  pool.apply_async(greet, "bob");
  auto with_callback = pool.apply_async({.callback = [&](int x) { r += x; }}, square, 3);
  auto generic = pool.apply_async(
      {.callback = [](auto) {}, .error_callback = [](std::exception_ptr) {}}, square, 3);
  auto nothing = pool.apply_async({.callback = [] {}}, greet, "x");
  pool.apply_async({.error_callback = [](auto) {}, .timeout = 2s}, square, 3);
  r = one.get();
  r = one.get(1s);
  const int moved = pool.apply_async(add, 1, 2).get(1s);
  one.wait();
  if (one.wait(1s) && one.ready() && one.successful()) one.cancel();
  nothing.get();
  std::vector<mp::AsyncResult<int>> results;
  results.push_back(std::move(one));
  std::cout << r << name << moved;
}

void map(mp::Pool& pool, std::vector<int> xs, const std::vector<int>& constant) {
  const double k = 2.5;
  const std::size_t n = 8;
  std::vector<int> out = pool.map(square, xs);
  out = pool.map(square, {1, 2, 3});
  out = pool.map(square, constant, {.chunksize = 64});
  out = pool.map(square, xs, 64);
  out = pool.map(square, {1, 2, 3}, {.chunksize = 2, .retries = 1});
  out = pool.map(square, {1, 2, 3}, 2);
  out = pool.map(square, std::views::iota(0, 10));
  out = pool.map(square, xs | std::views::filter(even));
  out = pool.map(square, std::vector<int>{1});
  out = pool.map(square, Countdown(5));
  Countdown generator(3);
  out = pool.map(square, generator);
  out = pool.map([k](int x) { return static_cast<int>(x * k); }, xs);
  const std::vector<std::size_t> widths = pool.map(width, {"a", "bb"});
  const std::vector<double> norms = pool.map(norm, std::vector<Point>(3));
  pool.map([](int) {}, xs);
  const std::vector<Rich> riches = pool.map(rich, xs);
  pool.map(greet, std::vector<std::string>{"a"});
  out = pool.map(mp::partial(add, 10), xs);
  out = pool.map(square, xs, {.chunksize = mp::automatic});
  pool.map([](auto& x) { return x + 1; }, xs);
  pool.map(square, xs, n);
  pool.map(square, xs, {.chunksize = n});
  out = pool.map(square, xs, {});
  mp::Sendable auto bound = mp::partial(add, 1);
  out = pool.map(bound, xs);
  const std::vector<double> scaled = pool.map(Scale{"m", 2.0}, std::vector<double>{1.0});
  pool.map(square, xs, {.progress = mp::progress_bar("squares")});
  pool.map(square, xs, {.progress = mp::progress_bar(), .joblog = "log", .resume = true});
  pool.map(square, xs, {.progress = [](const mp::Progress& now) {
             std::cout << now.done << now.total << now.elapsed.count();
           }});
}

void starmap(mp::Pool& pool) {
  const std::vector<std::pair<int, int>> pairs{{1, 2}};
  const std::vector<std::tuple<int, int>> tuples;
  std::vector<int> out = pool.starmap(add, pairs);
  out = pool.starmap(add, tuples, {.chunksize = 4});
  out = pool.starmap(add, {{1, 2}, {3, 4}});
  out = pool.starmap(add, {std::pair{1, 2}, std::pair{3, 4}});
  out = pool.starmap(add, {std::tuple{1, 2}, std::tuple{3, 4}});
  out = pool.starmap(square, {1, 2});
  const std::initializer_list<std::tuple<int, int>> list{{1, 2}, {3, 4}};
  out = pool.starmap(add, list);
  out = pool.starmap([](int a, double b) { return a + static_cast<int>(b); }, {{1, 2.0}, {3, 4.0}});
  out = pool.starmap(add, {{1, 2}});
  out = pool.starmap(add, std::vector<std::array<int, 2>>{{1, 2}});
  auto later = pool.starmap_async(add, pairs, {.callback = [](auto&&) {}});
  out = later.get();
}

void map_async(mp::Pool& pool, std::vector<int> xs) {
  std::vector<int> out;
  auto plain = pool.map_async(square, xs);
  auto all = pool.map_async(square, xs,
                            {.chunksize = 3,
                             .callback = [&](const std::vector<int>& v) { out = v; },
                             .error_callback = [](std::exception_ptr) {}});
  auto listed = pool.map_async(square, {1, 2, 3}, {.callback = [](auto&&) {}});
  out = plain.get();
  out = pool.map_async(square, xs).get();
  auto nothing = pool.map_async([](int) {}, xs, {.callback = [] {}});
  nothing.get(5s);
  auto chunked = pool.map_async(square, xs, 4);
  const std::vector<int>& view = plain.get();
  std::cout << view.size();
}

void imap(mp::Pool& pool, std::vector<int> xs) {
  int r = 0;
  auto it = pool.imap(square, xs);
  std::optional<int> one = it.next();
  one = it.next(1s);
  for (auto&& v : it) r += v;
  for (int v : pool.imap(square, Countdown(4), {.chunksize = 2, .window = 100})) r += v;
  Countdown generator(3);
  for (int v : pool.imap_unordered(square, generator, 8)) r += v;
  for (auto&& v : pool.imap(square, {1, 2, 3})) r += v;
  for (int v : pool.imap(square, xs) | std::views::take(2)) r += v;
  auto nothing = pool.imap(greet, std::vector<std::string>{"a"});
  nothing.next();
  auto chunked = pool.imap(square, Countdown(3), 2);
  try {
    while (auto v = chunked.next(1s)) r += *v;
  } catch (const mp::TimeoutError&) {
    std::cout << r;
  }
}

void collect(mp::Pool& pool, std::vector<int> xs) {
  const std::vector<std::string> names{"a"};
  const std::vector<std::pair<int, int>> pairs{{1, 2}};
  [[maybe_unused]] int r = 0;
  const std::vector<mp::Outcome<int>> all =
      pool.map(square, xs, {.chunksize = 4, .timeout = 1s, .on_error = mp::collect});
  for (const auto& one : all) {
    if (one) {
      r += one.value();
    } else if (one.oom() || one.signal() != 0) {
      std::cout << one.pid() << one.cpu() << one.duration().count();
    } else {
      std::rethrow_exception(one.error());
    }
  }
  for (auto&& one : pool.imap(square, xs, {.on_error = mp::collect})) {
    if (one) r += one.value();
  }
  auto none = pool.map(greet, names, {.on_error = mp::collect});
  auto later = pool.map_async(
      square, xs,
      {.chunksize = 2, .callback = [](const auto& v) { (void)v.size(); }, .on_error = mp::collect});
  const std::vector<mp::Outcome<int>> got = later.get();
  auto stars = pool.starmap(add, pairs, {.on_error = mp::collect});
  const std::vector<int> out = pool.map(square, xs, {.on_error = mp::raise});
  std::cout << r;
}

void arrays(mp::Pool& pool) {
  mp::shared_array<double> in(1000);
  const mp::shared_array<double> interleaved(1000, {.placement = mp::interleave});
  const mp::shared_array<double> block(10, {.placement = mp::block});
  const mp::shared_array<float> on_node(10, {.placement = mp::node(1)});
  const std::span<double> span = in.span();
  in[0] = 1;
  std::vector<int, mp::shared_allocator<int>> shared_vector;
  shared_vector.push_back(1);
  const std::map<int, int, std::less<>, mp::shared_allocator<std::pair<const int, int>>> shared_map;
  const mp::shared_array<double> res(1000);
  pool.map_into([](double x) { return x * x; }, in, res);
  pool.map_into([](double x) { return x * x; }, in.span(), res.span(), {.chunksize = 10});
  std::vector<double> from(3);
  std::vector<double> to(3);
  pool.map_into([](double x) { return x; }, from, to);
  pool.parallel_for(100, [s = res.span()](std::size_t i) { s[i] = 1; });
  pool.parallel_for(0, 100,
                    [s = res.span()](std::size_t first, std::size_t last) {
                      for (auto i = first; i < last; ++i) s[i] = 1;
                    },
                    {.chunksize = 16});
  pool.parallel_for(10, [](std::size_t) {}, {.chunksize = 4});
  const double sum = pool.reduce([](double x) { return x * x; }, std::plus<>{}, 0.0, in);
  const double big = pool.reduce([](double x) { return x; },
                                 [](double a, double b) { return std::max(a, b); }, 0.0, from);
  const int reduced = pool.reduce(square, add, 0, std::vector<int>{1}, {.chunksize = 8});
  const mp::shared_array<int> ints(4);
  const std::vector<int> out = pool.map(square, ints);
  std::cout << sum << big << reduced << span.size();
}

void rest(mp::Pool& pool) {
  for (const auto& w : pool.bindings()) std::cout << w.pid << w.cpus.size() << w.node << w.source;
  for (const auto& w : pool.stats()) std::cout << w.tasks << w.busy.count() << w.bytes;
  const auto plan = mp::affinity::plan("numa", 4);
  std::cout << plan[0].cpus.size() << mp::affinity::topology().distance(0, 1);
  try {
    pool.apply(f0);
  } catch (const mp::WorkerLost& e) {
    std::cout << e.pid() << e.exitcode() << e.oom() << e.first() << e.last();
  } catch (const mp::RemoteError& e) {
    std::cout << e.type_name() << e.what() << e.traceback();
  } catch (const MyError& e) {
    std::cout << mp::remote_traceback(e);
  } catch (...) {
    std::cout << mp::remote_traceback(std::current_exception());
  }
  pool.close();
  pool.join();
  pool.terminate();
}
