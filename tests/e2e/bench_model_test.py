"""`penstock bench model` and the table that is made with it, on the CPU."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from program import BINARY, MODEL, ProgramTest, run, text
from program import setUpModule  # noqa: F401

TABLE = pathlib.Path(__file__).resolve().parents[1] / "bench/model_table.py"


def bench(*arguments, model="dummy:tiny"):
    return run("bench", "model", "--model", model, "--steps", "3", *arguments)


class BenchModelTest(ProgramTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="penstock-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_figures(self):
        path = self.folder / "figures.json"
        result = bench("--case", "1x100", "--case", "5x70", "--case", "prefill:2x50", "--json",
                       str(path), "--threads", "1")
        self.assertEqual((result.returncode, text(result.stderr)), (0, ""))
        self.assertRegex(text(result.stdout), r"\n1x100 .*\n5x70 .*\nprefill:2x50 ")
        figures = json.loads(path.read_text())
        self.assertEqual((figures["model"], figures["device"], figures["precision"]),
                         ("dummy:tiny", "cpu", "f32"))
        self.assertGreater(figures["read_bytes_per_second"], 0)
        self.assertEqual(figures["flops_per_second"], 0)
        one, five, prefill = figures["cases"]
        # f32: all but the table of 512 x 64; keys and values of 2 heads of 16 in 4 layers.
        weights = figures["weight_bytes"] - 4 * 512 * 64
        for case, kv in ((one, 100), (five, 350), (prefill, 100)):
            self.assertEqual((case["weight_bytes"], case["kv_bytes"]),
                             (weights, kv * 2 * 4 * 2 * 16 * 4))
            self.assertEqual(case["steps"], 3)
            self.assertGreater(case["ms"], 0)
            self.assertLessEqual(case["ms"], case["p90_ms"])
        self.assertAlmostEqual(one["share"] * one["ms"], one["floor_ms"])
        self.assertIsNone(prefill["floor_ms"])

    def test_the_packaged_model(self):
        result = bench("--case", "2x65", "--case", "prefill:1x65", model=MODEL)
        self.assertEqual((result.returncode, text(result.stderr)), (0, ""))
        self.assertRegex(text(result.stdout), r"loaded +0\.\d+ GB of weights at [\d.]+ GB/s")

    def test_what_cannot_be_run(self):
        for arguments, code, *words in (
                (["--case", "8"], 1, "'8' is no case", "8x1024"),
                (["--case", "1x513"], 1, "--case 1x513", "context is 512"),
                (["--case", "64x512", "--kv-memory-mib", "1"], 1, "need 32 MiB",
                 "--kv-memory-mib"),
                (["--case", "1x9", "--device", "tpu"], 1, "tpu", "is no device"),
                (["--case", "1x9", "--precision", "bf16"], 1, "the CPU computes in f32"),
                (["--case", "1x9", "--precision", "fast"], 2, "not available yet"),
                ([], 2, "--case is required"),
        ):
            with self.subTest(arguments=arguments):
                self.assertFails(bench(*arguments), code, *words)
        result = bench("--case", "1x9", "--json", str(self.folder / "no" / "where"))
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot write", text(result.stderr))

    def test_memory_that_is_asked_for(self):
        result = bench("--case", "4x512", "--kv-memory-mib", "8")
        self.assertEqual((result.returncode, text(result.stderr)), (0, ""))

    def table(self, *arguments):
        return subprocess.run(
            [sys.executable, str(TABLE), "--penstock", BINARY, "--device", "cpu", "--precision",
             "f32", "--commit", "abc", "--results", str(self.folder), *arguments],
            capture_output=True)

    def test_the_table(self):
        result = self.table("--cases", "tiny 1x100", "tiny prefill 2x50")
        self.assertEqual(result.returncode, 0, text(result.stderr))
        self.assertRegex(text(result.stdout), r"\| tiny 1x100 \| \d+\.\d{3} \|  \|  \| \d")
        result = self.table("--cases", "tiny 2x64", "--order", "A")
        self.assertEqual(result.returncode, 0, text(result.stderr))
        # A later call keeps the cases that it has not run.
        entries = json.loads((self.folder / "cpu_model.json").read_text())
        self.assertEqual([(each["case"], len(each["ours_runs"]), each["torch_ms"], each["commit"])
                          for each in entries],
                         [("tiny 1x100", 2, None, "abc"), ("tiny 2x64", 1, None, "abc"),
                          ("tiny prefill 2x50", 2, None, "abc")])
        for each in entries:
            self.assertTrue(re.fullmatch(r"\d{4}-\d\d-\d\d", each["date"]))
            self.assertGreater(each["ours_ms"], 0)

    def test_a_table_of_no_case(self):
        result = self.table("--cases", "9B")
        self.assertEqual(result.returncode, 1)
        self.assertIn("'9B' is no case", text(result.stderr))


if __name__ == "__main__":
    unittest.main()
