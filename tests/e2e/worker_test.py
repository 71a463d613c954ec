"""penstock-worker as a program: what it refuses, and its life under --supervise."""

import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

from processes import alive, descendants, kill, wait_until

WORKER = os.environ["PENSTOCK_WORKER"]
TIMEOUT = 120 * float(os.environ.get("PENSTOCK_TEST_PATIENCE", "1"))


def run(*arguments):
    return subprocess.run([WORKER, *arguments], capture_output=True, timeout=TIMEOUT, text=True,
                          check=False)


class WorkerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)  # of mode 0700

    def start(self, *arguments):
        log = open(self.folder / "log", "w+", encoding="utf-8")
        self.addCleanup(log.close)
        process = subprocess.Popen([WORKER, *arguments], stderr=log)

        def end():
            process.kill()
            process.wait(TIMEOUT)
        self.addCleanup(end)
        return process

    def log(self):
        return (self.folder / "log").read_text(encoding="utf-8")

    def supervise(self, *arguments):
        return self.start("--listen", f"unix:{self.folder}/socket", "--supervise", *arguments)

    def child(self, process, other_than=None, listening=True):
        """The one child of a process, once it listens."""
        found = []

        def listens():
            found[:] = descendants(process.pid)
            return (len(found) == 1 and found[0] != other_than and
                    (not listening or
                     self.log().count("listening") > (0 if other_than is None else 1)))
        wait_until(listens, "a worker")
        return found[0]

    def test_refusals(self):
        for arguments, code, sentence in (
                ((), 2, "--listen"),
                (("--listen", "0.0.0.0:0"), 1, "needs TLS"),
                (("--listen", "nonsense"), 1, "HOST:PORT"),
                (("--listen", "127.0.0.1:0", "--advertise", "10.0.0.1:7"), 1, "--advertise"),
                (("--listen", "127.0.0.1:0", "--threads", "-1"), 2, "--threads"),
                (("--listen", f"unix:{self.folder}/no/such/socket"), 1, "folder"),
                (("--listen", "127.0.0.1:0", "--port-file", "/no/such/file"), 1, "--port-file")):
            with self.subTest(arguments):
                result = run(*arguments)
                self.assertEqual(code, result.returncode, result.stderr)
                self.assertIn(sentence, result.stderr)
        self.assertRegex(run("--version").stdout, r"^penstock-worker \d+\.\d+\.\d+$")

    def test_waits_for_its_front_end_only_so_long(self):
        result = run("--listen", f"unix:{self.folder}/socket", "--once", "--wait", "0.2")
        self.assertEqual(1, result.returncode)
        self.assertIn("no front end has come within 200ms", result.stderr)
        self.assertFalse((self.folder / "socket").exists())

    def test_terminated_while_idle(self):
        process = self.start("--listen", f"unix:{self.folder}/socket")
        wait_until(lambda: "listening" in self.log(), "a worker")
        process.terminate()
        self.assertEqual(0, process.wait(TIMEOUT))

    def test_supervise_starts_a_dead_worker_again(self):
        process = self.supervise()
        first = self.child(process)
        kill(first)
        second = self.child(process, other_than=first)
        self.assertIn("was killed by signal 9 (Killed); it is started again", self.log())
        self.assertTrue(alive(second))
        # And passes the end on.
        process.terminate()
        self.assertEqual(0, process.wait(TIMEOUT))
        self.assertFalse(alive(second))

    def test_supervise_that_is_killed_takes_its_worker_along(self):
        process = self.supervise()
        worker = self.child(process)
        process.kill()
        process.wait(TIMEOUT)
        wait_until(lambda: not alive(worker), "the worker's end")

    def test_supervise_gives_up_in_the_end(self):
        # The folder may be entered by others, so that no start succeeds.
        os.chmod(self.folder, 0o755)
        process = self.supervise("--max-deaths", "3", "--death-window", "1000")
        self.assertEqual(1, process.wait(TIMEOUT))
        log = self.log()
        self.assertEqual(3, log.count("chmod 700"), log)
        self.assertIn("ended 3 times", log)

    def test_supervise_forgets_old_deaths(self):
        process = self.supervise("--max-deaths", "2", "--death-window", "0.1")
        worker = self.child(process)
        for _ in range(3):
            time.sleep(0.2)
            kill(worker)
            worker = self.child(process, other_than=worker, listening=False)
        self.assertIsNone(process.poll())

    def test_supervise_does_not_repeat_a_wrong_command(self):
        process = self.start("--listen", "127.0.0.1:0", "--supervise", "--threads", "5000")
        self.assertEqual(2, process.wait(TIMEOUT))
        self.assertNotIn("again", self.log())

    def test_supervise_reaps_what_others_leave(self):
        # As in a container, where orphans become PID 1's children: here by PR_SET_CHILD_SUBREAPER,
        # which survives exec.
        script = ("import ctypes, os, sys\n"
                  "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
                  "if os.fork() == 0:\n"
                  "    if os.fork() == 0:\n"
                  "        os.execvp('sleep', ['sleep', '0.3'])\n"
                  "    os._exit(0)\n"
                  "os.wait()\n"
                  "os.execv(sys.argv[1], sys.argv[1:])\n")
        log = open(self.folder / "log", "w+", encoding="utf-8")
        self.addCleanup(log.close)
        process = subprocess.Popen(["python3", "-c", script, WORKER, "--supervise", "--listen",
                                    f"unix:{self.folder}/socket"], stderr=log)
        self.addCleanup(process.wait, TIMEOUT)
        self.addCleanup(process.kill)
        # Neither the orphan nor a zombie of it is left, only the worker.
        wait_until(lambda: "listening" in self.log() and len(descendants(process.pid)) == 1,
                   "the orphan to be reaped")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(0, process.wait(TIMEOUT))


if __name__ == "__main__":
    unittest.main()
