#include <cstdio>
#include <millrace/pool.hpp>
#include <numeric>
#include <vector>

int square(int x) { return x * x; }

int main() {
  millrace::Pool pool(2);
  const std::vector<int> squares = pool.map(square, {1, 2, 3, 4});
  std::printf("%d\n", std::accumulate(squares.begin(), squares.end(), 0));
}
