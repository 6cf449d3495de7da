#!/usr/bin/env python3
"""What a user's file that calls pool.map once costs to compile, beside one that does nothing.

compile_bench.py INCLUDE [--compiler g++] [--reps 5]: cpu seconds of `g++ -std=c++20 -O2 -c`, children
included, the two files by turns; prints one JSON line as the other benchmarks do. The ratio is the
difference to the empty file in seconds."""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

EMPTY = "int main() {}\n"
MAPS = """#include <millrace/pool.hpp>
#include <vector>
namespace mp = millrace;
double f(double x) { return x * x; }
int main() {
  mp::Pool pool(2);
  const std::vector<double> in(1000, 2.0);
  return pool.map(f, in).size() == 1000 ? 0 : 1;
}
"""
TARGET = 1.5


def cpu_seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("include", type=Path)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--reps", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        for name, text in (("empty", EMPTY), ("maps", MAPS)):
            sources[name] = Path(folder, f"{name}.cpp")
            sources[name].write_text(text)

        def compile_(name: str) -> float:
            flags = ["-std=c++20", "-O2", f"-I{arguments.include}", "-c", "-o", os.devnull]
            return cpu_seconds([arguments.compiler, *flags, str(sources[name])])

        pairs = [(compile_("maps"), compile_("empty")) for _ in range(arguments.reps)]
    ours, peer = (statistics.median(column) for column in zip(*pairs))
    print(
        json.dumps(
            {
                "bench": "compile",
                "row": "a file with one pool.map, difference to an empty main",
                "unit": "s",
                "ours": ours,
                "peer": peer,
                "peer_name": "an empty main",
                "ratio": statistics.median(a - b for a, b in pairs),
                "target": TARGET,
                "better": "lower",
            }
        )
    )


if __name__ == "__main__":
    main()
