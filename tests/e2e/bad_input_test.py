"""What users and files get wrong: a clear message, the right code, and a server that goes on."""

import pathlib
import struct
import tempfile
import unittest

from program import MODEL, ProgramTest, Server, generate, run, setUpModule, text


class BadModelFileTest(ProgramTest):
    """The same for every command that reads a model."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="penstock-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, path, *words):
        for command in (["serve", "--listen", "127.0.0.1:0"],
                        ["generate", "--prompt", "a", "--json"], ["tokenize", "--json"]):
            with self.subTest(command=command[0], path=str(path)):
                result = run(*command, "--model", str(path), stdin=b'"a"\n')
                self.assertFails(result, 1, *words)

    def write(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def test_missing(self):
        self.check(self.folder / "none.gguf", "none.gguf", "No such file")

    def test_a_folder(self):
        self.check(self.folder, str(self.folder))

    def test_empty(self):
        self.check(self.write("empty.gguf", b""), "empty.gguf")

    def test_foreign(self):
        self.check(self.write("notes.gguf", b"Dear diary, " * 1000), "notes.gguf", "GGUF")

    def test_another_version(self):
        self.check(self.write("old.gguf", b"GGUF" + struct.pack("<IQQ", 1, 0, 0)), "old.gguf",
                   "version")

    def test_truncated(self):
        with open(MODEL, "rb") as model:
            head = model.read(4 << 20)
        for length in (10, 1000, 1 << 20, 4 << 20):
            self.check(self.write("cut.gguf", head[:length]), "cut.gguf")

    def test_cut_by_one_byte(self):
        path = self.folder / "short.gguf"
        with open(MODEL, "rb") as model:
            path.write_bytes(model.read()[:-1])
        self.check(path, "short.gguf")


class BadRequestTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)

    def tearDown(self):
        answer = generate("--prompt", "The capital of France is", "--max-tokens", "1",
                          server=self.server)
        self.assertEqual(answer["text"], " Paris")

    def check(self, arguments, code, *words):
        """Over the network and inside the process alike."""
        messages = [
            self.assertFails(run("generate", *target, "--json", *arguments), 1, code, *words)
            for target in (["--server", self.server.address], ["--model", MODEL])]
        self.assertEqual(*messages)

    def test_an_empty_prompt(self):
        self.check(["--prompt", ""], "INVALID_ARGUMENT", "prompt is empty")
        self.check(["--prompt-ids", ""], "INVALID_ARGUMENT", "prompt is empty")

    def test_a_prompt_without_tokens(self):
        self.check(["--prompt", "\x04\x06"], "INVALID_ARGUMENT", "no token")

    def test_broken_utf8(self):
        self.check(["--prompt", b"caf\xe9"], "INVALID_ARGUMENT", "UTF-8", "byte 3", "0xe9")
        self.check(["--prompt", b"\xed\xa0\x80"], "INVALID_ARGUMENT", "UTF-8", "byte 0")

    def test_ids_out_of_range(self):
        self.check(["--prompt-ids", "1,49152"], "INVALID_ARGUMENT", "49152", "0 to 49151")
        self.check(["--prompt-ids", "-1"], "INVALID_ARGUMENT", "-1", "0 to 49151")

    def test_a_prompt_longer_than_the_context(self):
        self.check(["--prompt-ids", ",".join(["5"] * 8192)], "OUT_OF_RANGE", "8192", "8191")
        self.check(["--prompt", "a b " * 5000], "OUT_OF_RANGE", "context")
        self.check(["--prompt-ids", ",".join(["1"] * 60000)], "OUT_OF_RANGE", "60000")

    def test_sampling_out_of_range(self):
        for arguments in (["--max-tokens", "0"], ["--max-tokens", "-5"], ["--temperature", "-1"],
                          ["--temperature", "nan"], ["--temperature", "inf"], ["--top-k", "-1"],
                          ["--top-p", "0"], ["--top-p", "1.5"]):
            with self.subTest(arguments=arguments):
                name = arguments[0].lstrip("-").replace("-", "_")
                self.check(["--prompt", "a", *arguments], "INVALID_ARGUMENT", name + " is")


class BadCommandLineTest(ProgramTest):
    def test_unknown_options(self):
        self.assertFails(run("serve", "--model", MODEL, "--colour", "red"), 2, "--colour")
        self.assertFails(run("generate", "--model", MODEL, "--prompt", "a", "--stream"), 2,
                         "--stream")
        self.assertFails(run("tokenize", "--model", MODEL, "--json", "--fast"), 2, "--fast")
        self.assertFails(run(), 2, "subcommand", "--help")

    def test_missing_and_contradicting_options(self):
        self.assertFails(run("serve"), 2, "--model")
        self.assertFails(run("generate", "--prompt", "a"), 2, "--server", "--model")
        self.assertFails(run("generate", "--model", MODEL), 2, "--prompt", "--prompt-ids")
        self.assertFails(run("generate", "--model", MODEL, "--server", "a:1", "--prompt", "a"), 2,
                         "--server")
        self.assertFails(run("generate", "--model", MODEL, "--prompt", "a", "--prompt-ids", "1"), 2,
                         "--prompt")

    def test_values_that_are_none(self):
        self.assertFails(run("generate", "--model", MODEL, "--prompt", "a", "--max-tokens", "many"),
                         2, "--max-tokens", "many")
        self.assertFails(run("generate", "--model", MODEL, "--prompt-ids", "1,two"), 2,
                         "--prompt-ids", '"two"')
        self.assertFails(run("serve", "--model", MODEL, "--listen", "50051"), 1, "HOST:PORT")
        self.assertFails(run("generate", "--server", "nowhere", "--prompt", "a"), 1, "HOST:PORT")

    def test_settings_that_contradict(self):
        self.assertFails(run("serve", "--model", MODEL, "--listen", "127.0.0.1:0",
                             "--max-step-tokens", "8", "--max-sequences", "16"), 1,
                         "--max-step-tokens")
        self.assertFails(run("serve", "--model", MODEL, "--listen", "127.0.0.1:0",
                             "--kv-memory-mib", "1"), 1, "--kv-memory-mib")

    def test_what_is_not_there_yet(self):
        serve = ("serve", "--model", MODEL)
        self.assertFails(run(*serve, "--precision", "fast"), 2, "not available yet")
        self.assertFails(run("generate", "--model", MODEL, "--prompt", "a", "--precision", "fast"),
                         2, "not available yet")

    def test_no_server_there(self):
        result = run("generate", "--server", "127.0.0.1:1", "--prompt", "a")
        self.assertFails(result, 1, "UNAVAILABLE", "penstock serve")

    def test_lines_that_are_no_json_string(self):
        for line in (b"hello", b"", b"[1]", b'"a', b'"\xff"', b'"\\ud800"'):
            with self.subTest(line=line):
                result = run("tokenize", "--model", MODEL, "--json",
                             stdin=b'"one"\n"two"\n' + line + b"\n")
                self.assertEqual(result.returncode, 1)
                self.assertIn("line 3", text(result.stderr))
                self.assertEqual(len(result.stdout.splitlines()), 2)


if __name__ == "__main__":
    unittest.main()
