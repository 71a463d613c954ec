#!/usr/bin/env python3
"""The table of the served model: `penstock serve` under `penstock bench serve` on the same host, with
the trace of trace.py (1000 requests, seed 1): all at once, then at given rates. A small run before
warms both up and is not told. Prints a table and keeps the figures in
tests/bench/results/<name>_served.json.

  served_table.py --name h200                              # 8B, made-up weights, two minutes
  served_table.py --name h200_invariant -- --device cuda:0 --precision bf16 --invariant
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import program  # noqa: E402
import trace  # noqa: E402

SERVER = ["--device", "cuda:0", "--precision", "bf16", "--max-sequences", "512",
          "--max-step-tokens", "2048", "--kv-memory-mib", "65000", "--max-queued-requests", "1100",
          "--max-queued-tokens", "2000000"]


def bench(args, server, folder, requests, rate, seed):
    trace_path, json_path = folder / "trace.jsonl", folder / "figures.json"
    rows = trace.trace(requests, rate, seed)
    trace_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = subprocess.run([args.penstock, "bench", "serve", "--server", server.address,
                             "--trace", str(trace_path), "--json", str(json_path),
                             "--connections", str(args.connections)], stdout=subprocess.PIPE,
                            text=True)
    print(result.stdout, file=sys.stderr, flush=True)
    if result.returncode != 0:
        sys.exit(f"bench serve failed; the server's last lines:\n{server.log()[-2000:]}")
    return json.loads(json_path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the file of results: h200, h200x2")
    parser.add_argument("--model", default="dummy:llama-3-8b")
    parser.add_argument("--rates", nargs="*", type=float, default=[0, 30, 60],
                        help="requests a second; 0: all at once")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=4, help="of the client")
    parser.add_argument("--penstock", default=str(ROOT / "build/cuda/frontend/penstock"))
    parser.add_argument("--results", default=str(ROOT / "tests/bench/results"), metavar="FOLDER")
    parser.add_argument("--commit", default="unknown", help="of the program")
    parser.add_argument("flags", nargs="*", metavar="FLAG",
                        help=f"behind --: flags for the server (default: {' '.join(SERVER)})")
    args = parser.parse_args()
    program.BINARY = args.penstock
    flags = args.flags or SERVER
    start = time.monotonic()
    server = program.Server(*flags, model=args.model)
    ready = time.monotonic() - start
    entries = []
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
            folder = pathlib.Path(name)
            bench(args, server, folder, min(args.requests, 64), 0, 2)
            for rate in args.rates:
                figures = bench(args, server, folder, args.requests, rate, 1)
                entries.append({"rate": rate, "ready_seconds": round(ready, 2), "flags": flags,
                                "model": args.model, "commit": args.commit,
                                "date": datetime.date.today().isoformat(), **figures})
    finally:
        server.close()
    path = pathlib.Path(args.results, f"{args.name}_served.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + "\n")
    print(f"{args.model}, {args.requests} requests, {' '.join(flags)}; ready in {ready:.1f} s")
    print("| requests/s | output tokens/s | first token p50, p99 ms | time per token p50, p99 ms |")
    print("| --- | --- | --- | --- |")
    for each in entries:
        first, token = each["first_token_ms"], each["time_per_token_ms"]
        print(f"| {each['rate'] or 'all at once'} | {each['output_tokens_per_second']:.0f} "
              f"| {first['p50']:.1f}, {first['p99']:.1f} | {token['p50']:.2f}, {token['p99']:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
