#!/usr/bin/env python3
"""The table of the pipeline: the same server with one stage and with two, a GPU each, under
`penstock bench serve` on the same host.

  full 128        128 requests at once, 896 tokens in and 257 out: output tokens a second from the
                  last first token to the first last one, when all of them decode (context 1024 in
                  the middle). The prompts come from the prefix cache: the run is the second.
  single          one such request: milliseconds a token.
  prefill 8191    first token of one prompt of that length that no cache has, milliseconds: the
                  least of three; whole on one GPU, in chunks over two.

The bubble is that of the fuller stage while all decode, from the server's --trace-file: one less
the share of time in which the stage computes, launches and its wait for the GPU included.
Prints a table and keeps the figures in tests/bench/results/<name>_pipeline.json.

  pipeline_table.py --name h200x2                        # all: five minutes
  pipeline_table.py --name h200x2 --models 7B -- --transport grpc
  pipeline_table.py --name cpu --models tiny -- --device cpu --threads 1    # does it run?
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import program  # noqa: E402
import timeline_picture  # noqa: E402

# What is run on one stage and on two; and what is compared with what: case, of one, of two.
MODELS = {
    "7B": {"model": "dummy:llama-2-7b", "prompt": 896, "output": 257, "longest": 2048,
           "runs": {1: [64, 1], 2: [128, 64, 1]}, "prefill": 0,
           "pairs": [("full 128 over 64", 64, 128), ("full 64", 64, 64), ("single", 1, 1)]},
    "8B": {"model": "dummy:llama-3-8b", "prompt": 896, "output": 257, "longest": 8192,
           "runs": {1: [256, 1], 2: [512, 1]}, "prefill": 8191,
           "pairs": [("full 512 over 256", 256, 512), ("single", 1, 1)]},
    "tiny": {"model": "dummy:tiny", "prompt": 40, "output": 60, "longest": 256,
             "runs": {1: [4, 1], 2: [8, 4, 1]}, "prefill": 200,
             "pairs": [("full 8 over 4", 4, 8), ("full 4", 4, 4), ("single", 1, 1)]},
}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    """One server, and what it was seen to do."""

    def __init__(self, args, name, stages, folder):
        self.args, self.model, self.stages = args, MODELS[name], stages
        self.trace = folder / f"timeline_{name}_{stages}.json"
        self.requests = folder / "requests.jsonl"
        self.json = folder / "figures.json"
        most = max(self.model["runs"][stages])
        flags = [] if "--device" in args.flags else ["--device", "cuda", "--precision", "bf16"]
        flags += ["--stages", str(stages), "--max-sequences", str(most), "--max-step-tokens",
                  str(max(self.model["longest"], most)), "--trace-file", str(self.trace),
                  "--max-queued-requests", "1024", "--max-queued-tokens", "2000000"]
        self.server = program.Server(*flags, *args.flags, model=self.model["model"])

    def bench(self, rows):
        self.requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = subprocess.run(
            [self.args.penstock, "bench", "serve", "--server", self.server.address, "--trace",
             str(self.requests), "--json", str(self.json)], stdout=subprocess.PIPE, text=True)
        say(result.stdout)
        if result.returncode != 0:
            sys.exit(f"bench serve failed; the server's last lines:\n{self.server.log()[-2000:]}")
        return json.loads(self.json.read_text())

    def decode(self, count):
        rows = [{"arrival": 0, "prompt": self.model["prompt"], "output": self.model["output"],
                 "seed": seed} for seed in range(count)]
        self.bench(rows)
        figures = self.bench(rows)
        if count == 1:
            return figures["between_tokens_ms"]["p50"]
        if figures["full_seconds"] == 0:
            sys.exit(f"{count} requests were never answered all at once: give the server room")
        return figures["full_tokens_per_second"]

    def prefill(self):
        self.bench([self.prompt(100)])
        return min(self.bench([self.prompt(101 + i)])["first_token_ms"]["p50"] for i in range(3))

    def prompt(self, seed):
        return {"arrival": 0, "prompt": self.model["prefill"], "output": 1, "seed": seed}

    def close(self):
        self.server.terminate()
        self.server.wait()
        log = self.server.log()
        self.server.close()
        for line in log.splitlines():
            if "device memory in use" in line or "mailboxes" in line:
                say(line)


def bubble(timeline, rows):
    """Of the fuller stage, in the longest time in which every plan decodes `rows` a round."""
    found = timeline_picture.plans(timeline)
    best = None
    for stage in sorted({plan["stage"] for plan in found}):
        stretch, longest = [], []
        for plan in (plan for plan in found if plan["stage"] == stage):
            keeps = plan["prefill"] == 0 and plan["rows"] * 4 >= rows
            stretch = stretch + [plan] if keeps else []
            longest = max(longest, stretch, key=len)
        if len(longest) < 10:
            return None
        wall = longest[-1]["start"] + longest[-1]["dur"] - longest[0]["start"]
        share = 1 - sum(plan["dur"] for plan in longest) / wall
        best = share if best is None else min(best, share)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the file of results: h200x2")
    parser.add_argument("--models", nargs="+", default=["7B", "8B"], choices=list(MODELS))
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    parser.add_argument("--penstock", default=str(ROOT / "build/cuda/frontend/penstock"))
    parser.add_argument("--results", default=str(ROOT / "tests/bench/results"), metavar="FOLDER")
    parser.add_argument("--timelines", metavar="FOLDER", help="keep the timelines there")
    parser.add_argument("--commit", default="unknown", help="of the program")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="behind --: more for the server")
    args = parser.parse_args()
    program.BINARY = args.penstock
    path = pathlib.Path(args.results, f"{args.name}_pipeline.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = []

    def add(case, unit, one, two, ratio=None):
        entries.append({"case": case, "one_gpu": one, "two_gpus": two, "ratio": ratio, "unit": unit,
                        "flags": args.flags, "commit": args.commit,
                        "date": datetime.date.today().isoformat()})
        path.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")

    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as temporary:
        folder = pathlib.Path(args.timelines or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.models:
            model, seen, bubbles = MODELS[name], {}, {}
            for stages in args.stages:
                say(f"{name}, {stages} stages")
                run = Run(args, name, stages, folder)
                try:
                    if model["prefill"]:
                        seen[stages, 0] = run.prefill()
                    for count in model["runs"][stages]:
                        seen[stages, count] = run.decode(count)
                finally:
                    run.close()
                bubbles[stages] = bubble(run.trace, max(model["runs"][stages]))
            for case, of_one, of_two in model["pairs"]:
                one, two = seen.get((1, of_one)), seen.get((2, of_two))
                if one is None and two is None:
                    continue
                unit = "ms/token" if case == "single" else "tok/s"
                add(f"{name} {case}", unit, one, two, two / one if one and two else None)
            if model["prefill"]:
                one, two = seen.get((1, 0)), seen.get((2, 0))
                add(f"{name} prefill {model['prefill']}", "ms", one, two,
                    one / two if one and two else None)
            add(f"{name} bubble of the fuller stage", "share", bubbles.get(1), bubbles.get(2))
    print(f"flags: {' '.join(args.flags) or 'none'}; commit {args.commit}")
    print("| case | one GPU | two GPUs | ratio | unit |")
    print("| --- | --- | --- | --- | --- |")
    for entry in entries:
        cells = [f"{entry[key]:.4g}" if entry[key] is not None else ""
                 for key in ("one_gpu", "two_gpus", "ratio")]
        print(f"| {entry['case']} | " + " | ".join(cells) + f" | {entry['unit']} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
