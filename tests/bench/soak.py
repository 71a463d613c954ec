#!/usr/bin/env python3
"""A server of several stages under load for minutes, with a killed worker in the middle and a drain at
the end: every request must come to its end, and memory of host and GPUs, descriptors and threads
must end where they began. Ends with 1 where they do not.

  soak.py --rate 75                                             # 8B on two GPUs, two minutes
  soak.py --model dummy:tiny --rate 20 --seconds 20 -- --device cpu --stages 2 --threads 1
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import program  # noqa: E402
import trace  # noqa: E402
from processes import kill, wait_until, workers  # noqa: E402

SERVER = ["--device", "cuda", "--stages", "2", "--precision", "bf16", "--max-sequences", "1024",
          "--max-step-tokens", "2048"]
QUEUE = ["--max-queued-requests", "100000", "--max-queued-tokens", "100000000"]
HOST_GROWTH = 0.1  # of resident memory: histograms and pools of gRPC fill up
THREADS = 4        # gRPC's pool comes and goes
WARM_SECONDS = 10


def gpu_memory():
    """MiB in use, by GPU; none where there is no nvidia-smi."""
    try:
        result = subprocess.run(["nvidia-smi", "--query-gpu=memory.used",
                                 "--format=csv,noheader,nounits"], capture_output=True, text=True)
    except OSError:
        return []
    return [int(line) for line in result.stdout.split()] if result.returncode == 0 else []


def process_state(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {"MiB": int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) // 1024,
            "threads": int(re.search(r"Threads:\s+(\d+)", status).group(1)),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


def metric(server, name, label=""):
    text = urllib.request.urlopen(f"{server.metrics}/metrics").read().decode()
    return [float(line.rpartition(" ")[2]) for line in text.splitlines()
            if re.match(rf"{name}[{{ ]", line) and label in line]


def state(server):
    """By process: the front end, then the workers; what they use."""
    time.sleep(3)  # idle connections and calls are gone
    processes = {"front end": process_state(server.process.pid)}
    for i, pid in enumerate(workers(server)):
        processes[f"worker {i}"] = process_state(pid)
    return {"processes": processes, "gpu MiB": gpu_memory(),
            "device bytes": metric(server, "penstock_stage_device_memory_used_bytes"),
            "blocks owned": metric(server, "penstock_kv_blocks", 'state="owned"')}


class Load:
    def __init__(self, args, server, folder, rows, name):
        path = folder / f"{name}.jsonl"
        self.json = folder / f"{name}.json"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.process = subprocess.Popen(
            [args.penstock, "bench", "serve", "--server", server.address, "--trace", str(path),
             "--json", str(self.json)], stdout=subprocess.PIPE, text=True)

    def end(self, what):
        output, _ = self.process.communicate()
        if self.process.returncode != 0:
            sys.exit(f"{what}: requests failed:\n{output}")
        return json.loads(self.json.read_text())


def load_and_kill(args, server, folder, rows, seconds):
    load = Load(args, server, folder, rows, "load")
    time.sleep(seconds / 2)
    victim = workers(server)[-1]
    kill(victim)
    figures = load.end("under load, with a killed worker")
    wait_until(lambda: victim not in workers(server), "the killed worker to be replaced")
    return figures


def compare(before, after):
    wrong = []
    for name, process in before["processes"].items():
        now = after["processes"][name]
        for key, more in (("threads", THREADS), ("descriptors", 0)):
            if now[key] > process[key] + more:
                wrong.append(f"{name}: {key} {process[key]} -> {now[key]}")
        if now["MiB"] > process["MiB"] * (1 + HOST_GROWTH) + 16:
            wrong.append(f"{name}: {process['MiB']} -> {now['MiB']} MiB of the host")
    for key in ("gpu MiB", "device bytes", "blocks owned"):
        if after[key] != before[key]:
            wrong.append(f"{key}: {before[key]} -> {after[key]}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dummy:llama-3-8b")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--penstock", default=str(ROOT / "build/cuda/frontend/penstock"))
    parser.add_argument("flags", nargs="*", metavar="FLAG",
                        help=f"behind --: flags for the server (default: {' '.join(SERVER)})")
    args = parser.parse_args()
    program.BINARY = args.penstock
    server = program.Server(*(args.flags or SERVER), *QUEUE, model=args.model)
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-soak-") as name:
            folder = pathlib.Path(name)
            rows = list(trace.trace(int(args.rate * args.seconds), args.rate, 3))
            # The same before it counts: gRPC makes threads on demand, some for each core.
            warm = list(trace.trace(int(args.rate * WARM_SECONDS), args.rate, 2))
            load_and_kill(args, server, folder, warm, WARM_SECONDS)
            before = state(server)
            figures = load_and_kill(args, server, folder, rows, args.seconds)
            after = state(server)
            rows = [{"arrival": 0, "prompt": 50, "output": 400, "seed": 10**6 + i}
                    for i in range(32)]
            drained = Load(args, server, folder, rows, "drain")
            wait_until(lambda: sum(metric(server, "vllm:num_requests_running")) == 32,
                       "32 requests to run")
            server.terminate()
            drained.end("while the server drained")
            code = server.wait()
            log = server.log()
    finally:
        server.close()
    print(f"{args.model}, {args.rate:g} requests/s for {args.seconds:g} s: {figures['completed']} "
          f"answers, {figures['output_tokens_per_second']:.0f} tokens/s, first token p50 "
          f"{figures['first_token_ms']['p50']:.1f} p99 {figures['first_token_ms']['p99']:.1f} ms, "
          f"longest time between tokens {figures['between_tokens_ms']['max']:.0f} ms")
    print("| | before | after |\n| --- | --- | --- |")
    for process, values in before["processes"].items():
        now = after["processes"][process]
        for key in values:
            print(f"| {process}, {key} | {values[key]} | {now[key]} |")
    for key in ("gpu MiB", "device bytes", "blocks owned"):
        print(f"| {key} | {before[key]} | {after[key]} |")
    for line in log.splitlines():
        if "recovered" in line or "device memory in use" in line:
            print(line)
    wrong = compare(before, after)
    if code != 0:
        wrong.append(f"the server ended with {code} where it was to drain")
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
