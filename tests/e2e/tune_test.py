"""`penstock tune` where there is no GPU, and the flag of the table that it makes."""

import unittest

from program import ProgramTest, run
from program import setUpModule  # noqa: F401


class TuneTest(ProgramTest):
    def test_what_cannot_be_tuned(self):
        for arguments, code, *words in (
                (["--device", "cpu"], 1, "--device cpu", "use cuda:0"),
                (["--device", "gpu"], 1, "'gpu' is no device"),
                (["--precision", "fast"], 2, "not available yet"),
                (["--max-sequences", "0"], 2, "--max-sequences"),
        ):
            with self.subTest(arguments=arguments):
                self.assertFails(run("tune", "--model", "dummy:tiny", *arguments), code, *words)
        self.assertFails(run("tune"), 2, "--model is required")

    def test_the_cpu_needs_no_table(self):
        result = run("bench", "model", "--model", "dummy:tiny", "--case", "1x9", "--steps", "1",
                     "--gemm-table", "/nowhere/table.json")
        self.assertEqual(result.returncode, 0)


if __name__ == "__main__":
    unittest.main()
