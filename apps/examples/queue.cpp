// Python's documentation, "Exchanging objects between processes":
//
//   def f(q): q.put([42, None, 'hello'])
//   q = Queue(); p = Process(target=f, args=(q,)); p.start()
//   print(q.get())    # prints "[42, None, 'hello']"
#include <iostream>
#include <millrace/millrace.hpp>

namespace mp = millrace;

namespace {

void f(const mp::Queue<>& q) { q.put(mp::List{42, mp::None, "hello"}); }

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 1) mp::set_start_method(argv[1]);
  mp::Queue q;
  mp::Process p(f, q);
  p.start();
  std::cout << q.get() << '\n';
  p.join();
}
