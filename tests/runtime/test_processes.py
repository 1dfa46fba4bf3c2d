"""Finding and ending processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from foldase.runtime.processes import (
    ProcessId,
    alive,
    descendants,
    kill_tree,
    status_of,
    this_process,
    with_environment,
)

# A process that catches its orphans, with one child, one that has left the session, and one stubborn one.
_TREE = """
import subprocess, sys, time
from foldase.runtime.processes import become_subreaper
become_subreaper()
subprocess.Popen(["sleep", "300"])
subprocess.Popen(["sh", "-c", "setsid sleep 301 & exit"]).wait()
subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(302)"])
print("ready", flush=True)
time.sleep(300)
"""

_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; from foldase.runtime.processes import die_with_parent;"
    "die_with_parent(signal.SIGKILL); print('ready', flush=True); time.sleep(300)"])
print(child.pid, flush=True)
time.sleep(300)
"""

_ORPHANS = """
import os, subprocess, time
from foldase.runtime.processes import become_subreaper, descendants, end_children
become_subreaper()
assert end_children() == 0
subprocess.Popen(["sleep", "300"])
subprocess.Popen(["sh", "-c", "setsid sleep 301 & exit"]).wait()
time.sleep(0.2)
assert end_children() == 2
assert descendants(os.getpid()) == []
assert end_children() == 0
"""


def test_a_process_is_named_by_pid_and_start() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert ProcessId.parse(me.mark) == me
    assert alive(me)
    assert not alive(ProcessId(me.pid, me.started + 1))
    assert status_of(2**22 + 1) is None


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    process = ProcessId(child.pid, 0)
    deadline = time.monotonic() + 10
    while (status := status_of(child.pid)) is not None and not status.gone and time.monotonic() < deadline:
        process = status.id
        time.sleep(0.01)
    assert status is not None
    assert status.gone
    assert not alive(process)
    child.wait()


def test_killing_a_tree_leaves_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", _TREE], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    root = status_of(child.pid)
    assert root is not None
    deadline = time.monotonic() + 10
    while len(below := descendants(child.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(below) == 3
    assert kill_tree(root.id)
    child.wait()
    assert not any(alive(process) for process in below)


def test_marked_processes_are_found_wherever_they_went() -> None:
    value = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    assert with_environment("FOLDASE_TEST_MARK", value) == []
    shell = subprocess.Popen(
        ["sh", "-c", "setsid sleep 60 & exit"], env={**os.environ, "FOLDASE_TEST_MARK": value}
    )
    shell.wait()
    found = with_environment("FOLDASE_TEST_MARK", value)
    assert len(found) == 1
    os.kill(found[0].pid, signal.SIGKILL)


def test_a_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    told = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    child = status_of(int((told - {"ready"}).pop()))
    assert child is not None
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(child.id) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child.id)


def test_what_a_step_leaves_behind_is_ended() -> None:
    subprocess.run([sys.executable, "-c", _ORPHANS], check=True, timeout=60)
