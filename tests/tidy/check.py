#!/usr/bin/env python3
"""Style as a test: layering of includes, named orderings, sizes, one definition of a type, the
top level, words that do not belong. `check.py ROOT` prints one line per violation,
FILE:LINE: RULE: what, and exits 1 if any.

The rules read text, not C++: they are approximations that must never be wrong about clean code.
check_test.py plants every violation and sees that it is found."""

import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import functions
import orderings
import types_in_namespaces

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100
MAX_PARAMETERS = 6

CODE = {".cpp", ".hpp"}
TOP_LEVEL = {
    "CMakeLists.txt", "runtime", "shm", "sched", "include", "bench", "tests", "apps",
    "README.md", "LICENSE", "CHANGELOG.md", "CMakePresets.json",
}  # fmt: skip
SHARED_WORDS = {"millrace/errors.hpp", "millrace/timeout.hpp"}
# A lower layer's own public face: what it defines, and the plain words that its calls take.
SHM_WORDS = {"millrace/arena.hpp", "millrace/handle.hpp", "millrace/placement.hpp"}
SCHED_WORDS = {"millrace/affinity.hpp"}
PRODUCT = {"shm", "sched", "runtime", "include"}
LAYERS = PRODUCT | {"apps", "bench", "tests"}
# What a file of a layer may include of the project: folders, then single headers.
MAY_INCLUDE = {
    "shm": ({"shm"}, SHARED_WORDS | SHM_WORDS),
    "sched": ({"sched"}, SHARED_WORDS | SCHED_WORDS),
    "runtime": ({"runtime", "shm", "sched", "millrace"}, set()),
    "include": ({"millrace"}, set()),
    "apps": ({"apps", "millrace"}, set()),
    "bench": ({"bench", "millrace", "shm", "sched", "runtime"}, set()),
    "tests": ({"tests", "apps", "millrace", "shm", "sched", "runtime"}, set()),
}
# Libraries and facilities with one home: what the include looks like, where it may stand.
HOMES = [
    (re.compile(r"boost/"), "Boost", lambda p: layer(p) == "shm"),
    (re.compile(r"hwloc"), "hwloc", lambda p: layer(p) == "sched"),
    (
        re.compile(r"(oneapi|tbb)/"),
        "oneTBB",
        lambda p: layer(p) == "sched" or p == "runtime/thread_pool.cpp",
    ),
    (
        re.compile(r"openssl/|sys/socket\.h|sys/un\.h|netinet/|arpa/|netdb\.h"),
        "OpenSSL or sockets",
        lambda p: layer(p) == "runtime",
    ),
    (re.compile(r"(spdlog|fmt)/"), "spdlog", lambda p: layer(p) == "runtime"),
    (re.compile(r"cereal/"), "cereal", lambda p: p == "include/millrace/cereal.hpp"),
    (re.compile(r"zlib\.h|CLI/"), "an application's library", lambda p: layer(p) == "apps"),
]
POSIX = set(
    "cxxabi.h dlfcn.h errno.h fcntl.h immintrin.h link.h poll.h pthread.h sched.h semaphore.h "
    "signal.h spawn.h string.h time.h unistd.h ucontext.h x86intrin.h".split()
)
SYSTEM = re.compile(r"[a-z_0-9]+|(sys|linux|asm|bits)/\w+\.h")
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')

# Words of a workplace, and unfinished work; spelt so that this file does not hold them itself.
WORDS = [
    (re.compile(r"/w[o]rk/|/r[o]ot/|/h[o]me/\w|/tmp/b[r]ief"), "a path of one machine"),
    (re.compile(r"\b(s[u]b-?agent|c[o]-?author|chat[g]pt|cl[a]ude)\b", re.I), "how it came about"),
    (re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X)\b|\bnot imple[m]ented\b"), "unfinished work"),
    (re.compile(r"\bGTEST_S[K]IP\b|\bDISABLE[D]_\w"), "a test that does not run"),
]


def layer(path):
    return path.split("/", 1)[0]


def include_target(path, quote, name):
    """The folder (or header) of the project that an include names; None for foreign ones."""
    first = name.split("/", 1)[0]
    if first == "millrace":
        return "millrace"
    if quote == "<":
        return None
    return first if first in LAYERS and "/" in name else layer(path)


def check_include(path, quote, name):
    """Yields what is wrong with this one include."""
    folders, headers = MAY_INCLUDE[layer(path)]
    target = include_target(path, quote, name)
    own = target == "include" and layer(path) == "include"
    if target and not own and target not in folders and name not in headers:
        yield f"layering: {layer(path)} must not include {name}"
    if ".." in name.split("/"):
        yield f"layering: {name} climbs out of its folder"
    if target:
        return
    for pattern, what, allowed in HOMES:
        if pattern.match(name):
            if not allowed(path) and layer(path) not in ("tests", "bench"):
                yield f"layering: {what} ({name}) does not belong here"
            return
    if layer(path) == "include" and not SYSTEM.fullmatch(name) and name not in POSIX:
        yield f"layering: third-party header {name} in a public header"


def check_layout(path, lines):
    if len(lines) > MAX_FILE_LINES:
        yield len(lines), f"file-length: {len(lines)} lines, at most {MAX_FILE_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield number, f"line-length: {len(line)} columns, at most {MAX_COLUMNS}"
    if path.endswith(".hpp") and "#pragma once" not in lines:
        yield 1, "header: no #pragma once"


def check_code(path, text):
    lines = text.splitlines()
    yield from check_layout(path, lines)
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if found:
            for what in check_include(path, *found.groups()):
                yield number, what
    for number, name, length, parameters in functions.functions(text):
        if length > MAX_FUNCTION_LINES:
            yield number, f"function-length: {name} has {length} lines, at most {MAX_FUNCTION_LINES}"
        if parameters > MAX_PARAMETERS:
            yield number, f"parameters: {name} takes {parameters}, at most {MAX_PARAMETERS}"
    if layer(path) in PRODUCT:
        yield from orderings.check(lines)


def check_words(text):
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in WORDS:
            if pattern.search(line):
                yield number, f"words: {what}: {line.strip()[:60]}"


def files(root):
    """Paths that are, or would be, in the repository; everything below root where there is none."""
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root), "ls-files", "-co"]
    try:
        listed = subprocess.run(
            [*git, "--exclude-standard", "-z"], capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
        listed = [p for p in listed if layer(p) != "build"]
    return sorted(p for p in listed if p and (root / p).is_file())


def check_tree(root):
    """Yields (path, line, what) for the whole tree."""
    paths = files(root)
    homes = {}  # of the library's types
    for top in sorted({layer(p) for p in paths}):
        if top not in TOP_LEVEL and not top.startswith("."):
            yield top, 1, "top-level: does not belong at the top"
    for path in paths:
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data
        for number, what in check_words(text):
            yield path, number, what
        if pathlib.PurePath(path).suffix in CODE and layer(path) in LAYERS:
            for number, what in check_code(path, text):
                yield path, number, what
            if layer(path) in PRODUCT:
                for number, name in types_in_namespaces.types(text):
                    if homes.setdefault(name, path) != path:
                        yield path, number, f"one-definition: {name} is in {homes[name]} too"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    violations = list(check_tree(root))
    for path, number, what in violations:
        print(f"{path}:{number}: {what}")
    print(f"{len(violations)} violations in {len(files(root))} files")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
