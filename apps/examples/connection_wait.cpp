// Python's documentation, "multiprocessing.connection.wait": messages of four children as they
// come.
//
//   while readers:
//       for r in wait(readers):
//           try:
//               msg = r.recv()
//           except EOFError:
//               readers.remove(r)
//           else:
//               print(msg)
#include <algorithm>
#include <iostream>
#include <millrace/millrace.hpp>
#include <string_view>
#include <vector>

namespace mp = millrace;

namespace {

void foo(const mp::Connection& w) {
  for (int i = 0; i < 3; ++i) w.send(mp::Tuple{i, mp::current_process().name()});
  w.close();
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 1) mp::set_start_method(std::string_view(argv[1]));
  std::vector<mp::Connection> readers;
  for (int i = 0; i < 4; ++i) {
    auto [r, w] = mp::Pipe({.duplex = false});
    readers.push_back(r);
    mp::Process p(foo, w);
    p.start();
    // Closed here, so that the child is the only one that has it: its end is the end of the data.
    w.close();
  }
  while (!readers.empty()) {
    for (const mp::Connection& r : mp::connection::wait(readers)) {
      try {
        std::cout << r.recv() << '\n';
      } catch (const mp::EOFError&) {
        std::erase(readers, r);
      }
    }
  }
  return 0;
}
