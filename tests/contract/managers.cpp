// Every call form of managers and proxies. It compiles with every compiler at hand; nothing is run.
#include <iostream>
#include <millrace/millrace.hpp>

namespace mp = millrace;
using namespace std::chrono_literals;

class Maths {
 public:
  Maths() = default;
  explicit Maths(int base);
  int add(int a, int b) const;
  double mul(double a, double b);
  void reset() noexcept;
  std::string name() const;
};
struct MathsProxy : mp::BaseProxy {
  using BaseProxy::BaseProxy;
  int add(int a, int b) const { return call<int>("add", a, b); }
};
int square(int x);
void greet(const std::string& name);

void containers(std::string text) {
  auto m = mp::Manager();
  auto d0 = m.dict();
  auto d = m.dict({{1, "1"}});
  auto d2 = m.dict({{"a", 1}, {"b", mp::None}});
  auto d3 = m.dict(std::map<std::string, int>{{"x", 1}});
  auto d4 = m.dict({{"a", "b"}, {"c", "d"}});
  auto l0 = m.list();
  auto l = m.list({1, 2, 3});
  auto lx = m.list({1, "a", 2.5, mp::None});
  auto lr = m.list(std::views::iota(0, 10));
  std::vector<int> xs{1};
  auto lv = m.list(xs);
  auto ls = m.list({"a", "b"});
  auto ln = m.list({mp::List{1, 2}, mp::List{3}});
  auto l1 = m.list({d, l});
  auto ldup = m.list({1});
  d["k"] = 5;
  d[1] = l;
  d["n"] = mp::None;
  d["t"] = text;
  mp::Object o = d["k"];
  int k = d["k"].as<int>();
  k = d.get("zz", 3).as<int>();
  d.update({{"a", 1}});
  mp::ListProxy live = d[1].as<mp::ListProxy>();
  if (d["k"] == 5) d.erase("k");
  std::cout << d << d.repr() << d.size() << d.contains("k");
  l.append(1);
  l.append(d);
  l.extend({1, 2});
  l.insert(0, "x");
  l.pop();
  l.remove(1);
  l.reverse();
  l.sort();
  l[0] = 2;
  l[-1] = l[0];
  k = l[0].as<int>();
  mp::List part = l.slice(0, 2);
  l.slice(0, 1, {7, 8});
  mp::Object cpy = l.getvalue();
  (void)(l == lx);
  (void)part;
  (void)o;
  (void)k;
}

void locks_and_values(const mp::DictProxy& d, const mp::ListProxy& l) {
  auto m = mp::Manager();
  std::vector<int> xs{1};
  int k = 0;
  mp::Object o;
  auto ns = m.Namespace();
  auto ns2 = m.Namespace({{"x", 1}});
  ns["x"] = 10;
  k = ns["x"].as<int>();
  ns.erase("x");
  auto lk = m.Lock();
  { std::scoped_lock g(lk); }
  lk.acquire();
  lk.release();
  auto rl = m.RLock();
  auto se = m.Semaphore(2);
  auto bs = m.BoundedSemaphore(2);
  auto c = m.Condition();
  auto c2 = m.Condition(lk);
  auto ev = m.Event();
  auto ba = m.Barrier(2);
  auto bb = m.Barrier(
      2, [] {}, 1s);
  auto q = m.Queue(5);
  auto jq = m.JoinableQueue();
  q.put(1);
  k = q.get<int>();
  o = q.get(1s);
  auto v = m.Value('i', 3);
  v.set(4);
  k = v.get<int>();
  auto a = m.Array('d', {1.0, 2.0});
  auto a2 = m.Array('i', xs);
  a[0] = 3;
  auto po = m.Pool(2);
  std::vector<int> out = po.map(square, xs);
  auto st = m.set({1, 2});
  mp::Process([d, l] {
    d["x"] = 1;
    l.append(2);
  }).start();

  (void)out;
  (void)o;
  (void)k;
}

void base_managers(mp::Context& ctx) {
  int k = 0;
  mp::BaseManager b({.address = {"", 50000}, .authkey = "abracadabra"});
  mp::BaseManager b0;
  mp::BaseManager b1({.address = "/tmp/x",
                      .authkey = "k",
                      .context = &mp::get_context("spawn"),
                      .shutdown_timeout = 2s,
                      .legacy_md5 = true});
  b.register_type<Maths>("Maths", {{"add", &Maths::add}});
  b.register_type<Maths>("Maths", {{"add", &Maths::add},
                                   {"mul", &Maths::mul},
                                   {"reset", &Maths::reset},
                                   {"twice", [](Maths& x, int y) { return x.add(y, y); }}});
  b.register_type<Maths, int>("Maths2", {{"add", &Maths::add}});
  b.register_callable("get_queue", [q = mp::Queue<>()] { return q; });
  b.register_callable("maths", [] { return std::make_shared<Maths>(); },
                      {{"add", &Maths::add}, {"mul", &Maths::mul}});
  b.start();
  b.start(greet, "init");
  b.connect();
  (void)b.address();
  b.get_server().serve_forever();
  b.shutdown();
  b.join(1s);
  auto p = b.create("Maths");
  auto p2 = b.create("Maths2", 5);
  k = p.call<int>("add", 4, 3);
  p.call("reset");
  p.call<void>("reset");
  mp::Object dyn = p.call("add", 4, 3);
  auto tp = b.create<MathsProxy>("Maths");
  k = tp.add(1, 2);
  auto qp = b.create<mp::QueueProxy>("get_queue");
  std::cout << p << p.repr() << p.token().id;
  mp::Process([tp] { tp.add(1, 2); }).start();
  struct MyManager : mp::BaseManager {
    MyManager() { register_type<Maths>("Maths", {{"add", &Maths::add}}); }
  } mine;
  mine.start();
  mp::BaseManager m9;
  m9.register_callable("maths", [] { return std::make_shared<Maths>(); }, {{"add", &Maths::add}},
                       {.create_method = false, .method_to_typeid = {{"iter", "Iterator"}}});
  auto from_context = ctx.Manager();
  (void)dyn;
  (void)k;
}
