// Python's documentation, "The spawn and forkserver start methods: safe importing of main module".
// Python's `if __name__ == '__main__':` is a first line of main here; without it a program that
// starts processes is told so, and does not start itself for ever.
//
//   from multiprocessing import Process, freeze_support, set_start_method
//   def foo(): print('hello')
//   if __name__ == '__main__':
//       freeze_support(); set_start_method('spawn'); p = Process(target=foo); p.start()
#include <cstdlib>
#include <iostream>
#include <millrace/millrace.hpp>
#include <stdexcept>
#include <string>

namespace mp = millrace;

namespace {

void foo() { std::cout << "hello" << std::endl; }

void run(const std::string& method) {
  mp::set_start_method(method);
  mp::Process p(foo);
  p.start();
  p.join();
  std::cout << "exit code " << p.exitcode().value_or(-1) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  const bool forgets = std::getenv("MAIN_GUARD_FORGETS") != nullptr;
  if (!forgets) mp::freeze_support(argc, argv);
  const std::string method = argc > 1 && *argv[1] != 0 ? argv[1] : "spawn";
  try {
    run(method);
    if (forgets) return 0;
    // The same program without the line.
    ::setenv("MAIN_GUARD_FORGETS", "1", 1);
    mp::set_start_method("spawn", {.force = true});
    mp::Process q(foo);
    q.start();
    q.join();
    std::cout << "without freeze_support: exit code " << q.exitcode().value_or(-1) << '\n';
  } catch (const std::runtime_error& e) {
    const std::string text = e.what();
    const bool told = text.find("freeze_support(argc, argv)") != std::string::npos;
    std::cout << (told ? "RuntimeError: the idiom" : text) << '\n';
  }
}
