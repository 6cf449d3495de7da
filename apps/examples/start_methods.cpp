// Python's documentation, "Contexts and start methods": one program that sets its method, one that
// takes a context, and contexts side by side.
//
//   mp.set_start_method('spawn'); q = mp.Queue(); p = mp.Process(target=foo, args=(q,)) ...
//   ctx = mp.get_context('spawn'); q = ctx.Queue(); p = ctx.Process(target=foo, args=(q,)) ...
#include <iostream>
#include <millrace/millrace.hpp>
#include <string>

namespace mp = millrace;

namespace {

// Set by main(), so only a process that begins as its copy has it.
int g_set_by_main = 0;

void foo(const mp::Array<char>& answer) { answer.value("hello"); }

void use_default(const std::string& method) {
  mp::set_start_method(method);
  mp::Array<char> answer(16);
  mp::Process p(foo, answer);
  p.start();
  p.join();
  std::cout << answer.value() << '\n';
}

void use_context(const mp::Context& context) {
  const mp::Array<char> answer = context.Array<char>(16);
  auto p = context.Process(foo, answer);
  p.start();
  p.join();
  std::cout << answer.value() << '\n';
}

// The program may use several methods at once; what is shared works between all of them.
void use_all() {
  mp::Value<int> sum(0);
  for (const std::string& method : mp::get_all_start_methods()) {
    auto p = mp::get_context(method).Process(
        [](const mp::Value<int>& total) {
          total.update([](int& n) { n += g_set_by_main == 0 ? 1 : 10; });
        },
        sum);
    p.start();
    p.join();
  }
  std::cout << "one copy of main()'s memory, two anew: " << sum.get() << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  g_set_by_main = 1;
  const std::string method = argc > 1 ? argv[1] : "fork";
  use_default(method);
  use_context(mp::get_context(method));
  use_all();
}
