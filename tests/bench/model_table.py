#!/usr/bin/env python3
"""The table of whole steps on one GPU: `penstock bench model` and peer_torch.py on the same shapes.

The two take turns by whole runs (ours, torch, torch, ours: the order is a flag), since both would
not fit on a GPU at once; a figure is the median of a run's steps, and of two runs their mean.
Prints a table and keeps, in tests/bench/results/<gpu>_model.json, the last figures of each case;
that file is written after every run, so that a call that is cut off has lost one run at most.

  model_table.py --cases 7B                  # all of 7B: 10 minutes
  model_table.py --penstock build/cuda/frontend/penstock --cases '7B 1x1024' '7B prefill 1x2048'
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER = ROOT / "tests/bench/peer_torch.py"
# Ours; ours where a case is longer than the first one's context; the peer's.
MODELS = {
    "7B": ("dummy:llama-2-7b", "dummy:llama-2-7b-16k", "llama-2-7b"),
    "8B": ("dummy:llama-3-8b", "dummy:llama-3-8b", "llama-3-8b"),
    "tiny": ("dummy:tiny", "dummy:tiny", None),
}
CONTEXT = 4096  # of the first of them, where there is a second
PREFILLS = ("prefill 1x2048", "prefill 1x8192", "prefill 4x2048")
CASES = {
    "7B": ("1x1024", "8x1024", "64x1024") + PREFILLS,
    "8B": ("1x1024", "8x1024", "64x1024", "256x1024") + PREFILLS,
    "tiny": (),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def read_cases(words):
    """["7B", "8B 1x1024"] as {"7B": [...], "8B": ["1x1024"]}."""
    chosen = {}
    for word in words:
        model, _, case = word.partition(" ")
        if model not in MODELS or (case and not re.fullmatch(r"(prefill )?\d+x\d+", case)):
            sys.exit(f"'{word}' is no case: write a model ({', '.join(MODELS)}), or a model and a "
                     "case, as in '7B 1x1024' or '8B prefill 1x2048'")
        cases = chosen.setdefault(model, [])
        cases += [new for new in ([case] if case else CASES[model]) if new not in cases]
    return chosen


def size_of(case):
    return tuple(map(int, case.rpartition(" ")[2].split("x")))


def run_ours(model, cases, args):
    """What `penstock bench model --json` wrote."""
    short, long, _ = MODELS[model]
    name = long if any(size_of(case)[1] > CONTEXT for case in cases) else short
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        path = pathlib.Path(folder, "figures.json")
        command = [args.penstock, "bench", "model", "--model", name, "--device", args.device,
                   "--precision", args.precision, "--json", str(path)]
        for case in cases:
            command += ["--case", case.replace("prefill ", "prefill:")]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        say(result.stdout)
        if not path.exists():
            sys.exit(f"{args.penstock} failed: see above")
        return json.loads(path.read_text()), result.returncode == 0


def run_torch(model, cases, cache):
    """Milliseconds by case; without those that it does not have: several prompts at once."""
    command = [sys.executable, str(PEER), "--model", MODELS[model][2]]
    names = {}
    for case in cases:
        batch, tokens = size_of(case)
        if not case.startswith("prefill"):
            command += ["--decode", case]
            names[f"decode {case}"] = case
        elif batch == 1:
            command += ["--prefill", str(tokens)]
            names[f"prefill {tokens}"] = case
    if not names:
        return {}
    # What the first run has compiled, the second one finds.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment)
    say(result.stdout)
    if result.returncode != 0:
        say(f"the peer failed:\n{result.stderr[-2000:]}")
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {names[line["case"]]: line["ms"] for line in lines}


def mean(values):
    return sum(values) / len(values) if values else None


def rounded(value, digits=3):
    return None if value is None else round(value, digits)


class Table:
    def __init__(self, args):
        self.args = args
        self.rows = {}  # by "7B 1x1024"
        self.gpu = None

    def row(self, model, case):
        return self.rows.setdefault(f"{model} {case}", {"ours": [], "torch": [], "floor": []})

    def add_ours(self, model, figures):
        self.gpu = figures["device_name"]
        for each in figures["cases"]:
            row = self.row(model, each["case"].replace("prefill:", "prefill "))
            row["ours"].append(each["ms"])
            if each["floor_ms"] is not None:
                row["floor"].append(each["floor_ms"])

    def add_torch(self, model, times):
        for case, ms in times.items():
            self.row(model, case)["torch"].append(ms)

    def path(self):
        # "NVIDIA H100 80GB HBM3" is h100.
        short = re.search(r"\b[A-Z]{1,3}\d{2,4}\w*\b", self.gpu)
        name = short.group() if short else re.sub(r"\W+", "_", self.gpu)
        return pathlib.Path(self.args.results, f"{name.lower()}_model.json")

    def write(self):
        if self.gpu is None:
            return
        kept = json.loads(self.path().read_text()) if self.path().exists() else []
        kept = {entry["case"]: entry for entry in kept}
        for case, row in self.rows.items():
            if row["ours"]:
                kept[case] = {
                    "case": case, "ours_ms": rounded(mean(row["ours"])),
                    "torch_ms": rounded(mean(row["torch"])),
                    "floor_ms": rounded(mean(row["floor"])),
                    "ours_runs": [rounded(ms) for ms in row["ours"]],
                    "torch_runs": [rounded(ms) for ms in row["torch"]],
                    "gpu": self.gpu, "commit": self.args.commit, "date": self.args.date}
        self.path().parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(kept[case]) for case in sorted(kept))
        self.path().write_text(f"[\n{lines}\n]\n")

    def print(self):
        print(f"{self.gpu}, {self.args.precision}, commit {self.args.commit}, {self.args.date}")
        print("| case | ours ms | torch ms | ours / torch | floor ms | share of the floor |")
        print("| --- | --- | --- | --- | --- | --- |")
        for case, row in self.rows.items():
            ours, torch, floor = mean(row["ours"]), mean(row["torch"]), mean(row["floor"])
            ratio = ours / torch if ours and torch else None
            share = floor / ours if ours and floor else None
            cells = [case] + [f"{value:.3f}" if value else ""
                              for value in (ours, torch, ratio, floor, share)]
            print("| " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["7B"], metavar="CASE",
                        help="7B, 8B (all of their cases), or single ones: '8B prefill 1x2048'")
    parser.add_argument("--penstock", default=str(ROOT / "build/cuda/frontend/penstock"),
                        help="the program, which may have been built elsewhere")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--order", default="ABBA", help="A: ours, B: torch; default ABBA")
    parser.add_argument("--results", default=str(ROOT / "tests/bench/results"), metavar="FOLDER")
    parser.add_argument("--commit", help="of the program (default: this tree's)")
    parser.add_argument("--minutes", type=float, default=9.5,
                        help="start no run after so long; the table has what there is by then")
    args = parser.parse_args()
    if not args.commit:
        head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
                              capture_output=True, text=True)
        args.commit = head.stdout.strip() or "unknown"
    args.date = datetime.date.today().isoformat()
    start = time.monotonic()
    table = Table(args)
    is_right = True
    with tempfile.TemporaryDirectory(prefix="penstock-torch-") as cache:
        for model, cases in read_cases(args.cases).items():
            for turn in args.order:
                elapsed = time.monotonic() - start
                if elapsed > args.minutes * 60:
                    say(f"{elapsed:.0f} s: no time for another run")
                    break
                say(f"{elapsed:.0f} s: {model}, {'ours' if turn == 'A' else 'torch'}")
                if turn == "A":
                    figures, ok = run_ours(model, cases, args)
                    is_right = is_right and ok
                    table.add_ours(model, figures)
                elif MODELS[model][2]:
                    table.add_torch(model, run_torch(model, cases, cache))
                table.write()
    table.print()
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
