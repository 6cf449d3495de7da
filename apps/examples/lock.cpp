// Python's documentation, "Synchronization between processes": a lock, so that only one process
// prints at a time.
//
//   def f(l, i):
//       l.acquire()
//       try: print('hello world', i)
//       finally: l.release()
//   lock = Lock()
//   for num in range(10): Process(target=f, args=(lock, num)).start()
#include <iostream>
#include <millrace/millrace.hpp>
#include <mutex>

namespace mp = millrace;

namespace {

void f(const mp::Lock& lock, int i) {
  const std::scoped_lock one_at_a_time(lock);
  std::cout << "hello world " << i << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  mp::set_start_method(argc > 1 ? argv[1] : "fork");
  const mp::Lock lock;
  for (int i = 0; i < 10; ++i) mp::Process(f, lock, i).start();
}
