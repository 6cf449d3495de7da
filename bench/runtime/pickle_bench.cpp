// Pickles of lists of ints, floats and strings and of nested dicts, written and read, beside
// CPython's own C pickler in the same run. Both read the same bytes, which CPython wrote; its
// garbage collector is off.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <millrace/object.hpp>
#include <string>
#include <vector>

#include "bench/shm/harness.hpp"
#include "runtime/values/pickle.hpp"

namespace {

using bench::now_ns;
using millrace::Object;
namespace runtime = millrace::runtime;

const std::vector<std::string> kNames = {"ints", "floats", "strings", "nested dicts"};

constexpr const char* kScript = R"(
import gc, pickle, random, sys, time
gc.disable()
r = random.Random(1)
values = {
  "ints": [r.randrange(-2**40, 2**40) >> r.randrange(40) for _ in range(100000)],
  "floats": [r.random() * 1e6 for _ in range(100000)],
  "strings": ["".join(r.choices("abcdefghij ", k=r.randrange(1, 30))) for _ in range(100000)],
  "nested dicts": [{"id": i, "name": "item %d" % i, "where": {"x": i / 7, "y": -i / 3},
                    "tags": ["a", "b", str(i)]} for i in range(10000)],
}
pickles = {name: pickle.dumps(value) for name, value in values.items()}
for name, data in pickles.items():
  with open(sys.argv[1] + "/" + name, "wb") as file:
    file.write(data)
print("ready", flush=True)
for line in sys.stdin:
  what, name = line.rstrip("\n").split(" ", 1)
  t = time.perf_counter_ns()
  made = pickle.dumps(values[name]) if what == "dumps" else pickle.loads(pickles[name])
  t = time.perf_counter_ns() - t
  del made
  print(t, flush=True)
)";

/// A CPython that answers how long one call took.
class Python {
 public:
  explicit Python(const std::string& folder) {
    int ask[2];
    int answer[2];
    if (::pipe(ask) != 0 || ::pipe(answer) != 0) fail();
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(ask[0], 0);
      ::dup2(answer[1], 1);
      ::close(ask[1]);
      ::close(answer[0]);
      ::execlp("python3", "python3", "-c", kScript, folder.c_str(), static_cast<char*>(nullptr));
      ::_exit(127);
    }
    ::close(ask[0]);
    ::close(answer[1]);
    to_ = ::fdopen(ask[1], "w");
    from_ = ::fdopen(answer[0], "r");
    char ready[16];
    if (child_ < 0 || std::fgets(ready, sizeof ready, from_) == nullptr) fail();
  }
  Python(const Python&) = delete;
  Python& operator=(const Python&) = delete;
  ~Python() {
    std::fclose(to_);
    std::fclose(from_);
    ::waitpid(child_, nullptr, 0);
  }
  double ns(const std::string& what, const std::string& name) {
    double answer = 0;
    std::fprintf(to_, "%s %s\n", what.c_str(), name.c_str());
    std::fflush(to_);
    if (std::fscanf(from_, "%lf", &answer) != 1) fail();
    return answer;
  }

 private:
  [[noreturn]] static void fail() {
    std::fprintf(stderr, "python3 did not answer\n");
    std::exit(1);
  }

  pid_t child_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

double loads_ns(const std::string& pickle) {
  const std::uint64_t start = now_ns();
  const Object made = runtime::unpickle(pickle);
  const auto taken = static_cast<double>(now_ns() - start);
  bench::keep(made);
  return taken;
}

double dumps_ns(const Object& value) {
  const std::uint64_t start = now_ns();
  millrace::wire::Writer out;
  runtime::pickle(out, value);
  const auto taken = static_cast<double>(now_ns() - start);
  bench::keep(out.size());
  return taken;
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder = "/tmp/pickle-bench-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return 1;
  bench::pin(0);
  Python python(folder);
  std::map<std::string, std::string> pickles;
  std::map<std::string, Object> values;
  bench::Suite suite("pickle");
  for (const std::string& name : kNames) {
    pickles[name] = content(folder + "/" + name);
    std::remove((folder + "/" + name).c_str());
    values[name] = runtime::unpickle(pickles[name]);
    suite.measure("write " + name, [&, name] { return dumps_ns(values[name]) / 1e5; });
    suite.measure("read " + name, [&, name] { return loads_ns(pickles[name]) / 1e5; });
    suite.measure("CPython dumps " + name, [&, name] { return python.ns("dumps", name) / 1e5; });
    suite.measure("CPython loads " + name, [&, name] { return python.ns("loads", name) / 1e5; });
    const char* const unit = name == "nested dicts" ? "ns/10th of a dict" : "ns/element";
    suite.row({"write " + name, unit, "write " + name, "CPython dumps " + name, 1 / 1.5,
               bench::Better::lower});
    suite.row({"read " + name, unit, "read " + name, "CPython loads " + name, 1 / 1.5,
               bench::Better::lower});
  }
  ::rmdir(folder.c_str());
  return suite.run(argc, argv);
}
