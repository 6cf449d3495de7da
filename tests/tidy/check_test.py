#!/usr/bin/env python3
"""A test that never saw its bug is not a test: plants each violation that check.py looks for in a
small clean tree and sees that exactly this one is reported."""

import pathlib
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check
import functions

CLEAN = {
    "CMakeLists.txt": "project(x)\n",
    ".gitignore": "/build/\n",
    "include/millrace/errors.hpp": "#pragma once\n#include <sys/types.h>\n#include <string>\n",
    "include/millrace/cereal.hpp": "#pragma once\n#include <cereal/cereal.hpp>\n",
    "shm/flag.hpp": """#pragma once
#include <atomic>
#include <boost/interprocess/managed_external_buffer.hpp>
#include "shm/word.hpp"
#include <millrace/errors.hpp>
inline void raise_flag(std::atomic<int>& flag) {
  // PUBLISH flag: hands over what was written before.
  flag.store(1, std::memory_order_release);
}
inline int look(std::atomic<int>& flag) {
  return flag.load(std::memory_order_acquire);  // OBSERVE flag: see raise_flag()
}
""",
    "shm/word.hpp": "#pragma once\n",
    "sched/topology.cpp": "#include <hwloc.h>\n#include <oneapi/tbb.h>\n",
    "runtime/thread_pool.cpp": "#include <oneapi/tbb.h>\n#include \"shm/flag.hpp\"\n",
    "runtime/socket.cpp": "#include <sys/socket.h>\n#include <openssl/hmac.h>\n",
    "apps/kmers/main.cpp": '#include <CLI/CLI.hpp>\n#include "kmers/options.hpp"\n'
    "#include <millrace/pool.hpp>\n",
    "tests/shm/flag_test.cpp": '#include "shm/flag.hpp"\n',
}  # fmt: skip
LONG_BODY = "".join(f"  x += {i};\n" for i in range(80))


class PlantedViolations(unittest.TestCase):
    def violations(self, path=None, text=""):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, content in {**CLEAN, **({path: text} if path else {})}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content, encoding="utf-8")
            return [f"{p}: {what}" for p, _, what in check.check_tree(root)]

    def expect(self, rule, path, text):
        found = self.violations(path, text)
        self.assertEqual(len(found), 1, found)
        self.assertIn(f": {rule}: ", found[0])
        self.assertEqual(path.split("/")[0], found[0].split(":")[0].split("/")[0])

    def test_clean_tree_is_clean(self):
        self.assertEqual(self.violations(), [])

    def test_includes_that_climb_or_go_sideways(self):
        for path, include in [
            ("shm/a.cpp", '"sched/topology.hpp"'),
            ("shm/a.cpp", '"runtime/pool/worker.hpp"'),
            ("shm/a.cpp", "<millrace/pool.hpp>"),
            ("sched/a.cpp", '"shm/flag.hpp"'),
            ("sched/a.cpp", '"runtime/pool/worker.hpp"'),
            ("runtime/a.cpp", '"tests/x.hpp"'),
            ("include/millrace/a.hpp", '"shm/flag.hpp"'),
            ("include/millrace/a.hpp", '"runtime/pool/worker.hpp"'),
            ("apps/kmers/a.cpp", '"shm/flag.hpp"'),
            ("apps/kmers/a.cpp", '"runtime/pool/worker.hpp"'),
            ("tests/a.cpp", '"bench/x.hpp"'),
            ("shm/a.cpp", '"../shm/flag.hpp"'),
        ]:
            with self.subTest(path=path, include=include):
                once = "#pragma once\n" if path.endswith("hpp") else ""
                self.expect("layering", path, f"{once}#include {include}\n")

    def test_libraries_away_from_home(self):
        for path, include in [
            ("runtime/a.cpp", "boost/interprocess/offset_ptr.hpp"),
            ("sched/a.cpp", "boost/container/vector.hpp"),
            ("shm/a.cpp", "hwloc.h"),
            ("runtime/a.cpp", "hwloc/linux.h"),
            ("runtime/a.cpp", "oneapi/tbb/parallel_for.h"),
            ("shm/a.cpp", "tbb/tbb.h"),
            ("shm/a.cpp", "openssl/sha.h"),
            ("sched/a.cpp", "sys/socket.h"),
            ("shm/a.cpp", "netinet/in.h"),
            ("sched/a.cpp", "spdlog/spdlog.h"),
            ("runtime/a.cpp", "cereal/cereal.hpp"),
            ("runtime/a.cpp", "zlib.h"),
            ("include/millrace/a.hpp", "cereal/cereal.hpp"),
            ("include/millrace/a.hpp", "hwloc.h"),
            ("include/millrace/a.hpp", "Eigen/Core"),
            ("include/millrace/a.hpp", "gtest/gtest.h"),
        ]:
            with self.subTest(path=path, include=include):
                once = "#pragma once\n" if path.endswith("hpp") else ""
                self.expect("layering", path, f"{once}#include <{include}>\n")

    def test_orderings_without_their_edge(self):
        for text in [
            "f.store(1, std::memory_order_release);\n",
            "f.store(1, std::memory_order::seq_cst);\n",
            "std::atomic_thread_fence(std::memory_order_seq_cst);\n",
            "// makes it visible\nf.store(1, std::memory_order_release);\n",
            "// PUBLISH f: a comment too far away\n\n\nf.store(1, std::memory_order_release);\n",
            "// PUBLISH f: nobody observes it\nf.store(1, std::memory_order_release);\n",
            "// The TODAY of f\nf.store(1, std::memory_order_release);\n",
            "int x = f.load();\n",
            "f->fetch_add(1);\n",
            "f.compare_exchange_strong(a,\n   b);\n",
        ]:
            with self.subTest(text=text):
                self.expect("ordering", "runtime/a.cpp", f"void g() {{\n{text}}}\n")

    def test_orderings_with_their_edge_pass(self):
        for text in [
            "// PUBLISH f: read in b.cpp\nf.store(1, std::memory_order_release);\n",
            "f.load(std::memory_order_acquire);  // OBSERVE f: PUBLISH f in other.hpp\n",
            "// PUBLISH f: so\n// that\n// they see it in b.cpp\nf.store(1,\n"
            "   std::memory_order_release);\n",
            "// PUBLISH f: x\nf.store(1, std::memory_order_release);\n"
            "// OBSERVE f: x\nf.load(std::memory_order_acquire);\n",
            "// EPOCH: x\nf.store(1, std::memory_order_release);\n"
            "f.store(2, std::memory_order_release);  // EPOCH, see above\n",
            "f.store(1, std::memory_order_relaxed);\n",
            "list.store(x);\n",
            'puts("memory_order_acquire");  // not memory_order_acquire either\n',
        ]:
            with self.subTest(text=text):
                self.assertEqual(
                    self.violations("runtime/a.cpp", f"void g() {{\n{text}}}\n"), []
                )

    def test_sizes(self):
        self.expect("file-length", "shm/a.cpp", "int x;\n" * 401)
        self.expect("line-length", "shm/a.cpp", "// " + "x" * 98 + "\n")
        self.expect("function-length", "shm/a.cpp", f"void f(int x) {{\n{LONG_BODY}}}\n")
        self.expect("parameters", "shm/a.cpp", "int f(int a, int b, int c, int d, int e, int g, "
                    "int h) {\n  return a;\n}\n")  # fmt: skip
        self.expect("header", "shm/a.hpp", "int x;\n")

    def test_types_of_one_name(self):
        word = "namespace millrace::shm {\ntemplate <class T>\nstruct alignas(8) Word final : Base<T> {\n};\n}\n"
        twice = {"shm/word.hpp": "#pragma once\n" + word}
        with unittest.mock.patch.dict(CLEAN, twice):
            self.expect("one-definition", "shm/words.cpp", word)
            for other in [
                word.replace("millrace::shm", "millrace::sched"),
                word.replace("::shm {", "::shm {\nnamespace {").replace("}\n}", "}\n}\n}"),
                word.replace(" final : Base<T> {\n}", ""),
                word.replace("Word", "Word<int>"),
                "namespace millrace::shm {\nstruct A {\n  struct Word {};\n};\nWord f() {\n}\n}\n",
            ]:
                with self.subTest(text=other):
                    self.assertEqual(self.violations("shm/words.cpp", other), [])

    def test_top_level_and_words(self):
        self.expect("top-level", "docs/a.md", "text\n")
        self.expect("words", "README.md", "see /wo" + "rk/shared\n")
        self.expect("words", "shm/a.cpp", "// TO" + "DO: later\n")
        self.expect("words", "tests/shm/a.cpp", "GTEST_SK" + "IP();\n")


class FunctionFinder(unittest.TestCase):
    def found(self, text):
        return [(name, lines, count) for _, name, lines, count in functions.functions(text)]

    def test_long_functions_of_every_kind(self):
        for head, name in [
            ("int f() ", "f"),
            ("auto A::f(int a, std::map<int, int> b) const noexcept -> int ", "A::f"),
            ("template <class T, int N = (3 > 2)>\nvoid f(T t) requires (sizeof(T) > 1) ", "f"),
            ("namespace a { class B : public C<int> { void f(int a = g(1, 2)) override ", "f"),
            ("A::A(int x) : b_(x), c_(x) ", "A::A"),
            ("A::A(int x) : b_{x}, c_{x} ", None),
            ("bool A::operator()(int a) const ", "A::operator_call"),
            ("TEST(Ring, PushFailsWhenFull) ", "TEST"),
            ('extern "C" int f(void) ', "f"),
        ]:
            with self.subTest(head=head):
                ends = "}}" if head.startswith("namespace") else ""
                found = self.found(f"{head}{{\n{LONG_BODY}}}{ends}\n")
                long = [entry for entry in found if entry[1] == 82 + head.count("\n")]
                self.assertEqual(len(long), 1, found)
                if name:
                    self.assertEqual(long[0][0], name)

    def test_what_is_no_function(self):
        for head in ["namespace a ", "struct alignas(64) S final : T<f(1)> ", "enum class E : int ",
                     "constexpr int kTable[] = ", "const std::vector<int> kTable"]:  # fmt: skip
            with self.subTest(head=head):
                self.assertEqual(self.found(f"{head}{{\n\n\n}};\n"), [])

    def test_parameters(self):
        for head, count in [
            ("void f() ", 0),
            ("void f(int) ", 1),
            ("void f(std::pair<int, int> a, int (*g)(int, int), T x = {1, 2}) ", 3),
            ("template <class A, class B, class C> void f(A, B) noexcept(g(1, 2, 3)) ", 2),
        ]:
            with self.subTest(head=head):
                self.assertEqual(self.found(f"{head}{{\n}}\n")[0][2], count)


if __name__ == "__main__":
    unittest.main()
