"""A worker that dies or hangs loses no stream: the answers go on, and are the same to the byte.

PENSTOCK_TEST_KILLS (default 2) kills of each stage, PENSTOCK_TEST_STOPS (default 1) stops of each;
of PENSTOCK_TEST_STREAMS streams (default 6) of PENSTOCK_TEST_TOKENS tokens (default 150) the
longest gap after each is printed. PENSTOCK_TEST_SERVE has flags more for the server,
such as "--transport peer", or "--device cuda --precision bf16 --invariant --transport peer".
"""

import os
import signal
import threading
import time
import unittest

from processes import alive, kill, wait_until, workers
from program import MODEL, PATIENCE, ProgramTest, Server, generate, run, setUpModule, start_generate, text

SLOW = PATIENCE > 1  # a sanitizer's programs: less of everything
KILLS = int(os.environ.get("PENSTOCK_TEST_KILLS", "1" if SLOW else "2"))
STOPS = int(os.environ.get("PENSTOCK_TEST_STOPS", "1"))
STREAMS = int(os.environ.get("PENSTOCK_TEST_STREAMS", "2" if SLOW else "6"))
TOKENS = os.environ.get("PENSTOCK_TEST_TOKENS", "50" if SLOW else "150")
# The crash loop's limit is of no use where stages are killed on purpose.
SERVER = ("--stages", "2", "--min-plan-limit", str(PATIENCE), "--hang-limit",
          str(2 * PATIENCE), *os.environ.get("PENSTOCK_TEST_SERVE", "").split())


def request(index):
    return ("--prompt", f"Story number {index}: once upon a time", "--temperature", "0.9", "--seed",
            str(100 + index), "--max-tokens", TOKENS, "--ignore-eos")


class Reader(threading.Thread):
    """Reads a client's output as it comes and keeps the longest time without any."""

    def __init__(self, client):
        super().__init__()
        self.client, self.output, self.gap = client, b"", 0.0
        self.start()

    def run(self):
        last = time.monotonic()
        while byte := self.client.stdout.read(1):
            now = time.monotonic()
            self.gap, last = max(self.gap, now - last), now
            self.output += byte
        self.errors = text(self.client.stderr.read())
        self.client.wait()
        self.client.stdout.close()
        self.client.stderr.close()


class RecoveryTest(ProgramTest):
    def serve(self, *arguments):
        server = Server(*SERVER, "--max-deaths", "1000", *arguments)
        self.addCleanup(server.close)
        return server

    def strike(self, server, expected, stage, number):
        """Streams run; a stage is struck; all streams end as if nothing had been."""
        readers = [Reader(start_generate(server, *request(i))) for i in range(STREAMS)]
        wait_until(lambda: all(len(reader.output) > 20 for reader in readers), "streams to begin")
        victim = workers(server)[stage]
        kill(victim, number)
        for reader in readers:
            reader.join()
        for reader, answer in zip(readers, expected):
            self.assertEqual(reader.client.returncode, 0, reader.errors)
            self.assertEqual(text(reader.output), answer + "\n")
        wait_until(lambda: not alive(victim), "the struck process to be gone")
        wait_until(lambda: len(workers(server)) == 2, "two workers")
        gap = max(reader.gap for reader in readers)
        print(f"stage {stage}, {signal.Signals(number).name}: longest gap {gap:.2f} s", flush=True)

    def test_killed_and_stopped_workers_lose_no_stream(self):
        server = self.serve()
        expected = [generate(*request(i), server=server)["text"]
                    for i in range(STREAMS)]
        for number, times in ((signal.SIGKILL, KILLS), (signal.SIGSTOP, STOPS)):
            for _ in range(times):
                for stage in (0, 1):
                    with self.subTest(stage=stage, signal=number):
                        self.strike(server, expected, stage, number)

    def test_a_worker_that_dies_while_nothing_runs_is_replaced(self):
        server = self.serve()
        before = generate("--prompt", "a", "--max-tokens", "8", server=server)["ids"]
        victim = workers(server)[1]
        kill(victim)
        server.wait_for_log("recovered")
        self.assertNotIn(victim, workers(server))
        self.assertEqual(generate("--prompt", "a", "--max-tokens", "8", server=server)["ids"], before)

    def test_a_crash_loop_has_an_end(self):
        server = Server(*SERVER, "--max-deaths", "2")
        self.addCleanup(server.close)
        for _ in range(3):
            wait_until(lambda: len(workers(server)) == 2 or "given up" in server.log(), "workers")
            if "given up" in server.log():
                break
            kill(workers(server)[0])
            time.sleep(0.5 * PATIENCE)
        server.wait_for_log("given up")
        result = run("generate", "--server", server.address, "--prompt", "a")
        self.assertFails(result, 1, "UNAVAILABLE")


if __name__ == "__main__":
    unittest.main()
