// Python's documentation, "multiprocessing.sharedctypes": numbers, text and structures modified by
// a child process.
//
//   class Point(Structure): _fields_ = [('x', c_double), ('y', c_double)]
//   n = Value('i', 7)
//   x = Value(c_double, 1.0/3.0, lock=False)
//   s = Array('c', b'hello world', lock=lock)
//   A = Array(Point, [(1.875,-6.25), (-5.75,2.0), (2.375,9.5)], lock=lock)
#include <cctype>
#include <iomanip>
#include <iostream>
#include <millrace/millrace.hpp>
#include <string>
#include <vector>

namespace mp = millrace;

namespace {

struct Point {
  double x, y;
};

void modify(const mp::Value<int>& n, const mp::RawValue<double>& x, const mp::Array<char>& s,
            const mp::Array<Point>& points) {
  n.update([](int& value) { value *= value; });
  x.set(x.get() * x.get());
  std::string text = s.value();
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  s.value(text);
  for (std::ptrdiff_t i = 0; i < std::ssize(points.get_obj()); ++i) {
    const Point p = points[i];
    points[i] = Point{p.x * p.x, p.y * p.y};
  }
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  mp::set_start_method(argc > 1 ? argv[1] : "fork");
  const mp::Lock lock;
  const mp::Value<int> n(7);
  const mp::RawValue<double> x(1.0 / 3.0);
  const mp::Array<char> s("hello world", {.lock = lock});
  const mp::Array<Point> points(std::vector<Point>{{1.875, -6.25}, {-5.75, 2.0}, {2.375, 9.5}},
                                {.lock = lock});

  mp::Process p(modify, n, x, s, points);
  p.start();
  p.join();

  std::cout << n.get() << '\n'
            << std::setprecision(16) << x.get() << '\n'
            << s.value() << '\n'
            << std::setprecision(8);
  for (const Point& point : points.to_vector()) {
    std::cout << '(' << point.x << ", " << point.y << ")\n";
  }
}
