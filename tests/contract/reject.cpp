// Forms that must not compile: -DCASE=n is one case each, 0 the control that does compile.
#include <functional>
#include <memory>
#include <millrace/millrace.hpp>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace mp = millrace;

int f(int);
void g();
std::thread makes_a_thread(int);

void cases(mp::Pool& pool, mp::ThreadPool& threads, std::vector<int> xs) {
#if CASE == 0
  mp::Process a(g);
  pool.apply(f, 1);
  xs = pool.map(f, xs);
  xs = pool.starmap(f, std::vector<std::tuple<int>>());
  pool.reduce(f, [](int a, int b) { return a + b; }, 0, xs);
  threads.reduce(f, [](int a, int b) { return a + b; }, 0, xs);
#elif CASE == 4
  mp::Process p([x = std::make_unique<int>(1)] {});
#elif CASE == 5
  mp::Process p(g, 1);
#elif CASE == 6
  mp::Process a(g);
  mp::Process b(a);
#elif CASE == 7
  mp::Process p({.daemon = true, .name = "w"}, g);
#elif CASE == 8
  int i = 0;
  pool.apply(f, &i);
#elif CASE == 11
  mp::Process p([](mp::Pool&) {}, pool);
#elif CASE == 12
  std::function<void()> h = g;
  mp::Process p(h);
#elif CASE == 13
  pool.map(f, std::vector<std::string>{"a"});
#elif CASE == 14
  mp::shared_array<std::string> s(3);
#elif CASE == 16
  mp::Connection c = mp::Pipe().first;
  c.recv<std::thread>();
#elif CASE == 17
  std::function<int(int)> h = f;
  pool.map(h, xs);
#elif CASE == 18
  pool.map([x = std::make_unique<int>(1)](int y) { return *x + y; }, xs);
#elif CASE == 19
  pool.map(makes_a_thread, xs);
#elif CASE == 20
  std::vector<std::string> out(xs.size());
  pool.map_into(f, xs, out);
#elif CASE == 21
  pool.starmap(f, xs);
#elif CASE == 22
  pool.starmap_async(f, std::vector<std::pair<int, int>>());
#elif CASE == 23
  pool.reduce(f, f, 0, xs);
#elif CASE == 24
  pool.reduce([](int) { return std::string(); }, [](int a, int) { return a; }, 0, xs);
#elif CASE == 25
  threads.starmap(f, std::vector<std::pair<int, int>>());
#elif CASE == 26
  threads.reduce(f, [](int, std::string) { return 0; }, 0, xs);
#endif
  (void)pool;
  (void)threads;
  (void)xs;
}
