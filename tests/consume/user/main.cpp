#include <cstdio>
#include <vector>

#include <millrace/errors.hpp>
#include <millrace/timeout.hpp>

int main() {
  try {
    throw millrace::WorkerLost(1, -9, false, 0, 0);
  } catch (const millrace::ProcessError& e) {
    std::puts(e.what());
  }
}
