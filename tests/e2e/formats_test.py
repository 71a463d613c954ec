"""What --model may be besides a .gguf file: a Hugging Face folder, dummy:NAME; and what it is not."""

import json
import pathlib
import shutil
import tempfile
import unittest

from program import ProgramTest, run, setUpModule, text

FAMILIES = pathlib.Path(__file__).parent.parent / "golden" / "families"


def generate(model, *arguments):
    result = run("generate", "--model", str(model), "--json", "--temperature", "0", "--prompt",
                 "Abc", "--max-tokens", "6", *arguments)
    if result.returncode != 0:
        raise AssertionError(f"exit code {result.returncode}: {text(result.stderr)}")
    return json.loads(result.stdout)


def tokenizer():
    """A byte-level BPE of the printable characters, without merges."""
    characters = [chr(code) for code in range(33, 127)] + ["\u0120"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {c: i for i, c in enumerate(characters)}, "merges": []},
    }


class FormatsTest(ProgramTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="penstock-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def copy(self, family):
        """A family's folder with a tokenizer to it."""
        folder = self.folder / family
        shutil.copytree(FAMILIES / family, folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
        return folder

    def refused(self, model, *words):
        result = run("generate", "--model", str(model), "--prompt", "a")
        self.assertFails(result, 1, *words)

    def test_a_dummy_model_generates(self):
        answer = generate("dummy:tiny")
        self.assertEqual(answer["prompt_ids"], [65, 98, 99])
        self.assertEqual(len(answer["ids"]), 6)
        self.assertEqual(answer, generate("dummy:tiny"))

    def test_folders_generate(self):
        for family in ("smollm2", "qwen3"):  # in shards, in one file
            answer = generate(self.copy(family))
            self.assertEqual(answer["prompt_ids"], [32, 65, 66])
            self.assertGreaterEqual(len(answer["ids"]), 1)

    def test_a_folder_of_another_architecture(self):
        folder = self.copy("qwen3")
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["Gemma3ForCausalLM"]
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(folder, "config.json", "Gemma3ForCausalLM", "LlamaForCausalLM")

    def test_a_folder_with_a_part_missing(self):
        folder = self.copy("smollm2")
        (folder / "model-00002-of-00003.safetensors").unlink()
        self.refused(folder, "model-00002-of-00003.safetensors", "index.json")
        (folder / "tokenizer.json").unlink()
        self.refused(folder, "tokenizer.json", "tokenizer.model")
        (folder / "config.json").unlink()
        self.refused(folder, "config.json")

    def test_a_shard_that_is_cut_short(self):
        folder = self.copy("smollm2")
        shard = folder / "model-00003-of-00003.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1])
        self.refused(folder, shard.name, "cut short", "fetch it again")

    def test_what_is_no_model(self):
        self.refused("dummy:gpt-5", "dummy:llama-2-7b")
        weights = self.folder / "pytorch_model.bin"
        weights.write_bytes(b"PK")
        self.refused(weights, "pytorch_model.bin", "safetensors")
        self.refused(FAMILIES / "qwen3" / "model.safetensors", "give the folder")


if __name__ == "__main__":
    unittest.main()
