// Python's documentation, the last example: queues that feed tasks to worker processes and collect
// their results.
#include <iostream>
#include <millrace/millrace.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace mp = millrace;

namespace {

constexpr int kProcesses = 4;

using Function = int (*)(int, int);
using Task = std::tuple<Function, std::string, int, int>;
using TaskQueue = mp::Queue<std::optional<Task>>;  // an empty one says: stop

int mul(int a, int b) { return a * b; }
int plus(int a, int b) { return a + b; }

std::string calculate(const Task& task) {
  const auto& [function, name, a, b] = task;
  return mp::current_process().name() + " says that " + name + "(" + std::to_string(a) + ", " +
         std::to_string(b) + ") = " + std::to_string(function(a, b));
}

// What the worker processes run.
void worker(const TaskQueue& input, const mp::Queue<std::string>& output) {
  while (const std::optional<Task> task = input.get()) output.put(calculate(*task));
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  if (argc > 1) mp::set_start_method(argv[1]);
  const TaskQueue tasks;
  const mp::Queue<std::string> done;

  for (int i = 0; i < 20; ++i) tasks.put(Task(mul, "mul", i, 7));
  std::vector<mp::Process> workers;
  for (int i = 0; i < kProcesses; ++i) workers.emplace_back(worker, tasks, done).start();

  std::cout << "Unordered results:\n";
  for (int i = 0; i < 20; ++i) std::cout << '\t' << done.get() << '\n';
  for (int i = 0; i < 10; ++i) tasks.put(Task(plus, "plus", i, 8));
  for (int i = 0; i < 10; ++i) std::cout << '\t' << done.get() << '\n';

  for (int i = 0; i < kProcesses; ++i) tasks.put(std::nullopt);
  for (mp::Process& process : workers) process.join();
  std::cout << "No tasks left: " << (tasks.empty() && done.empty() ? "True" : "False") << '\n';
}
