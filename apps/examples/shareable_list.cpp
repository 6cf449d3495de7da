// Python's documentation, ShareableList and SharedMemoryManager: a list in shared memory, its names
// and its limits; two processes that fill the halves of one.
//
//   a = shared_memory.ShareableList(['howdy', b'HoWdY', -273.154, 100, None, True, 42])
//   a[2] = -78.5
//   a[2] = 'dry ice'  # Changing data types is supported as well
//   a[2] = 'larger than previously allocated storage space'
//   ...
//   with SharedMemoryManager() as smm:
//       sl = smm.ShareableList(range(2000))
#include <cstddef>
#include <iostream>
#include <millrace/millrace.hpp>
#include <numeric>
#include <vector>

namespace mp = millrace;

namespace {

std::vector<int> first(std::size_t count) {
  std::vector<int> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

void a_list() {
  const mp::ShareableList a({"howdy", mp::Bytes("HoWdY"), -273.154, 100, mp::None, true, 42});
  for (std::ptrdiff_t i = 0; i < 7; ++i) {
    const mp::Object entry = a[i];
    std::cout << entry.type_name() << ' ' << entry.repr() << '\n';
  }
  a[2] = -78.5;
  std::cout << a[2] << '\n';
  a[2] = "dry ice";  // its type may change
  std::cout << a[2] << '\n';
  try {
    a[2] = "larger than previously allocated storage space";
  } catch (const mp::ValueError& error) {
    std::cout << error.what() << '\n';
  }
  std::cout << a[2] << ' ' << a.size() << ' ' << a.index(42) << '\n';
  a.shm().unlink();

  const mp::ShareableList b(first(5));
  const auto c = mp::ShareableList::attach(b.shm().name());
  c[-1] = -999;
  std::cout << b[-1] << '\n';
  b.shm().unlink();
}

void do_work(const mp::ShareableList& list, int first, int last) {
  for (int i = first; i < last; ++i) list[i] = list[i].as<int>() * 2;
}

void two_halves() {
  mp::SharedMemoryManager manager;
  manager.start();
  const mp::ShareableList list = manager.ShareableList(first(2000));
  mp::Process p1(do_work, list, 0, 1000);
  mp::Process p2(do_work, list, 1000, 2000);
  p1.start();
  p2.start();
  p1.join();
  p2.join();
  int total = 0;
  for (int i = 0; i < 2000; ++i) total += list[i].as<int>();
  std::cout << "the total is " << total << '\n';
}  // the manager unlinks the segment

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  mp::set_start_method(argc > 1 ? argv[1] : "fork");
  a_list();
  two_halves();
}
