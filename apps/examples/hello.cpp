// Python's documentation, "The Process class": the first example, and the one that shows which
// process is whose.
//
//   def f(name): print('hello', name)
//   if __name__ == '__main__':
//       p = Process(target=f, args=('bob',)); p.start(); p.join()
#include <unistd.h>

#include <iostream>
#include <millrace/millrace.hpp>
#include <string>

namespace mp = millrace;

namespace {

void f(const std::string& name) { std::cout << "hello " << name << '\n'; }

// Python's prints module, parent and own pid; pids differ from run to run, so what they stand in
// is said instead.
void info(const std::string& title, pid_t main_process) {
  std::cout << title << '\n';
  const auto parent = mp::parent_process();
  std::cout << "process name: " << mp::current_process().name() << '\n'
            << "parent process: " << (parent ? parent->name() : "None") << '\n'
            << "is the main process: " << (::getpid() == main_process ? "yes" : "no") << '\n'
            << "its parent is: " << (parent && parent->pid() == main_process ? "yes" : "no")
            << '\n';
}

void introduce(const std::string& name, pid_t main_process) {
  info("function f", main_process);
  std::cout << "hello " << name << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  mp::set_start_method(argc > 1 ? argv[1] : "fork");

  mp::Process p(f, "bob");
  p.start();
  p.join();

  info("main line", ::getpid());
  mp::Process q(introduce, "bob", ::getpid());
  q.start();
  q.join();
  return q.exitcode().value_or(1);
}
