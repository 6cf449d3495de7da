// What must not compile, and say why: -DCASE=n is one case each, 0 the control that does compile.
#include <functional>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/serialize.hpp>
#include <string>
#include <thread>
#include <vector>

struct Opaque {
 private:
  std::string text_;
};
struct Virtual {
  virtual ~Virtual() = default;
};
int twice(int x);

void cases(millrace::wire::Writer& out, millrace::wire::Reader& in) {
  namespace wire = millrace::wire;
#if CASE == 0
  wire::encode(out, std::string("text"));
  (void)wire::decode<std::vector<int>>(in);
  static_assert(wire::check_serializable<const char*>());
  static_assert(wire::check_sendable<decltype(&twice)>());
  static_assert(wire::check_callable<decltype(&twice), int>());
#elif CASE == 1
  wire::encode(out, std::thread());
#elif CASE == 2
  (void)wire::decode<std::thread>(in);
#elif CASE == 3
  int x = 0;
  wire::encode(out, &x);
#elif CASE == 4
  wire::encode(out, std::vector<char*>());
#elif CASE == 5
  wire::encode(out, Opaque());
#elif CASE == 6
  wire::encode(out, std::unique_ptr<Virtual>());
#elif CASE == 7
  (void)wire::check_serializable<int*>();
#elif CASE == 8
  (void)wire::check_serializable<Virtual>();
#elif CASE == 9
  (void)wire::check_sendable<std::function<void()>>();
#elif CASE == 10
  (void)wire::check_sendable<decltype([p = std::make_unique<int>(1)] {})>();
#elif CASE == 11
  (void)wire::check_sendable<int>();
#elif CASE == 12
  (void)wire::check_callable<decltype(&twice), std::string>();
#elif CASE == 13
  auto f = &twice;
  std::string text;
  wire::call(f, text);
#elif CASE == 14
  const wire::Parcel parcel(std::function<void()>{});
#elif CASE == 15
  wire::encode(out, std::shared_ptr<int>());
#endif
  (void)out;
  (void)in;
}
