// Python's documentation, "Using a remote manager": a queue that clients elsewhere use, by address
// and key. Here the clients are child processes; on another host, or in Python, they are the same.
//
//   queue = Queue()
//   class QueueManager(BaseManager): pass
//   QueueManager.register('get_queue', callable=lambda: queue)
//   m = QueueManager(address=('', 50000), authkey=b'abracadabra')
//   s = m.get_server()
//   s.serve_forever()
#include <iostream>
#include <millrace/millrace.hpp>

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

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
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
