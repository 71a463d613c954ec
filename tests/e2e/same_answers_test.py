"""A request gets what it gets alone: whatever runs beside it, in any number of stages, from the
prefix cache or not, preempted or not. Tokens, texts and log-probabilities, to the last bit.

PENSTOCK_TEST_REQUESTS (default 24) mixed requests. PENSTOCK_TEST_SERVE has flags more for the
servers, such as "--device cuda --precision bf16 --invariant"; PENSTOCK_TEST_STAGES the numbers of
stages (default "1 2 3").
"""

import concurrent.futures
import json
import os
import random
import re
import unittest
import urllib.request

from program import PATIENCE, ProgramTest, Server, setUpModule, start_generate, text

REQUESTS = int(os.environ.get("PENSTOCK_TEST_REQUESTS", "6" if PATIENCE > 1 else "24"))
SERVE = os.environ.get("PENSTOCK_TEST_SERVE", "").split()
STAGES = os.environ.get("PENSTOCK_TEST_STAGES", "1 2 3").split()
SYSTEM = "You are a careful assistant who answers in one short sentence and never repeats itself. " * 5
TOPICS = ("rivers", "prime numbers", "bread", "the moon", "sorting", "violins", "tides", "chess")


def requests():
    draw = random.Random(1)
    for i in range(REQUESTS):
        prompt = draw.choice((SYSTEM, SYSTEM, "")) + f"Tell me about {draw.choice(TOPICS)} ({i})."
        if draw.random() < 0.2:
            prompt += " Please." * draw.randrange(1, 120)
        flags = ["--max-tokens", str(draw.randrange(1, 40)), "--logprobs", str(draw.randrange(0, 4))]
        if draw.random() < 0.4:
            flags += ["--temperature", "0"]
        else:
            flags += ["--temperature", "0.9", "--seed", str(draw.randrange(1000))]
            flags += draw.choice(([], ["--top-p", "0.9"], ["--top-k", "40"], ["--min-p", "0.05"]))
        flags += draw.choice(([], [], ["--repetition-penalty", "1.2"], ["--presence-penalty", "1"]))
        flags += draw.choice(([], [], ["--n", "2"], ["--stop", "."], ["--ignore-eos"]))
        yield ["--prompt", prompt, *flags]


def ask(server, arguments):
    client = start_generate(server, "--json", *arguments)
    output, errors = client.communicate(timeout=600 * PATIENCE)
    if client.returncode != 0:
        raise AssertionError(text(errors))
    answer = json.loads(output)
    answer.pop("model", None)
    return {key: value for key, value in answer.items() if "second" not in key and "time" not in key}


def metric(server, name):
    with urllib.request.urlopen(server.metrics + "/metrics", timeout=30) as response:
        page = response.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.M))


class InvarianceTest(ProgramTest):
    def test_every_request_gets_what_it_gets_alone(self):
        asked = list(requests())
        server = Server("--max-sequences", "2", "--no-prefix-cache", *SERVE)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            alone = list(pool.map(lambda one: ask(server, one), asked))
        server.close()
        preempted = hits = 0
        for stages in STAGES:
            with self.subTest(stages=stages):
                # So little memory that not all fit at once.
                server = Server("--stages", stages, "--kv-memory-mib", "40", "--max-step-tokens",
                                "75", "--max-sequences", "32", "--min-plan-limit", "60", "--hang-limit",
                                "60", *SERVE)
                self.addCleanup(server.close)
                with concurrent.futures.ThreadPoolExecutor(32) as pool:
                    together = list(pool.map(lambda one: ask(server, one), asked))
                for one, expected, got in zip(asked, alone, together):
                    self.assertEqual(got, expected, one)
                preempted += metric(server, "vllm:num_preemptions_total")
                hits += metric(server, "vllm:prefix_cache_hits_total")
                server.close()
        print(f"{REQUESTS} requests, {preempted:.0f} preemptions, {hits:.0f} tokens from the prefix cache")
        self.assertTrue(hits > 0 or REQUESTS < 10)


if __name__ == "__main__":
    unittest.main()
