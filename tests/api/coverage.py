#!/usr/bin/env python3
"""Which items of Python's multiprocessing have tests.

The items and their names stand in python_items.txt. A test names those it covers, in its own name
(NulsAtTheEndStayH10) or in a comment (P08-09). COVERAGE.md is made of both.

    coverage.py                    writes COVERAGE.md
    coverage.py --check            fails when COVERAGE.md is not what would be written, an item of
                                   a finished area has no test, or PORTED.md names a case that is
                                   not there
    coverage.py --against FILE     which methods of CPython's test file PORTED.md lacks
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
PAGE = HERE / "COVERAGE.md"
PORTED = HERE / "PORTED.md"
CASE = re.compile(r"^(?:TYPED_)?TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)
NAMED = re.compile(r"(?<![A-Z0-9])([A-Z])(\d\d)(?:\s*-\s*\1?(\d\d))?(?!\d)")


def ids(letter: str, first: str, last: str | None) -> list[str]:
    return [f"{letter}{n:02}" for n in range(int(first), int(last or first) + 1)]


def read_items() -> tuple[dict[str, str], dict[str, dict[str, list[str]]], set[str]]:
    """Titles of the areas, their lines {text: ids}, the letters of the finished areas."""
    titles: dict[str, str] = {}
    areas: dict[str, dict[str, list[str]]] = {}
    finished: set[str] = set()
    for line in (HERE / "python_items.txt").read_text().splitlines():
        if head := re.fullmatch(r"\[([A-Z])( finished)?\] (.*)", line):
            letter = head[1]
            titles[letter] = head[3]
            areas[letter] = {}
            if head[2]:
                finished.add(letter)
        elif item := re.fullmatch(r"([A-Z])(\d\d)(?:-(\d\d))? (.*)", line):
            areas[item[1]][item[4]] = ids(*item.groups()[:3])
    return titles, areas, finished


def read_tests() -> dict[str, set[str]]:
    """Of each item, the files that name it."""
    found = defaultdict(set)
    for path in sorted([*TESTS.rglob("*_test.cpp"), *TESTS.rglob("*_test.py")]):
        for name in NAMED.finditer(path.read_text()):
            for item in ids(*name.groups()):
                found[item].add(path.relative_to(TESTS).with_suffix("").as_posix())
    return found


def page(titles, areas, found) -> str:
    out = ["# Python's multiprocessing, item by item", "", "Made by coverage.py.", ""]
    out += ["| area | items | with tests |", "|---|---|---|"]
    for letter, lines in areas.items():
        items = [item for group in lines.values() for item in group]
        tested = sum(item in found for item in items)
        out.append(f"| {letter} {titles[letter]} | {len(items)} | {tested} |")
    for letter, lines in areas.items():
        out += ["", f"## {letter} {titles[letter]}", ""]
        out += ["| item | in Python | tests |", "|---|---|---|"]
        for text, items in lines.items():
            span = items[0] if len(items) == 1 else f"{items[0]}-{items[-1][1:]}"
            tests = sorted(set().union(*(found[item] for item in items if item in found)))
            lacking = [item for item in items if item not in found]
            if lacking and tests:
                tests.append(f"none for {', '.join(lacking)}")
            out.append(f"| {span} | {text.replace('|', '/')} | {', '.join(tests) or '-'} |")
    return "\n".join(out) + "\n"


def read_ported() -> dict[str, str]:
    """Of each of CPython's test methods, what PORTED.md says; a second row is marked as one."""
    rows: dict[str, str] = {}
    for method, here in re.findall(r"^\| (\w+\.\w+) \| (.+) \|$", PORTED.read_text(), re.MULTILINE):
        rows[method] = "twice" if method in rows else here
    return rows


def check_ported() -> list[str]:
    cases = {
        f"{suite}.{case}"
        for path in TESTS.rglob("*_test.cpp")
        for suite, case in CASE.findall(path.read_text())
    }
    return [
        f"PORTED.md, {method}: no case {name}"
        for method, here in read_ported().items()
        if not here.startswith("(")
        for name in here.split(", ")
        if name not in cases
    ]


def compare_ported(source: str) -> list[str]:
    """CPython gives one class two test_list: a name is looked for once."""
    methods = set()
    for line in Path(source).read_text().splitlines():
        if head := re.match(r"class (\w+)", line):
            name = head[1]
        elif method := re.match(r"    def (test_\w+)", line):
            methods.add(f"{name}.{method[1]}")
    return [f"{method}: only there" for method in sorted(methods - read_ported().keys())] + [
        f"{method}: only in PORTED.md" for method in sorted(read_ported().keys() - methods)
    ]


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--against"]:
        differences = compare_ported(arguments[1])
        print("\n".join(differences) or "PORTED.md has all of its methods")
        return 1 if differences else 0
    titles, areas, finished = read_items()
    found = read_tests()
    text = page(titles, areas, found)
    if arguments != ["--check"]:
        PAGE.write_text(text)
        return 0
    problems = [
        f"{item} ({line}): no test names it"
        for letter in sorted(finished)
        for line, items in areas[letter].items()
        for item in items
        if item not in found
    ]
    problems += check_ported()
    if not PAGE.exists() or PAGE.read_text() != text:
        problems.append("COVERAGE.md is not up to date: run tests/api/coverage.py")
    print("\n".join(problems) or "all items of the finished areas have tests")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
