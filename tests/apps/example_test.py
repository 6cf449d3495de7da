"""Runs an example and compares its output with what is expected.

example_test.py EXPECTED COMMAND...: standard output must be EXPECTED's text, the exit status 0. Lines of
EXPECTED that start with "~ " are regular expressions; "* " in front marks lines that may come in any
order among their neighbours that are marked so too.
"""

import re
import subprocess
import sys
from itertools import groupby


def matches(wanted: str, line: str) -> bool:
    if wanted.startswith("~ "):
        return re.fullmatch(wanted[2:], line) is not None
    return wanted == line


def blocks(wanted: list[str]) -> list[tuple[bool, list[str]]]:
    """Runs of lines in any order (True) or in this one (False)."""
    return [(loose, list(lines)) for loose, lines in groupby(wanted, key=lambda l: l.startswith("* "))]


def difference(wanted: list[str], got: list[str]) -> str | None:
    at = 0
    for loose, lines in blocks(wanted):
        found = got[at : at + len(lines)]
        at += len(lines)
        if len(found) < len(lines):
            return f"{len(lines) - len(found)} lines missing, from: {lines[len(found)]!r}"
        for line in lines:
            text = line[2:] if loose else line
            fit = next((f for f in found if matches(text, f)), None) if loose else found[0]
            if fit is None or not matches(text, fit):
                return f"expected {text!r}, got {fit if fit is not None else found!r}"
            found.remove(fit)
    return None if at == len(got) else f"more than expected: {got[at:]!r}"


def main(expected: str, *command: str) -> int:
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    with open(expected, encoding="utf-8") as file:
        problem = difference(file.read().splitlines(), run.stdout.splitlines())
    if run.returncode != 0:
        problem = f"exit status {run.returncode}"
    if problem is not None:
        print(f"{problem}\n--- standard output\n{run.stdout}--- standard error\n{run.stderr}")
    return problem is not None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
