"""Answers of the built program: over the network, inside the process, many at once."""

import concurrent.futures
import json
import math
import signal
import time
import unittest

from program import (MODEL, PATIENCE, ProgramTest, Server, generate, run, setUpModule,
                     start_generate, text)

PROMPTS = ("The capital of France is", "def fibonacci(n):", "Once upon a time", "1, 2, 3, 4,",
           "Water boils at", "L'été, à Paris,", "The opposite of hot is", "日本の首都は")


class GenerateTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)

    def test_answers_over_the_network(self):
        answer = generate("--prompt", PROMPTS[0], "--max-tokens", "12", server=self.server)
        self.assertEqual(list(answer),
                         ["prompt_ids", "ids", "text", "finish_reason", "logprobs"])
        self.assertIn("Paris", answer["text"])
        self.assertEqual(len(answer["ids"]), 12)
        self.assertEqual(len(answer["logprobs"]), 12)
        self.assertTrue(all(math.isfinite(p) and p <= 1e-3 for p in answer["logprobs"]))
        self.assertEqual(answer["finish_reason"], "length")

    def test_inside_the_process_gives_the_same(self):
        for prompt in PROMPTS[:3]:
            arguments = ("--prompt", prompt, "--max-tokens", "16")
            self.assertEqual(generate(*arguments), generate(*arguments, server=self.server))

    def test_the_padded_prefill_path_gives_the_same_ids(self):
        for prompt in PROMPTS[:3]:
            arguments = ("--prompt", prompt, "--max-tokens", "16")
            padded = generate(*arguments, "--prefill-attention", "padded")
            flash = generate(*arguments, server=self.server)
            self.assertEqual(padded["ids"], flash["ids"])

    def test_graphs_are_a_gpus_matter(self):
        arguments = ("--prompt", PROMPTS[0], "--max-tokens", "8")
        self.assertEqual(generate(*arguments, "--no-graphs"), generate(*arguments))
        self.assertEqual(generate(*arguments, "--invariant"), generate(*arguments))

    def test_text_streams_to_standard_output(self):
        arguments = ("--prompt", PROMPTS[5], "--max-tokens", "24")
        answer = generate(*arguments, server=self.server)
        plain = run("generate", "--server", self.server.address, "--temperature", "0", *arguments)
        self.assertEqual(plain.returncode, 0)
        self.assertEqual(plain.stdout.decode("utf-8"), answer["text"] + "\n")
        self.assertRegex(text(plain.stderr), r"24 tokens in [\d.]+ s .*tok/s.*seed \d+")

    def test_ids_are_the_prompt_too(self):
        answer = generate("--prompt", PROMPTS[0], "--max-tokens", "8", server=self.server)
        ids = ",".join(map(str, answer["prompt_ids"]))
        self.assertEqual(generate("--prompt-ids", ids, "--max-tokens", "8", server=self.server),
                         answer)

    def test_the_end_token_is_an_id_but_no_text(self):
        chat = "<|im_start|>user\nSay only: yes<|im_end|>\n<|im_start|>assistant\n"
        answer = generate("--prompt", chat, "--special", "--max-tokens", "200", server=self.server)
        self.assertEqual(answer["prompt_ids"][0], 1)
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["ids"][-1], 2)
        self.assertNotIn("<|im_end|>", answer["text"])
        # Without --special the names are ordinary text.
        plain = generate("--prompt", chat, "--max-tokens", "1", server=self.server)
        self.assertGreater(len(plain["prompt_ids"]), len(answer["prompt_ids"]))

    def test_a_seed_repeats_an_answer(self):
        arguments = ("--prompt", PROMPTS[2], "--max-tokens", "16", "--temperature", "1.2",
                     "--top-k", "50", "--top-p", "0.95")
        first = generate(*arguments, "--seed", "7", server=self.server)
        self.assertEqual(generate(*arguments, "--seed", "7", server=self.server), first)
        self.assertEqual(generate(*arguments, "--seed", "7"), first)
        others = [generate(*arguments, server=self.server)["ids"] for _ in range(3)]
        self.assertGreater(len({tuple(ids) for ids in others}), 1)

    def test_eight_at_once_get_what_each_gets_alone(self):
        def answer(prompt):
            return generate("--prompt", prompt, "--max-tokens", "12", server=self.server)

        alone = [answer(prompt) for prompt in PROMPTS]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            self.assertEqual(list(pool.map(answer, PROMPTS)), alone)

    def test_interrupting_a_client_cancels_its_request(self):
        client = start_generate(self.server, "--prompt", PROMPTS[2], "--max-tokens", "8000",
                                "--temperature", "1", "--seed", "5")
        self.assertTrue(client.stdout.read(1))  # it streams
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=30 * PATIENCE)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(text(errors), "CANCELLED")

    def test_a_killed_client_holds_nobody_up(self):
        # All four fit into the KV memory at once: whichever comes first, nobody waits for another.
        clients = [start_generate(self.server, "--prompt", PROMPTS[2], "--max-tokens", "4000",
                                  "--temperature", "1", "--seed", str(i)) for i in range(4)]
        for client in clients:
            self.assertTrue(client.stdout.read(1))
            client.kill()
            client.communicate()
        start = time.monotonic()
        generate("--prompt", PROMPTS[0], "--max-tokens", "4", server=self.server)
        self.assertLess(time.monotonic() - start, 20 * PATIENCE)

    def test_a_time_limit_ends_a_request(self):
        result = run("generate", "--server", self.server.address, "--prompt", PROMPTS[2],
                     "--max-tokens", "8000", "--timeout", "0.5", "--json")
        self.assertFails(result, 1, "DEADLINE_EXCEEDED", "--timeout")

    def test_tokenize_gives_the_ids_of_the_prompt(self):
        lines = "".join(json.dumps(prompt) + "\n" for prompt in PROMPTS)
        result = run("tokenize", "--model", MODEL, "--json", stdin=lines.encode())
        self.assertEqual(result.returncode, 0, text(result.stderr))
        ids = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual(len(ids), len(PROMPTS))
        for prompt, expected in zip(PROMPTS[:2], ids):
            answer = generate("--prompt", prompt, "--max-tokens", "1", server=self.server)
            self.assertEqual(answer["prompt_ids"], expected)
        special = run("tokenize", "--model", MODEL, "--special", "--json", stdin=b'"<|im_end|>"\n')
        self.assertEqual(special.stdout, b"[2]\n")

    def test_tells_its_version(self):
        result = run("--version")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(text(result.stdout), r"^penstock \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main()
