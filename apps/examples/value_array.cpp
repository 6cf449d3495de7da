// Python's documentation, "Sharing state between processes": a Value and an Array.
//
//   def f(n, a):
//       n.value = 3.1415927
//       for i in range(len(a)): a[i] = -a[i]
//   num = Value('d', 0.0)
//   arr = Array('i', range(10))
#include <iomanip>
#include <iostream>
#include <millrace/millrace.hpp>
#include <ranges>

namespace mp = millrace;

namespace {

void f(const mp::Value<double>& n, const mp::Array<int>& a) {
  n.set(3.1415927);
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto at = static_cast<std::ptrdiff_t>(i);
    a[at] = -a[at];
  }
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  mp::set_start_method(argc > 1 ? argv[1] : "fork");
  const mp::Value<double> num(0.0);
  const mp::Array<int> arr(std::views::iota(0, 10));

  mp::Process p(f, num, arr);
  p.start();
  p.join();

  std::cout << std::setprecision(8) << num.get() << '\n';
  for (const int value : arr.to_vector()) std::cout << value << ' ';
  std::cout << '\n';
}
