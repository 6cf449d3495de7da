// Python's documentation, "Server process" and "Proxy Objects": a dict and a list that a child
// changes, nested proxies, a Namespace.
//
//   def f(d, l):
//       d[1] = '1'
//       d['2'] = 2
//       d[0.25] = None
//       l.reverse()
//   with Manager() as manager:
//       d = manager.dict()
//       l = manager.list(range(10))
//       p = Process(target=f, args=(d, l))
#include <iostream>
#include <millrace/millrace.hpp>

namespace mp = millrace;

void f(const mp::DictProxy& d, const mp::ListProxy& l) {
  d[1] = "1";
  d["2"] = 2;
  d[0.25] = mp::None;
  l.reverse();
}

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 1) mp::set_start_method(argv[1]);
  const mp::SyncManager manager = mp::Manager();

  const mp::DictProxy d = manager.dict();
  const mp::ListProxy l = manager.list(std::views::iota(0, 10));
  mp::Process p(f, d, l);
  p.start();
  p.join();
  std::cout << d << '\n' << l << '\n';

  // A proxy inside another shared object stays a proxy; a plain list inside does not.
  const mp::ListProxy outer = manager.list();
  const mp::DictProxy first = manager.dict();
  outer.append(first);
  outer.append(mp::List{1, 2});
  first["a"] = 1;
  outer[0].as<mp::DictProxy>()["b"] = 2;
  mp::List second = outer[1].as<mp::List>();
  second.append(3);
  std::cout << first << ' ' << outer[1] << '\n';
  outer[1] = second;
  std::cout << outer[1] << '\n';

  // Attributes that begin with an underscore are not printed.
  const mp::NamespaceProxy global = manager.Namespace();
  global["x"] = 10;
  global["y"] = "hello";
  global["_z"] = 12.3;
  std::cout << global << '\n';

  const mp::ListProxy squares = manager.list({0, 1, 4});
  std::cout << squares.slice(1, 3) << ' ' << (squares == manager.list({0, 1, 4})) << '\n';
}
