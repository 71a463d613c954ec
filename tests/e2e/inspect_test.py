"""`penstock inspect`, and the checks of a server before it is ready."""

import json
import os
import pathlib
import shutil
import tempfile
import unittest

from program import MODEL, ProgramTest, Server, run, setUpModule, text


def inspect(*arguments, model=MODEL):
    result = run("inspect", model, "--json", *arguments)
    if result.returncode != 0:
        raise AssertionError(f"exit code {result.returncode}: {text(result.stderr)}")
    return json.loads(result.stdout)


class InspectTest(ProgramTest):
    def test_what_the_packaged_model_is(self):
        report = inspect("--max-sequences", "2", "--context", "1000")
        self.assertEqual(report["architecture"], "llama")
        self.assertEqual(report["parameters"], 134515008)
        config = report["config"]
        self.assertEqual([config[key] for key in ("hidden_size", "num_layers", "num_heads",
                                                  "num_kv_heads", "head_dim", "context_length")],
                         [576, 30, 9, 3, 64, 8192])
        self.assertTrue(config["tied_embeddings"])
        self.assertEqual(report["vocabulary"], 49152)
        self.assertEqual(report["chat_template"], "smollm2")
        self.assertEqual(report["types"]["q4_1"], {"tensors": 210, "bytes": 66355200})
        memory = report["memory"]
        self.assertEqual(memory["weights"],
                         sum(each["bytes"] for each in report["types"].values()))
        self.assertEqual(memory["kv_per_token"], 30 * 2 * 192 * 4)
        self.assertEqual(memory["kv"], 2 * 1024 * memory["kv_per_token"])  # whole blocks
        self.assertNotIn("tensors", report)

    def test_the_tensors(self):
        tensors = inspect("--tensors")["tensors"]
        self.assertEqual(len(tensors), 272)
        self.assertEqual(tensors[0], {"name": "embed_tokens.weight", "type": "q8_0",
                                      "shape": [49152, 576], "bytes": 30081024})
        listed = text(run("inspect", MODEL, "--tensors").stdout)
        self.assertRegex(listed, r"layers\.29\.mlp\.down_proj\.weight +q4_1 +\[576, 1536\]")

    def test_for_people(self):
        result = run("inspect", MODEL)
        self.assertEqual(result.returncode, 0, text(result.stderr))
        for words in ("134.5 million parameters", "chat template +smollm2", "46080 bytes a token"):
            self.assertRegex(text(result.stdout), words)

    def test_how_layers_are_shared_out(self):
        report = inspect("--stages", "3", "--kv-memory-mib", "100")
        stages = report["stages"]
        self.assertEqual(len(stages), 3)
        self.assertEqual([stage["first_layer"] for stage in stages],
                         [0, stages[0]["layers"], 30 - stages[2]["layers"]])
        self.assertEqual(sum(stage["layers"] for stage in stages), 30)
        self.assertLess(stages[2]["layers"], stages[0]["layers"])  # it has the LM head
        # The tied table is on the first stage and on the last.
        self.assertEqual(sum(stage["weights"] for stage in stages),
                         report["memory"]["weights"] + 30081024)
        self.assertEqual(sum(stage["kv_per_token"] for stage in stages), 46080)
        self.assertEqual(report["kv_blocks"], min(stage["max_blocks"] for stage in stages))
        for stage in stages:
            self.assertEqual(stage["max_blocks"], (100 << 20) // (64 * stage["kv_per_token"]))
            self.assertEqual(stage["unused"],
                             (100 << 20) - report["kv_blocks"] * 64 * stage["kv_per_token"])
        for batch in range(2):
            steps = [stage["steps"][batch] for stage in stages]
            self.assertEqual(max(step["share"] for step in steps), 1)
            self.assertGreater(min(step["ms"] for step in steps), 0)
        self.assertNotIn("stages", inspect())

    def test_a_split_of_ones_own(self):
        stages = inspect("--split", "10,12,8")["stages"]
        self.assertEqual([stage["layers"] for stage in stages], [10, 12, 8])
        listed = run("inspect", MODEL, "--split", "10,12,8")
        self.assertEqual(listed.returncode, 0, text(listed.stderr))
        self.assertRegex(text(listed.stdout), r"\n +1 10-21 .*ms")
        self.assertFails(run("inspect", MODEL, "--split", "10,12"), 1, "model's 30", "add up")
        self.assertFails(run("inspect", MODEL, "--split", "10;20"), 1, "--split", "10,12,8")
        self.assertFails(run("inspect", MODEL, "--split", "10,20", "--stages", "3"), 1,
                         "there are 3")
        self.assertFails(run("inspect", MODEL, "--stages", "31"), 1, "ask for 1 to 30")
        self.assertFails(run("inspect", MODEL, "--stages", "2", "--stage-memory-mib", "50"), 1,
                         "does not fit", "MiB")

    def test_what_is_no_model(self):
        self.assertFails(run("inspect", "/none.gguf"), 1, "/none.gguf")
        self.assertFails(run("inspect"), 2, "model")


class CheckFileTest(ProgramTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="penstock-test-")
        self.addCleanup(folder.cleanup)
        self.model = pathlib.Path(folder.name, "model.gguf")
        self.check = pathlib.Path(folder.name, "model.gguf.check.json")

    def serve(self, *arguments):
        """Of a server that does not get ready."""
        return run("serve", "--model", str(self.model), "--listen", "127.0.0.1:0", *arguments)

    def write_check(self):
        os.symlink(os.path.abspath(MODEL), self.model)
        result = run("inspect", str(self.model), "--write-check")
        self.assertEqual(result.returncode, 0, text(result.stderr))

    def test_a_server_compares_the_file_before_it_is_ready(self):
        self.write_check()
        check = json.loads(self.check.read_text())
        self.assertEqual(len(check["tensors"]), 272)
        server = Server("--verify-weights", model=self.model)
        self.addCleanup(server.close)
        self.assertRegex(server.log(), "checked in .* the check file's weights")

        check["ids"][-1] += 1
        self.check.write_text(json.dumps(check))
        self.assertFails(self.serve(), 1, "model.gguf.check.json", "--write-check")

    def test_damaged_weights_are_named(self):
        self.write_check()
        self.model.unlink()
        shutil.copy(MODEL, self.model)
        with open(self.model, "r+b") as file:
            file.seek(-1000, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        self.assertFails(self.serve(), 1, r"the tensor \S+ hash to", "fetch it again")
        server = Server("--no-startup-check", model=self.model)
        self.addCleanup(server.close)

    def test_without_a_file_only_the_answers_are_compared(self):
        os.symlink(os.path.abspath(MODEL), self.model)
        self.assertFails(self.serve("--verify-weights"), 1, "model.gguf.check.json",
                         "--write-check")
        server = Server(model=self.model)
        self.addCleanup(server.close)
        self.assertRegex(server.log(), "the same answer by every path; no check file")


if __name__ == "__main__":
    unittest.main()
