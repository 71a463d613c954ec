"""The HTTP port of `penstock serve`: metrics, probes, status page, and the trace file."""

import json
import pathlib
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from program import MODEL, TIMEOUT, ProgramTest, Server, run, start_generate, text
from program import setUpModule  # noqa: F401


def get(server, path):
    """Status and body."""
    try:
        with urllib.request.urlopen(server.metrics + path, timeout=TIMEOUT) as answer:
            return answer.status, text(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, text(error.read())


class MetricsPortTest(ProgramTest):
    def test_pages_of_a_server_that_is_ready(self):
        server = Server(model="dummy:tiny")
        self.addCleanup(server.close)
        self.assertIn("metrics, probes and status page on " + server.metrics, server.log())
        self.assertEqual(get(server, "/readyz"), (200, "ready\n"))
        self.assertEqual(get(server, "/livez")[0], 200)
        self.assertEqual(get(server, "/nothing")[0], 404)
        status, metrics = get(server, "/metrics")
        self.assertEqual(status, 200)
        self.assertIn('vllm:num_requests_running{model_name="dummy-tiny",engine="0"} ', metrics)
        self.assertIn('penstock_stage_up{model_name="dummy-tiny",engine="0",stage="0"} 1', metrics)
        page = json.loads(get(server, "/status")[1])
        self.assertEqual((page["state"], page["stages"][0]["last_layer"]), ("ready", 3))
        self.assertIn("<h1>Penstock</h1>", get(server, "/")[1])

    def test_a_draining_server_says_so(self):
        server = Server("--drain-timeout", str(TIMEOUT))
        self.addCleanup(server.close)
        client = start_generate(server, "--prompt", "Once", "--max-tokens", "2000", "--ignore-eos")
        self.addCleanup(client.communicate)
        self.addCleanup(client.kill)
        self.assertTrue(client.stdout.read(1))
        server.terminate()
        until = time.monotonic() + TIMEOUT
        while (answer := get(server, "/readyz"))[0] == 200 and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(answer[0], 503)
        self.assertIn("draining", answer[1])
        self.assertEqual(get(server, "/livez")[0], 200)

    def test_a_port_in_use_is_named(self):
        server = Server(model="dummy:tiny")
        self.addCleanup(server.close)
        result = run("serve", "--model", "dummy:tiny", "--listen", "127.0.0.1:0",
                     "--metrics-listen", server.metrics.removeprefix("http://"))
        self.assertFails(result, 1, "--metrics-listen.*in use by another program")

    def test_a_trace_is_whole_once_the_server_has_ended(self):
        with tempfile.TemporaryDirectory(prefix="penstock-test-") as folder:
            trace = pathlib.Path(folder, "trace.json")
            server = Server("--trace-file", str(trace), model="dummy:tiny")
            self.addCleanup(server.close)
            server.terminate()
            self.assertEqual(server.wait(), 0)
            names = [event["args"].get("name") for event in json.loads(trace.read_text())]
            self.assertIn("stage 0", names)

    def test_it_can_be_off(self):
        self.assertFails(run("serve", "--model", MODEL, "--trace-file", "/nowhere/trace",
                             "--listen", "127.0.0.1:0", "--metrics-listen", "off"), 1,
                         "/nowhere/trace", "writable folder")


if __name__ == "__main__":
    unittest.main()
