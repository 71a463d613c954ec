"""Stages as processes: the same answers from one, two and three of them."""

import json
import os
import signal
import unittest
import unittest.mock

from processes import alive, kill, wait_until, workers
from program import MODEL, PATIENCE, ProgramTest, Server, generate, run, setUpModule, start_generate, text

REQUESTS = [
    ("--prompt", "The capital of France is", "--max-tokens", "24"),
    ("--prompt", "Once upon a time", "--temperature", "1", "--seed", "5", "--max-tokens", "40"),
    ("--prompt", "def fibonacci(n):", "--temperature", "0.7", "--top-p", "0.9", "--seed", "7",
     "--max-tokens", "40"),
    ("--prompt", "a b c " * 90, "--repetition-penalty", "1.2", "--temperature", "1", "--seed", "9",
     "--max-tokens", "30"),
    ("--prompt", "Water boils at", "--logprobs", "3", "--max-tokens", "20"),
]


def answers(server):
    """All at once: what each of the requests gets."""
    clients = []
    for request in REQUESTS:
        arguments = list(request) + (["--logprobs", "0"] if "--logprobs" not in request else [])
        if "--temperature" not in request:
            arguments += ["--temperature", "0"]
        clients.append(start_generate(server, "--json", *arguments))
    results = []
    for client in clients:
        output, errors = client.communicate(timeout=120 * PATIENCE)
        if client.returncode != 0:
            raise AssertionError(text(errors))
        answer = json.loads(output)
        results.append({key: answer[key] for key in ("text", "ids", "logprobs")})
    return results


class StagesTest(ProgramTest):
    def serve(self, *arguments):
        # Nothing is timed here, however slow the machine.
        server = Server("--min-plan-limit", "60", "--hang-limit", "60", *arguments)
        self.addCleanup(server.close)
        return server

    def test_every_number_of_stages_gives_the_same_answers(self):
        alone = answers(self.serve("--threads", "1"))
        for stages in ("2", "3"):
            with self.subTest(stages=stages):
                server = self.serve("--stages", stages, "--threads", "1")
                self.assertEqual(len(workers(server)), int(stages))
                self.assertEqual(answers(server), alone)

    def test_rows_by_shared_memory_give_the_same_answers(self):
        alone = answers(self.serve("--threads", "1"))
        for flags in ((), ("--no-spin",)):
            with self.subTest(flags=flags):
                server = self.serve("--stages", "3", "--transport", "peer", "--threads", "1", *flags)
                self.assertRegex(server.log(), "rows go from device to device, by mailboxes of [1-9]")
                self.assertEqual(answers(server), alone)

    def test_rows_by_nccl_give_the_same_answers_also_after_a_death(self):
        alone = answers(self.serve("--threads", "1"))
        # A stand-in for the library, whose device is the host.
        with unittest.mock.patch.dict(os.environ, PENSTOCK_NCCL_LIBRARY=os.environ["PENSTOCK_FAKE_NCCL"]):
            server = self.serve("--stages", "3", "--transport", "nccl", "--threads", "1")
        self.assertRegex(server.log(), "rows go from device to device by NCCL")
        self.assertEqual(answers(server), alone)
        kill(workers(server)[1])
        server.wait_for_log("recovered")
        self.assertEqual(answers(server), alone)

    def test_rows_by_nccl_need_the_library(self):
        with unittest.mock.patch.dict(os.environ, PENSTOCK_NCCL_LIBRARY="/nowhere/libnccl.so.2"):
            result = run("serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--stages", "2",
                         "--transport", "nccl")
        self.assertFails(result, 1, "--transport nccl", "/nowhere/libnccl.so.2", "--transport grpc")

    def test_rows_by_shared_memory_need_stages_of_this_machine(self):
        result = run("serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--workers",
                     "127.0.0.1:1,127.0.0.1:2", "--transport", "peer")
        self.assertFails(result, 1, "--transport peer", "--stages")

    def test_layers_can_be_split_by_hand(self):
        server = self.serve("--stages", "2", "--split", "7,23")
        self.assertRegex(server.log(), "stage 0: layers 0 to 6")
        self.assertRegex(server.log(), "stage 1: layers 7 to 29")
        self.assertEqual(len(workers(server)), 2)
        generate("--prompt", "a", "--max-tokens", "2", server=server)

    def test_a_split_that_does_not_fit(self):
        result = run("serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--stages", "2", "--split",
                     "7,7")
        self.assertFails(result, 1, "7 \\+ 7", "30")

    def test_more_stages_than_layers(self):
        result = run("serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--stages", "31")
        self.assertFails(result, 1, "stages", "30")

    def test_a_server_that_is_killed_leaves_no_worker(self):
        server = self.serve("--stages", "2")
        pids = workers(server)
        self.assertEqual(len(pids), 2)
        server.process.send_signal(signal.SIGKILL)
        server.wait()
        wait_until(lambda: not any(alive(pid) for pid in pids), "workers to end with their server")

    def test_terminated_under_load_it_finishes_its_answers(self):
        server = self.serve("--stages", "2", "--drain-timeout", str(30 * PATIENCE))
        request = ("--prompt", "Once upon a time", "--temperature", "1", "--seed", "5",
                   "--max-tokens", "60")
        alone = generate(*request, server=server)
        clients = [start_generate(server, *request) for _ in range(4)]
        for client in clients:
            self.assertTrue(client.stdout.read(1))
        pids = workers(server)
        server.terminate()
        for client in clients:
            output, errors = client.communicate(timeout=120 * PATIENCE)
            self.assertEqual(client.returncode, 0, text(errors))
            self.assertEqual(text(output), (alone["text"] + "\n")[1:])
        self.assertEqual(server.wait(), 0)
        self.assertFalse(any(alive(pid) for pid in pids))


if __name__ == "__main__":
    unittest.main()
