"""Line coverage of each parser's files, from `llvm-cov export -summary-only` on standard input.

usage: coverage.py LIST LEAST_PERCENT TARGET...

LIST is what tests/fuzz/targets.cmake writes: a target's name, its longest input, its files. One line
a file and one a parser; the exit status is 1 if fewer of a parser's lines than that are reached.
"""
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main(list_path, least, *targets):
    [data] = json.load(sys.stdin)["data"]
    counts = {os.path.realpath(file["filename"]): file["summary"]["lines"] for file in data["files"]}
    short = []
    show("parser", "file", "lines", "reached", "percent")
    for line in pathlib.Path(list_path).read_text(encoding="ascii").splitlines():
        parser, _, *names = line.split()
        if parser not in targets:
            continue
        found = [(name, counts[str(ROOT / name)]) for name in names if str(ROOT / name) in counts]
        rows = [(name, count["count"], count["covered"]) for name, count in found]
        lines, reached = sum(row[1] for row in rows), sum(row[2] for row in rows)
        for row in rows + [("all of it", lines, reached)]:
            show(parser, *row, f"{100 * row[2] / max(row[1], 1):.1f}")
        if lines == 0 or 100 * reached < float(least) * lines:
            short.append(parser)
    for parser in short:
        print(f"fuzz: {parser}: {least} % of its lines are expected to be reached", file=sys.stderr)
    return 1 if short else 0


def show(parser, name, lines, reached, percent):
    print(f"{parser:<16} {name:<44} {lines:>7} {reached:>7} {percent:>7}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
