// Every call form that synchronize.hpp and sharedctypes.hpp promise. Types only: nothing here is
// run.
#include <algorithm>
#include <iostream>
#include <millrace/millrace.hpp>
#include <ranges>

namespace mp = millrace;
using namespace std::chrono_literals;

struct Point {
  double x, y;
};

double f0();
void locked(mp::Lock& lock, int i);

static_assert(mp::Serializable<mp::Lock> && mp::Serializable<mp::Value<int>> &&
              mp::Serializable<mp::Array<double>> && mp::Serializable<mp::RawArray<Point>>);

template <class L>
void lockable(const L& lock) {
  { const std::scoped_lock k(lock); }
  { const std::lock_guard k(lock); }
  {
    std::unique_lock k(lock, std::defer_lock);
    if (k.try_lock_for(1s)) k.unlock();
    if (k.try_lock_until(std::chrono::steady_clock::now() + 1s)) k.unlock();
  }
  { const std::unique_lock k(lock, 10ms); }
  lock.acquire();
  if (lock.acquire(1s)) lock.release();
  if (lock.acquire(std::nullopt)) lock.release();
  if (lock.try_acquire()) lock.release();
}

void processes() {
  mp::Lock lock;
  mp::Process e({.name = "w"}, locked, lock, 1);
  for (int n = 0; n < 10; ++n) mp::Process(locked, lock, n).start();
  const mp::Process p([lock] { const std::scoped_lock k(lock); });
}

void contexts(mp::Context& ctx) {
  auto l = ctx.Lock();
  mp::RLock r = ctx.RLock();
  auto s = ctx.Semaphore(3);
  auto bs = ctx.BoundedSemaphore();
  auto c = ctx.Condition(l);
  auto c2 = ctx.Condition();
  auto ev = ctx.Event();
  auto br = ctx.Barrier(3);
  auto br2 = ctx.Barrier(
      3, [] {}, 5s);
  auto br3 = ctx.Barrier(3, {}, 5s);
  auto v = ctx.Value<int>(7);
  auto v2 = ctx.Value<Point>({1, 2}, {.lock = l});
  auto ar = ctx.Array<int>(10);
  auto ar2 = ctx.Array<int>({1, 2, 3});
  auto rv = ctx.RawValue<double>(1.0);
  auto ra = ctx.RawArray<double>(10);
}

void synchronisation() {
  mp::Lock l;
  mp::RLock r;
  mp::Semaphore s;
  mp::Semaphore s3(3);
  mp::BoundedSemaphore bs(2);
  mp::Condition c;
  mp::Condition cl(l);
  mp::Condition cr(r);
  mp::Event e;
  mp::Barrier b(3);
  mp::Barrier b2(3, [] { std::cout << "all"; });
  mp::Barrier b3(3, {}, 5s);
  mp::Barrier b4(3, f0, 1s);
  lockable(l);
  lockable(r);
  lockable(s);
  lockable(bs);
  lockable(c);
  lockable(mp::Value<int>(1));
  lockable(mp::Array<int>(1));
  { std::scoped_lock k(l, r); }
  {
    const mp::Lock cl2 = l;
    std::scoped_lock k(cl2);
    std::unique_lock u(cl2, std::defer_lock);
  }
  std::cout << s.get_value() << l.locked() << l.repr() << b.wait() << b.wait(1s) << b.parties()
            << b.n_waiting() << b.broken();
  b.reset();
  b.abort();
  std::cout << l << r << s << bs << c << e << b << (l == mp::Lock()) << mp::Value<int>(1)
            << mp::Array<int>(1) << mp::RawValue<int>(1);
  {
    std::scoped_lock k(c);
    c.wait();
    bool ok = c.wait(1s);
    int n = 0;
    ok = c.wait_for([&] { return n > 0; }, 1s);
    c.notify();
    c.notify(2);
    c.notify_all();
    (void)ok;
  }
  e.set();
  e.clear();
  (void)e.is_set();
  e.wait();
  bool set = e.wait(1s);
  (void)set;
  try {
    l.acquire();
  } catch (const mp::AbandonedLock& a) {
    std::cout << a.pid() << a.what();
    a.keep();
  } catch (const mp::BrokenBarrierError&) {
  }
}

void values() {
  mp::Lock l;
  mp::RLock rl;
  mp::Value<double> n(0.0);
  mp::Value<int> z;
  mp::Value deduced(3);
  static_assert(std::same_as<decltype(deduced), mp::Value<int>>);
  mp::Value<Point> p({1, 2}, {.lock = l});
  mp::Value<int> pr(1, {.lock = rl});
  n.set(n.get() + 1);
  n.update([](double& x) { x += 1; });
  {
    std::scoped_lock k(n);
    p.get_obj().x = 3;
  }
  { std::scoped_lock k(n.get_lock()); }
  (void)n.get_lock();
  mp::Process([n, l] {
    std::scoped_lock k(l);
    n.set(n.get() + 1);
  }).start();
  mp::RawValue<int> rv(7);
  auto cp = mp::sharedctypes::copy(rv);
  mp::Value<int> sy = mp::sharedctypes::synchronized(rv);
  mp::Value<int> sl = mp::sharedctypes::synchronized(rv, l);
}

void arrays(std::vector<int> xs) {
  mp::Lock l;
  mp::Array<int> a(10);
  mp::Array<int> b({1, 2, 3});
  mp::Array<int> c{1, 2, 3};
  mp::Array<int> d(xs);
  mp::Array<int> e(std::views::iota(0, 5));
  mp::Array<char> s("hello");
  mp::Array<int> g(10, {.lock = l});
  mp::Array<int> h(xs, {.lock = l});
  mp::Array<int> same(a);
  const mp::Array<int> ca = a;
  ca[0] = 1;
  int x = a[-1];
  a[1] = a[2];
  x = a.at(-1);
  std::vector<int> v = a.to_vector();
  v = a.slice(1, 3);
  a.slice(0, 2, std::vector<int>{1, 2});
  for (int y : a.get_obj()) x += y;
  std::cout << a.size() << s.value() << s.raw();
  s.value("x");
  (void)x;
  mp::RawArray<double> ra(10);
  ra[0] = 1;
  mp::RawArray<int> rb{1, 2};
  mp::RawArray<int> rc({1, 2});
  mp::RawArray<int> rd(xs);
  for (double& y : ra) y = 0;
  std::ranges::sort(ra);
  static_assert(std::ranges::contiguous_range<mp::RawArray<double>>);
  mp::Array<double> sa = mp::sharedctypes::synchronized(ra, l);
  auto cp = mp::sharedctypes::copy(ra);
}

void pools(mp::Pool& pool) {
  mp::RawArray<int> r{1, 2};
  std::vector<int> out = pool.map([](int x) { return x; }, r);
  std::vector<mp::Lock> locks(3);
  pool.apply([](const std::vector<mp::Lock>&) {}, locks);
}
