// Python's documentation, "Exchanging objects between processes: Pipes" and "Connection Objects".
//
//   def f(conn):
//       conn.send([42, None, 'hello'])
//       conn.close()
//   parent_conn, child_conn = Pipe()
//   p = Process(target=f, args=(child_conn,))
//   p.start()
//   print(parent_conn.recv())   # prints "[42, None, 'hello']"
//   p.join()
#include <iostream>
#include <millrace/millrace.hpp>
#include <numeric>
#include <string_view>
#include <vector>

namespace mp = millrace;

namespace {

void f(const mp::Connection& conn) {
  conn.send(mp::List{42, mp::None, "hello"});
  conn.close();
}

void connection_objects() {
  auto [a, b] = mp::Pipe();
  a.send(mp::List{1, "hello", mp::None});
  std::cout << b.recv() << '\n';
  b.send_bytes("thank you");
  std::cout << a.recv_bytes() << '\n';

  std::vector<int> arr1(5);
  std::iota(arr1.begin(), arr1.end(), 0);
  std::vector<int> arr2(10);
  a.send_bytes(arr1);
  const std::size_t count = b.recv_bytes_into(arr2);
  std::cout << (count == arr1.size() * sizeof(int) ? "all of it:" : "too little:");
  for (const int each : arr2) std::cout << ' ' << each;
  std::cout << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 1) mp::set_start_method(std::string_view(argv[1]));
  auto [parent_conn, child_conn] = mp::Pipe();
  mp::Process p(f, child_conn);
  p.start();
  std::cout << parent_conn.recv() << '\n';
  p.join();
  connection_objects();
  return 0;
}
