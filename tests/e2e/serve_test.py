"""The life of a server: ports, limits, signals."""

import socket
import subprocess
import time
import unittest

from program import (BINARY, MODEL, PATIENCE, ProgramTest, Server, generate, run, setUpModule,
                     start_generate, text)

LONG = ("--prompt", "Once upon a time", "--temperature", "1", "--seed", "5")


class ServeTest(ProgramTest):
    def serve(self, *arguments):
        server = Server(*arguments)
        self.addCleanup(server.close)
        return server

    def test_says_what_it_does(self):
        server = self.serve()
        log = server.log()
        self.assertIn("loading " + MODEL, log)
        self.assertRegex(log, r"model .*: 30 layers.*context 8192 tokens.*KV memory for \d+ tokens")
        self.assertIn("ready on " + server.address, log)

    def test_a_port_in_use(self):
        server = self.serve()
        result = run("serve", "--model", MODEL, "--listen", server.address)
        self.assertFails(result, 1, server.address, "in use by another program", "--listen")
        generate("--prompt", "a", "--max-tokens", "1", server=server)

    def test_a_port_in_use_by_something_else(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            result = run("serve", "--model", MODEL, "--listen", address)
            self.assertFails(result, 1, address, "in use by another program")

    def test_an_address_of_another_machine(self):
        result = run("serve", "--model", MODEL, "--listen", "192.0.2.1:50051")
        self.assertFails(result, 1, "192.0.2.1:50051", "this machine")

    def test_a_port_file_that_cannot_be_written(self):
        result = run("serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--port-file",
                     "/nowhere/port")
        self.assertFails(result, 1, "/nowhere/port")

    def test_terminated_while_idle(self):
        server = self.serve()
        start = time.monotonic()
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - start, 10 * PATIENCE)

    def test_terminated_under_load_it_finishes_its_answers(self):
        server = self.serve("--drain-timeout", str(30 * PATIENCE))
        alone = generate(*LONG, "--max-tokens", "60", server=server)
        clients = [start_generate(server, *LONG, "--max-tokens", "60") for _ in range(4)]
        for client in clients:
            self.assertTrue(client.stdout.read(1))
        server.terminate()
        server.wait_for_log("draining")
        late = run("generate", "--server", server.address, "--prompt", "a")
        for client in clients:
            output, errors = client.communicate(timeout=120 * PATIENCE)
            self.assertEqual(client.returncode, 0, text(errors))
            # One character was read above.
            self.assertEqual(text(output), (alone["text"] + "\n")[1:])
        self.assertFails(late, 1, "UNAVAILABLE")
        self.assertEqual(server.wait(), 0)

    def test_a_drain_has_an_end(self):
        server = self.serve("--drain-timeout", "0.3")
        client = start_generate(server, *LONG, "--max-tokens", "8000")
        self.assertTrue(client.stdout.read(1))
        server.terminate()
        _, errors = client.communicate(timeout=60 * PATIENCE)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(text(errors), "UNAVAILABLE: the server shut down")
        self.assertEqual(server.wait(), 0)

    def test_a_second_signal_ends_at_once(self):
        server = self.serve()
        client = start_generate(server, *LONG, "--max-tokens", "8000")
        self.assertTrue(client.stdout.read(1))
        server.terminate()
        server.wait_for_log("draining")
        start = time.monotonic()
        server.terminate()
        self.assertEqual(server.wait(), 1)
        self.assertLess(time.monotonic() - start, 5 * PATIENCE)
        client.communicate(timeout=60 * PATIENCE)
        self.assertEqual(client.returncode, 1)

    def test_a_full_queue_refuses_and_goes_on(self):
        server = self.serve("--max-sequences", "1", "--max-queued-requests", "1")
        running = start_generate(server, *LONG, "--max-tokens", "8000")
        self.assertTrue(running.stdout.read(1))
        # One of these two waits, the other is refused.
        others = [start_generate(server, *LONG, "--max-tokens", "2") for _ in range(2)]
        until = time.monotonic() + 60 * PATIENCE
        while all(client.poll() is None for client in others) and time.monotonic() < until:
            time.sleep(0.01)
        running.kill()
        running.communicate()
        results = sorted((client.wait(60), text(client.communicate()[1])) for client in others)
        self.assertEqual([code for code, _ in results], [0, 1])
        self.assertRegex(results[1][1], "RESOURCE_EXHAUSTED.*try again later")

    def test_a_message_that_is_too_large(self):
        server = self.serve("--max-message-bytes", "1024")
        result = run("generate", "--server", server.address, "--prompt", "a b " * 500)
        self.assertFails(result, 1, "RESOURCE_EXHAUSTED", "larger than max")
        generate("--prompt", "a", "--max-tokens", "1", server=server)

    def test_settings_reach_requests(self):
        server = self.serve("--default-max-tokens", "3", "--threads", "1", "--max-sequences", "2",
                            "--max-step-tokens", "16", "--kv-memory-mib", "64")
        answer = generate("--prompt", "Once upon a time " * 10, server=server)
        self.assertEqual(len(answer["ids"]), 3)

    def test_a_closed_log_ends_no_server(self):
        process = subprocess.Popen([BINARY, "serve", "--model", MODEL, "--listen", "127.0.0.1:0",
                                    "--metrics-listen", "127.0.0.1:0"],
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        while b"listening" not in process.stderr.readline():
            pass
        process.stderr.close()  # before it says that it is ready
        time.sleep(1)
        self.assertIsNone(process.poll())


if __name__ == "__main__":
    unittest.main()
