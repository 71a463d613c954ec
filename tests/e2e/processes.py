"""The worker processes of a server, by way of /proc."""

import os
import pathlib
import signal
import time

from program import TIMEOUT


def _stat(pid):
    """(state, parent) of a process, or None if it is gone."""
    try:
        fields = pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def alive(pid):
    stat = _stat(pid)
    return stat is not None and stat[0] != "Z"


def descendants(pid):
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _stat(entry.name)
            if stat is not None:
                parents[int(entry.name)] = stat[1]
    found, edge = [], [pid]
    while edge:
        edge = [child for child, parent in parents.items() if parent in edge]
        found += edge
    return sorted(found)


def _stage(pid):
    """The number behind a worker's --name; -1 if it is gone."""
    try:
        words = pathlib.Path("/proc", str(pid), "cmdline").read_text().split("\0")
    except OSError:
        return -1
    names = [name for flag, name in zip(words, words[1:]) if flag == "--name"]
    return int(names[0].removeprefix("stage ")) if names else -1


def workers(server):
    """Ids of the living penstock-worker processes of a server, in the order of their stages."""
    found = []
    for pid in descendants(server.process.pid):
        try:
            name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        except OSError:
            continue
        if name.startswith("penstock-worker") and alive(pid):
            found.append(pid)
    return sorted(found, key=_stage)


def wait_until(condition, what):
    until = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited for too long: {what}")
        time.sleep(0.01)


def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)
