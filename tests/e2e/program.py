"""The built program and the packaged model, for the end-to-end tests. Plain Python, no packages."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

BINARY = os.environ.get("PENSTOCK_BINARY", "build/release/frontend/penstock")
MODEL = os.environ.get("PENSTOCK_MODEL", "")
PATIENCE = float(os.environ.get("PENSTOCK_TEST_PATIENCE", "1"))  # more where programs are slower
TIMEOUT = 120 * PATIENCE  # seconds; of a command that hangs


def setUpModule():
    """To be imported by every test module: fails all of them at once if something is missing."""
    if not pathlib.Path(BINARY).is_file():
        raise AssertionError(f"no program at {BINARY}: build it first")
    if not pathlib.Path(MODEL).is_file():
        raise AssertionError(
            f"no model at '{MODEL}': run scripts/fetch-model and configure with -DPENSTOCK_MODEL")


def run(*arguments, stdin=b""):
    """Runs `penstock` to its end. Arguments are str or bytes."""
    if arguments[:1] == ("serve",) and "--metrics-listen" not in arguments:
        arguments += ("--metrics-listen", "127.0.0.1:0")  # the default may be another test's
    return subprocess.run([BINARY, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT)


def text(output):
    return output.decode("utf-8", "replace")


def target(server):
    return ["--server", server.address] if server else ["--model", MODEL]


def generate(*arguments, server=None):
    """The JSON object that `penstock generate --json` prints, greedy unless told otherwise."""
    arguments = list(arguments)
    if "--temperature" not in arguments:
        arguments += ["--temperature", "0"]
    result = run("generate", *target(server), "--json", *arguments)
    if result.returncode != 0:
        raise AssertionError(f"exit code {result.returncode}: {text(result.stderr)}")
    return json.loads(result.stdout)


def start_generate(server, *arguments):
    """Unbuffered, so that read(1) takes one byte and leaves the others to communicate()."""
    return subprocess.Popen([BINARY, "generate", *target(server), *arguments], bufsize=0,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class Server:
    """`penstock serve` on a free port of this machine; ready once made."""

    def __init__(self, *arguments, model=MODEL):
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-test-")
        port_file = pathlib.Path(self._folder.name, "port")
        metrics_file = pathlib.Path(self._folder.name, "metrics_port")
        self._log_path = pathlib.Path(self._folder.name, "log")
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [BINARY, "serve", "--model", str(model), "--listen", "127.0.0.1:0", "--port-file",
                 str(port_file), "--metrics-listen", "127.0.0.1:0", "--metrics-port-file",
                 str(metrics_file), *arguments], stdout=subprocess.DEVNULL, stderr=log)
        until = time.monotonic() + TIMEOUT
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                log, code = self.log(), self.process.poll()
                self.close()
                raise AssertionError(f"the server did not get ready (exit code {code}):\n{log}")
            time.sleep(0.01)
        self.address = "127.0.0.1:" + port_file.read_text().strip()
        self.metrics = "http://127.0.0.1:" + metrics_file.read_text().strip()

    def log(self):
        return text(self._log_path.read_bytes())

    def wait_for_log(self, words):
        until = time.monotonic() + TIMEOUT
        while words not in self.log():
            if time.monotonic() > until:
                raise AssertionError(f"no '{words}' in the server's log:\n{self.log()}")
            time.sleep(0.01)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        return self.process.wait(TIMEOUT)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()


class ProgramTest(unittest.TestCase):
    def assertFails(self, result, code, *words):
        """The exit code, and all of the words (regular expressions) on standard error."""
        message = text(result.stderr)
        self.assertEqual(result.returncode, code, message)
        self.assertEqual(result.stdout, b"")
        for word in words:
            self.assertRegex(message, re.compile(word, re.DOTALL))
        return message
