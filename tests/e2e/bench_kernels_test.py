"""`penstock bench kernels` on the CPU."""

import json
import pathlib
import tempfile
import unittest

from program import ProgramTest, run, text
from program import setUpModule  # noqa: F401


def bench(*arguments):
    return run("bench", "kernels", "--model", "dummy:tiny", "--threads", "1", *arguments)


class BenchKernelsTest(ProgramTest):
    def test_figures(self):
        with tempfile.TemporaryDirectory(prefix="penstock-test-") as folder:
            path = pathlib.Path(folder) / "figures.json"
            result = bench("--tokens", "1,5", "--prompts", "70", "--context", "100", "--json",
                           str(path))
            self.assertEqual((result.returncode, text(result.stderr)), (0, ""))
            figures = json.loads(path.read_text())
        self.assertEqual((figures["device"], figures["precision"]), ("cpu", "f32"))
        kernels = [(each["kernel"], each["shape"]) for each in figures["kernels"]]
        self.assertEqual(len(kernels), 2 * 9 + 1)
        self.assertIn(("decoder_attention", "5 x 100"), kernels)
        self.assertIn(("flash_attention", "70 tokens, causal"), kernels)
        self.assertIn(("linear LM head", "5 tokens, 512 x 64"), kernels)
        for each in figures["kernels"]:
            self.assertGreater(each["us"], 0)
            self.assertGreater(each["bytes"], 0)
            self.assertGreater(each["share"], 0)

    def test_what_cannot_be_run(self):
        for arguments, code, *words in (
                (["--device", "tpu"], 1, "tpu", "is no device"),
                (["--precision", "bf16"], 1, "the CPU computes in f32"),
                (["--precision", "fast"], 2, "not available yet"),
                (["--tokens", "0"], 2, "--tokens"),
        ):
            with self.subTest(arguments=arguments):
                self.assertFails(bench(*arguments), code, *words)


if __name__ == "__main__":
    unittest.main()
