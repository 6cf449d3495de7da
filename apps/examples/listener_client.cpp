// Python's documentation, "Listeners and Clients": a list, bytes and an array. The Client is a
// child process, and the system chooses the port.
//
//   with Listener(address, authkey=b'secret password') as listener:
//       with listener.accept() as conn:
//           conn.send([2.25, None, 'junk', float])
//           conn.send_bytes(b'hello')
//           conn.send_bytes(array('i', [42, 1729]))
#include <array>
#include <iostream>
#include <millrace/millrace.hpp>

namespace mp = millrace;

void client(const mp::connection::Address& address) {
  const mp::Connection conn = mp::connection::Client(address, {.authkey = "secret password"});

  std::cout << conn.recv() << '\n';  // [2.25, None, 'junk']
  std::cout << conn.recv_bytes() << '\n';

  std::array<int, 5> numbers{};
  std::cout << conn.recv_bytes_into(numbers) << '\n';
  for (const int number : numbers) std::cout << number << ' ';
  std::cout << '\n';
}

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 1) mp::set_start_method(argv[1]);

  // The family is deduced to be AF_INET; port 0: whichever is free.
  const mp::connection::Listener listener(
      {.address = {"localhost", 0}, .authkey = "secret password"});
  mp::Process p(client, listener.address());
  p.start();

  const mp::Connection conn = listener.accept();
  conn.send(mp::List{2.25, mp::None, "junk"});
  conn.send_bytes("hello");
  conn.send_bytes(std::array{42, 1729});
  p.join();
  std::cout << "accepted from " << listener.last_accepted()->host() << '\n';
}
