"""`penstock bench serve`: a trace against a server, its figures and its errors."""

import json
import pathlib
import tempfile
import unittest

from program import ProgramTest, Server, run, text
from program import setUpModule  # noqa: F401

TRACE = "".join(
    json.dumps({"arrival": i * 0.01, "prompt": 20 + i, "output": 5 + i % 7, "seed": i}) + "\n"
    for i in range(12)).encode()


class BenchServeTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-sequences", "4", model="dummy:tiny")
        cls.addClassCleanup(cls.server.close)

    def bench(self, *arguments, stdin=TRACE):
        return run("bench", "serve", "--server", self.server.address, "--trace", "-", *arguments,
                   stdin=stdin)

    def test_figures_of_a_trace(self):
        with tempfile.TemporaryDirectory(prefix="penstock-test-") as folder:
            path = pathlib.Path(folder, "figures.json")
            result = self.bench("--check", "12", "--json", str(path), "--slo-ttft-ms", "1e9")
            self.assertEqual((result.returncode, text(result.stderr)), (0, ""))
            output = text(result.stdout)
            self.assertIn("check          12 requests had the same answer alone", output)
            self.assertIn("12 of 12 completed", output)
            figures = json.loads(path.read_text())
        tokens = sum(5 + i % 7 for i in range(12))
        self.assertEqual((figures["completed"], figures["output_tokens"], figures["good"]),
                         (12, tokens, 12))
        self.assertEqual(figures["prompt_tokens"], sum(20 + i for i in range(12)))
        self.assertGreater(figures["first_token_ms"]["p50"], 0)
        self.assertEqual(figures["errors"], {})

    def test_clips_and_says_so(self):
        result = self.bench("--max-prompt", "22", "--max-output", "8", "--limit", "10",
                            "--concurrency", "2")
        self.assertEqual(result.returncode, 0, text(result.stderr))
        self.assertIn("clipped        7 of 10 requests", text(result.stdout))
        self.assertIn("10 of 10 completed", text(result.stdout))

    def test_a_trace_that_is_none(self):
        self.assertFails(self.bench(stdin=TRACE + b"{}\n"), 1, "standard input, line 13", "trace.py")

    def test_errors_are_counted(self):
        server = Server("--max-new-tokens", "6", model="dummy:tiny")
        self.addCleanup(server.close)
        result = run("bench", "serve", "--server", server.address, "--trace", "-", stdin=TRACE)
        self.assertEqual(result.returncode, 1)
        refused = sum(5 + i % 7 > 6 for i in range(12))
        self.assertIn(f"{12 - refused} of 12 completed", text(result.stdout))
        self.assertRegex(text(result.stdout), rf"error +[A-Z_]+: {refused}\n")
        self.assertRegex(text(result.stderr), rf"{refused} requests failed.*--max-new-tokens")

    def test_no_server_there(self):
        result = run("bench", "serve", "--server", "127.0.0.1:1", "--trace", "-", stdin=TRACE)
        self.assertFails(result, 1, "UNAVAILABLE", "penstock serve")


if __name__ == "__main__":
    unittest.main()
