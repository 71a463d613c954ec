#!/usr/bin/env python3
"""A piece of a server's timeline (serve --trace-file) as a picture (SVG): the plans on each stage.

  timeline_picture.py timeline.json full.svg --rows 32 --length 60      # from where plans have 32 rows
  timeline_picture.py timeline.json single.svg --rows 1 --length 20
"""
import argparse
import json
import pathlib
import sys

WIDTH, LEFT, ROW, GAP, TOP = 1100, 80, 44, 16, 34
COLOURS = ("#4878a8", "#d08c3c", "#5c9c64", "#9868a4")


def plans(path):
    """[{"stage", "plan", "rows", "prefill", "start", "dur"}], in us, by start."""
    text = pathlib.Path(path).read_text()
    try:
        events = json.loads(text)
    except json.JSONDecodeError:  # the server was killed: the last line is cut off
        events = json.loads(text[:text.rindex("\n")].rstrip().rstrip(",") + "]")
    found = [{"stage": event["pid"], "plan": event["args"]["plan"], "rows": event["args"]["rows"],
              "prefill": event["args"]["prefill tokens"], "start": event["ts"],
              "dur": event["dur"]}
             for event in events if event.get("ph") == "X" and event["name"] == "compute"]
    first = min(plan["stage"] for plan in found)
    for plan in found:
        plan["stage"] -= first
    return sorted(found, key=lambda plan: plan["start"])


def begin_of(found, rows):
    """The middle of the longest stretch of plans that decode so many rows."""
    stretch, longest = [], []
    for plan in found:
        stretch = stretch + [plan] if plan["rows"] == rows and plan["prefill"] == 0 else []
        longest = max(longest, stretch, key=len)
    if not longest:
        sys.exit(f"no plan decodes {rows} rows: they have "
                 f"{sorted({plan['rows'] for plan in found if not plan['prefill']})}")
    return longest[len(longest) // 2]["start"]


def draw(found, begin, length):
    stages = max(plan["stage"] for plan in found) + 1
    height = TOP + stages * (ROW + GAP) + 20
    scale = (WIDTH - LEFT - 10) / length
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    step = next(step for base in (1, 10, 100, 1000) for step in (base, 2 * base, 5 * base)
                if length / step <= 12)
    for tick in range(0, int(length) + 1, step):
        x = LEFT + tick * scale
        lines.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 18}" '
                     'stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{TOP - 14}" text-anchor="middle">{tick} ms</text>')
    for stage in range(stages):
        y = TOP + stage * (ROW + GAP)
        lines.append(f'<text x="8" y="{y + ROW / 2 + 4}">stage {stage}</text>')
        lines.append(f'<rect x="{LEFT}" y="{y}" width="{length * scale:.1f}" height="{ROW}" '
                     'fill="#f0f0f0"/>')
    for plan in found:
        from_ms = (plan["start"] - begin) / 1e3
        to_ms = from_ms + plan["dur"] / 1e3
        if to_ms <= 0 or from_ms >= length:
            continue
        x, end = LEFT + max(from_ms, 0) * scale, LEFT + min(to_ms, length) * scale
        y = TOP + plan["stage"] * (ROW + GAP)
        what = f"{plan['rows']} rows" + (f", {plan['prefill']} of prompts" if plan["prefill"] else "")
        lines.append(f'<rect x="{x:.1f}" y="{y}" width="{end - x:.1f}" height="{ROW}" '
                     f'fill="{COLOURS[plan["plan"] % len(COLOURS)]}"><title>plan {plan["plan"]}: '
                     f'{what}, {plan["dur"] / 1e3:.3f} ms</title></rect>')
        if end - x > 40:
            lines.append(f'<text x="{(x + end) / 2:.1f}" y="{y + ROW / 2 + 4}" fill="white" '
                         f'text-anchor="middle">{plan["plan"]}</text>')
    return "\n".join(lines + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("timeline")
    parser.add_argument("picture")
    parser.add_argument("--rows", type=int, help="where plans decode so many rows")
    parser.add_argument("--begin", type=float, help="or from here on, ms since the first plan")
    parser.add_argument("--length", type=float, default=50, help="ms")
    args = parser.parse_args()
    found = plans(args.timeline)
    if args.begin is not None:
        begin = found[0]["start"] + args.begin * 1e3
    else:
        begin = begin_of(found, args.rows or max(plan["rows"] for plan in found))
    pathlib.Path(args.picture).write_text(draw(found, begin, args.length))
    return 0


if __name__ == "__main__":
    sys.exit(main())
