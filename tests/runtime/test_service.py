"""The service: one per state folder, a cluster that is replaced when it dies, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_platform import LivePlatform

from foldase.runtime.cluster import Record, clean_up, record_path, write_record
from foldase.runtime.processes import alive, descendants, status_of

COUNT = """
version: 1
name: count
steps:
  before: {uses: test.add@1, with: {value: %d}}
  s: {uses: test.count@1, with: {to: 40, seconds: 0.2, label: "%s"}, after: [before]}
outputs: {counted: "${{ steps.s.counted }}", began: "${{ steps.s.began_at }}"}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="foldase-tests-") as folder:
        yield Path(folder)


@pytest.fixture
def platform(home: Path) -> Iterator[LivePlatform]:
    """A platform of its own, for tests that take it apart."""
    platform = LivePlatform(home)
    yield platform
    platform.kill()


def sleeper(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "300"], env={**os.environ, **environment})


def mark_of(process: subprocess.Popen[bytes]) -> str:
    status = status_of(process.pid)
    assert status is not None
    return status.id.mark


def test_only_what_was_recorded_is_cleaned_up(home: Path) -> None:
    recorded, marked, foreign = sleeper(), sleeper(FOLDASE_CLUSTER="c1"), sleeper(FOLDASE_CLUSTER="c2")
    reused = mark_of(foreign).partition("-")[0] + "-1"
    folder = Path(tempfile.mkdtemp(prefix="foldase-", dir="/tmp"))
    try:
        write_record(home, Record("c1", str(folder), (mark_of(recorded), reused)))
        assert clean_up(home) == 2
        assert recorded.wait(10) == -signal.SIGKILL
        assert marked.wait(10) == -signal.SIGKILL
        assert foreign.poll() is None, "another pid with the same number is not ours"
        assert not folder.exists()
        assert not record_path(home).exists()
        assert clean_up(home) == 0
    finally:
        foreign.kill()
        foreign.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": 1}'])
def test_an_unreadable_record_harms_nothing(home: Path, text: str) -> None:
    record_path(home).write_text(text)
    assert clean_up(home) == 0


def test_the_folder_of_a_forged_record_is_left_alone(home: Path) -> None:
    precious = home / "precious"
    precious.mkdir()
    write_record(home, Record("c1", str(precious)))
    clean_up(home)
    assert precious.exists()


def test_the_service_itself_needs_neither_ray_nor_torch() -> None:
    code = "import sys, foldase.runtime.service; print([n for n in ('ray', 'torch') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_operator_module_is_told_at_once(home: Path) -> None:
    command = [sys.executable, "-m", "foldase.runtime.service", "--home", str(home)]
    environment = {**os.environ, "FOLDASE_OPERATORS": "no_such_operators"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "no_such_operators" in found.stderr


def test_one_service_per_state_folder(home: Path) -> None:
    first = LivePlatform(home, "--no-ray")
    first.start()
    try:
        first.wait((home / "foldase.db").exists, 60, what="the database")
        first.wait(lambda: first.store.cluster.read().state == "ready", 60, what="the view")
        command = [sys.executable, "-m", "foldase.runtime.service", "--home", str(home), "--no-ray"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "another runtime serves" in second.stderr
        first.stop()
    finally:
        first.kill()


def test_without_ray_a_run_goes_through_all_the_same(home: Path) -> None:
    platform = LivePlatform(home, "--no-ray")
    platform.start()
    try:
        platform.wait((home / "foldase.db").exists, 60, what="the database")
        text = (
            "version: 1\nname: one\nsteps:\n  s: {uses: test.write@1}\noutputs: {f: '${{ steps.s.file }}'}\n"
        )
        run = platform.succeed(text)
        assert run.outputs is not None
        shown = platform.store.cluster.read()
        assert shown.state == "ready"
        platform.stop()
        assert platform.store.cluster.read().state == "stopped"
    finally:
        platform.kill()


def test_the_service_answers_before_ray_has_started(platform: LivePlatform) -> None:
    began = time.monotonic()
    platform.start()
    platform.wait((platform.home / "foldase.db").exists, 60, what="the database")
    platform.wait(
        lambda: "starting" in platform.store.cluster.read().message, 60, what="the word that it is starting"
    )
    assert platform.store.cluster.read().state == "starting"
    assert time.monotonic() - began < 60
    assert platform.process is not None
    platform.process.send_signal(signal.SIGTERM)
    assert platform.process.wait(60) == 0, "it can be stopped while it starts"
    assert platform.store.cluster.read().state == "stopped"
    assert not record_path(platform.home).exists()


@pytest.mark.ray
@pytest.mark.verify
@pytest.mark.parametrize("victim", ["raylet", "gcs_server", "head"])
def test_a_dead_cluster_is_replaced_and_the_work_goes_on(platform: LivePlatform, victim: str) -> None:
    platform.start()
    platform.wait_ready()
    run = platform.submit(COUNT % (1, victim))
    platform.running(run, "s")
    platform.wait(lambda: _counted(platform, run) >= 3, 60, what="three numbers")
    assert platform.process is not None
    before = set(descendants(platform.process.pid))
    head = next(process for process in before if _is_head(process.pid))
    killed = time.time()
    os.kill(head.pid if victim == "head" else platform.ray_process(victim), signal.SIGKILL)
    finished = platform.finish(run, seconds=240)
    assert finished.summary.state == "succeeded"
    assert finished.outputs is not None
    assert finished.outputs["counted"] == 40
    platform.wait_ready(after=killed + 5)
    assert [process for process in before if alive(process)] == [], "nothing of the old cluster runs"
    _check_not_repeated(platform, run)
    platform.stop()


@pytest.mark.ray
@pytest.mark.verify
def test_killing_everything_loses_nothing(platform: LivePlatform) -> None:
    platform.start()
    platform.wait_ready()
    run = platform.submit(COUNT % (2, "everything"))
    platform.running(run, "s")
    platform.wait(lambda: _counted(platform, run) >= 3, 60, what="three numbers")
    assert platform.process is not None
    before = descendants(platform.process.pid)
    for process in before:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    platform.process.kill()
    platform.process.wait()
    platform.start()
    finished = platform.finish(run, seconds=240)
    assert finished.summary.state == "succeeded"
    assert finished.outputs is not None
    assert finished.outputs["began"] >= 3
    _check_not_repeated(platform, run)
    assert [process for process in before if alive(process)] == []
    platform.wait_ready()
    platform.stop()


@pytest.mark.ray
@pytest.mark.verify
def test_killing_the_service_alone_ends_its_cluster(platform: LivePlatform) -> None:
    platform.start()
    platform.wait_ready()
    assert platform.process is not None
    before = descendants(platform.process.pid)
    assert len(before) > 5
    platform.process.kill()
    platform.process.wait()
    # Workers, scheduler and head go within seconds; Ray's two agents wait a minute for a head to come back.
    deadline = time.monotonic() + 150
    while (left := [process for process in before if alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    platform.start()
    platform.wait_ready(after=time.time())
    platform.stop()


@pytest.mark.ray
@pytest.mark.verify
def test_steps_get_devices_of_their_own(home: Path) -> None:
    """On a machine that seems to have two devices; nobody computes on them."""
    tools = home / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\nprintf 'Paper GPU, 1024\\nPaper GPU, 1024\\n'\n")
    (tools / "nvidia-smi").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    platform = LivePlatform(home / "state", environment=environment)
    platform.start()
    try:
        platform.wait_ready()
        hardware = platform.store.cluster.read().hardware
        assert hardware is not None
        assert hardware["gpus"] == [{"name": "Paper GPU", "memory_bytes": 1 << 30}] * 2
        text = (
            "version: 1\nname: gpu\nsteps:\n"
            "  one: {uses: test.environment@1, with: {value: 1}, resources: {gpu: 1}}\n"
            "  both: {uses: test.environment@1, with: {value: 2}, resources: {gpu: 2}}\n"
            "  none: {uses: test.environment@1, with: {value: 3}}\n"
        )
        run = platform.succeed(text)
        seen = {step.id: platform.step(run.id, step.id).outputs for step in run.steps}
        devices = {name: outputs["devices"] for name, outputs in seen.items() if outputs is not None}
        assert devices["one"] in ("0", "1")
        assert sorted(devices["both"].split(",")) == ["0", "1"]
        assert devices["none"] == ""
        platform.stop()
    finally:
        platform.kill()


_FOREIGN_RAY = """
import sys, ray
context = ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=True,
                   dashboard_host="127.0.0.1", log_to_driver=False, _temp_dir=sys.argv[1])
print(context.address_info["gcs_address"], flush=True)
sys.stdin.readline()
print(len([actor for actor in ray.util.list_named_actors(all_namespaces=True)]), flush=True)
sys.stdin.readline()
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.verify
def test_a_ray_that_somebody_else_runs_can_be_used(home: Path) -> None:
    token = home / "their-token"
    token.write_text("0" * 64)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with tempfile.TemporaryDirectory(prefix="fr-", dir="/tmp") as folder:
        theirs = subprocess.Popen(
            [sys.executable, "-c", _FOREIGN_RAY, f"{folder}/r"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert theirs.stdin is not None
        assert theirs.stdout is not None
        address = theirs.stdout.readline().strip()
        platform = LivePlatform(home / "state", "--ray-address", address, environment=environment)
        platform.start()
        try:
            platform.wait_ready()
            assert platform.succeed(COUNT % (4, "theirs")).outputs is not None
            platform.stop()
            theirs.stdin.write("\n")
            theirs.stdin.flush()
            assert theirs.stdout.readline().strip() == "0", "no actor of ours is left in it"
            theirs.communicate("\n", timeout=60)
        finally:
            platform.kill()
            theirs.kill()
            theirs.wait()


@pytest.mark.ray
@pytest.mark.verify
def test_a_frozen_scheduler_is_replaced(platform: LivePlatform) -> None:
    platform.start()
    platform.wait_ready()
    run = platform.submit(COUNT % (3, "frozen scheduler"))
    platform.running(run, "s")
    frozen = platform.scheduler()
    os.kill(frozen, signal.SIGSTOP)
    finished = platform.finish(run, seconds=240)
    assert finished.summary.state == "succeeded"
    assert len(platform.step(run, "s").attempts) == 1
    assert platform.scheduler() != frozen
    platform.stop()


def _counted(platform: LivePlatform, run: str) -> int:
    _, page = platform.store.logs.read(run, "s", "metrics")
    return len(page.lines)


def _is_head(pid: int) -> bool:
    return "foldase.runtime.head" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def _check_not_repeated(platform: LivePlatform, run: str) -> None:
    attempts = platform.step(run, "before").attempts
    assert [(one.number, one.state) for one in attempts] == [(1, "succeeded")], json.dumps(
        [one.to_json() for one in attempts]
    )
