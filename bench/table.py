#!/usr/bin/env python3
"""Runs the benchmark programs (*_bench) below a folder and makes one table of what they print.

Each program prints JSON lines with bench, row, unit, ours, peer, peer_name, ratio (ours / peer),
target for the ratio (0 or null: none) and better ("lower" or "higher"). With --rounds N each runs N
times, all of them in turn, and the table holds medians. Written to bench/results: every line
(results.jsonl), the table as Markdown (table.md) and a plot (ratios.svg).
Exit status 1 when a program fails, not when a target is missed."""

import argparse
import collections
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from xml.sax.saxutils import escape

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
GREEN, RED, GREY = "#2e8b57", "#c0392b", "#8a94a0"


def programs(folder, patterns):
    found = sorted(p for p in folder.rglob("*_bench") if p.is_file() and os.access(p, os.X_OK))
    return [p for p in found if not patterns or any(pattern in p.name for pattern in patterns)]


def run(program):
    """The rows of one run; its stderr passes through."""
    print(f"  {program.name} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    done = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(f"  {program.name}: {len(rows)} rows, {time.monotonic() - start:.0f} s", file=sys.stderr)
    if done.returncode != 0 or not rows:
        print(f"  {program.name} ended with status {done.returncode}", file=sys.stderr)
    return rows, done.returncode == 0 and bool(rows)


def medians(runs):
    """One row for each (bench, row, peer), its numbers the medians over runs."""
    groups = collections.defaultdict(list)
    for row in runs:
        groups[row["bench"], row["row"], row.get("peer_name", "")].append(row)
    table = []
    for rows in groups.values():
        middle = dict(rows[0])
        for key in ("ours", "peer", "ratio"):
            values = [row[key] for row in rows if row.get(key) is not None]
            middle[key] = statistics.median(values) if values else None
        table.append(middle)
    return table


def margin(row):
    """How far on the good side of its target: 1 just reaches it. None without a target."""
    target, ratio = row.get("target"), row.get("ratio")
    if not target or not ratio:
        return None
    return target / ratio if row["better"] == "lower" else ratio / target


def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cells(row):
    good = margin(row)
    target = row.get("target")
    bound = f"{'<=' if row['better'] == 'lower' else '>='} {target:g}" if target else "-"
    mark = "-" if good is None else "pass" if good >= 1 else "MISS"
    return [
        row["bench"], row["row"], row["unit"], number(row["ours"]), number(row["peer"]),
        row.get("peer_name", ""), number(row["ratio"]), bound, mark,
    ]  # fmt: skip


HEAD = ["bench", "row", "unit", "ours", "peer", "peer is", "ratio", "target", ""]


def text_table(table):
    lines = [HEAD, *map(cells, table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    numeric = {3, 4, 6}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def markdown_table(table):
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, table)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def svg(table):
    """Bars of how far each ratio is from its target, logarithmic, those without one left out."""
    rows = [(row, margin(row)) for row in table if margin(row)]
    left, right, step, top = 430, 110, 20, 58
    reach = max([abs(math.log2(good)) for _, good in rows] + [1])
    middle, unit = left + 160, 160 / max(reach, 1)
    width, height = left + 320 + right, top + step * len(rows) + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<text x="16" y="24" font-size="16">millrace: measured ratios against their targets</text>',
        f'<text x="{middle}" y="{top - 10}" text-anchor="middle">target</text>',
    ]
    for i, (row, good) in enumerate(rows):
        y = top + i * step
        bar = math.log2(good) * unit
        name = f"{row['bench']}: {row['row']} / {row.get('peer_name', '')}"
        bound = f"{'<=' if row['better'] == 'lower' else '>='} {row['target']:g}"
        out += [
            f'<text x="{left - 10}" y="{y + 13}" text-anchor="end">{escape(name[:74])}</text>',
            f'<rect x="{min(middle, middle + bar):.1f}" y="{y + 3}" width="{abs(bar):.1f}" '
            f'height="{step - 6}" fill="{GREEN if good >= 1 else RED}"/>',
            f'<text x="{width - right + 6}" y="{y + 13}">{number(row["ratio"])} ({escape(bound)})</text>',
        ]
    out.append(
        f'<line x1="{middle}" x2="{middle}" y1="{top - 4}" y2="{height - 16}" stroke="{GREY}"/></svg>'
    )
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("patterns", nargs="*", help="run only programs with this in their name")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    chosen = programs(arguments.folder, arguments.patterns)
    if not chosen:
        sys.exit("no benchmark programs found")
    runs, good = [], True
    for _ in range(arguments.rounds):
        for program in chosen:
            rows, ok = run(program)
            runs += rows
            good = good and ok
    table = medians(runs)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in runs))
    (RESULTS / "table.md").write_text(markdown_table(table) + "\n")
    (RESULTS / "ratios.svg").write_text(svg(table))
    print("\n" + text_table(table))
    marks = [margin(row) for row in table]
    reached = sum(m is not None and m >= 1 for m in marks)
    wanted = sum(m is not None for m in marks)
    print(f"\n{reached} of {wanted} targets reached; plot and results in bench/results")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
