// Python's documentation, "Using a pool of workers": the forms of giving a pool work.
//
//   with Pool(processes=4) as pool:
//       print(pool.map(f, range(10)))
//       for i in pool.imap_unordered(f, range(10)): print(i)
//       res = pool.apply_async(f, (20,)); print(res.get(timeout=1))
#include <chrono>
#include <iostream>
#include <millrace/millrace.hpp>
#include <ranges>
#include <set>
#include <thread>
#include <vector>

namespace mp = millrace;
using namespace std::chrono_literals;

namespace {

int f(int x) { return x * x; }

void print(const auto& values) {
  std::cout << '[';
  const char* between = "";
  for (const auto& value : values) {
    std::cout << between << value;
    between = ", ";
  }
  std::cout << "]\n";
}

void use(mp::Pool& pool) {
  print(pool.map(f, std::views::iota(0, 10)));

  // The same numbers in any order.
  std::multiset<int> seen;
  for (const int square : pool.imap_unordered(f, std::views::iota(0, 10))) seen.insert(square);
  print(seen);

  // One call, in one process.
  std::cout << pool.apply_async(f, 20).get(60s) << '\n';

  // Several calls, in whichever processes are free.
  std::vector<mp::AsyncResult<bool>> several;
  for (int i = 0; i < 4; ++i) {
    several.push_back(pool.apply_async([] { return mp::parent_process().has_value(); }));
  }
  for (auto& result : several) std::cout << (result.get(60s) ? "in a worker" : "here") << '\n';

  // A call that is not waited for long enough.
  auto slow = pool.apply_async([] { std::this_thread::sleep_for(10s); });
  try {
    slow.get(100ms);
  } catch (const mp::TimeoutError&) {
    std::cout << "We lacked patience and got a TimeoutError\n";
  }
  std::cout << "For the moment, the pool remains available for more work\n";
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  {
    mp::Pool pool(4);
    use(pool);
  }  // leaving the block ends the workers
  std::cout << "Now the pool is closed and no longer available\n";
}
