// Python's documentation, "Using a remote manager": a queue that clients elsewhere use, by address
// and key. Here the clients are child processes; on another host, or in Python, they are the same:
//
//   remote_queue serve HOST PORT        on one host
//   remote_queue put HOST PORT TEXT     on another
//   remote_queue get HOST PORT
//
//   queue = Queue()
//   class QueueManager(BaseManager): pass
//   QueueManager.register('get_queue', callable=lambda: queue)
//   m = QueueManager(address=('', 50000), authkey=b'abracadabra')
//   s = m.get_server()
//   s.serve_forever()
#include <cstdlib>
#include <iostream>
#include <millrace/millrace.hpp>
#include <string>

namespace mp = millrace;

mp::QueueProxy queue_of(const mp::connection::Address& address) {
  mp::BaseManager m({.address = address, .authkey = "abracadabra"});
  m.connect();
  return m.create<mp::QueueProxy>("get_queue");
}

void put_hello(const mp::connection::Address& address) { queue_of(address).put("hello"); }

void print_one(const mp::connection::Address& address) {
  std::cout << queue_of(address).get<std::string>() << '\n';
}

void serve(const mp::connection::Address& address) {
  const mp::Queue<> queue;
  mp::BaseManager m({.address = address, .authkey = "abracadabra"});
  m.register_callable("get_queue", [queue] { return queue; });
  auto server = m.get_server();
  std::cout << "serving at " << server.address().repr() << std::endl;
  server.serve_forever();
}

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 3) {
    const std::string what = argv[1];
    const mp::connection::Address address(argv[2], std::atoi(argv[3]));
    if (what == "serve") serve(address);
    if (what == "put" && argc > 4) queue_of(address).put(argv[4]);
    if (what == "get") print_one(address);
    return 0;
  }
  if (argc > 1) mp::set_start_method(argv[1]);
  const mp::Queue<> queue;
  mp::BaseManager m({.address = {"127.0.0.1", 0}, .authkey = "abracadabra"});
  m.register_callable("get_queue", [queue] { return queue; });
  m.start();

  mp::Process reader(print_one, m.address());
  reader.start();
  mp::Process writer(put_hello, m.address());
  writer.start();
  writer.join();
  reader.join();
  std::cout << "empty: " << std::boolalpha << queue.empty() << '\n';
}
