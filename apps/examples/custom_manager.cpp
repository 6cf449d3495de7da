// Python's documentation, "Customized managers": a class of one's own in the server.
//
//   class MathsClass:
//       def add(self, x, y):
//           return x + y
//       def mul(self, x, y):
//           return x * y
//   MyManager.register('Maths', MathsClass)
//   with MyManager() as manager:
//       maths = manager.Maths()
//       print(maths.add(4, 3))         # prints 7
//       print(maths.mul(7, 8))         # prints 56
#include <iostream>
#include <millrace/millrace.hpp>

namespace mp = millrace;

class MathsClass {
 public:
  int add(int x, int y) const { return x + y; }
  int mul(int x, int y) const { return x * y; }
  double divide(double x, double y) const {
    if (y == 0) throw mp::ValueError("division by zero");
    return x / y;
  }
};

// What a program may write that calls it often.
struct MathsProxy : mp::BaseProxy {
  using BaseProxy::BaseProxy;
  int add(int x, int y) const { return call<int>("add", x, y); }
};

struct MyManager : mp::BaseManager {
  MyManager() {
    register_type<MathsClass>(
        "Maths",
        {{"add", &MathsClass::add}, {"mul", &MathsClass::mul}, {"divide", &MathsClass::divide}});
  }
};

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  MyManager manager;
  manager.start();
  const mp::BaseProxy maths = manager.create("Maths");
  std::cout << maths.call<int>("add", 4, 3) << '\n';
  std::cout << maths.call<int>("mul", 7, 8) << '\n';
  std::cout << manager.create<MathsProxy>("Maths").add(1, 2) << '\n';
  try {
    maths.call("divide", 1, 0);
  } catch (const mp::ValueError& error) {
    std::cout << error.what() << '\n';
  }
}
