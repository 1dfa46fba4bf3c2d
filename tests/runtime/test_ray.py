"""Real workers: runs, losses, cancellation, and what an operator gets to see."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from live_platform import LivePlatform, processes_called

from foldase.runtime.processes import descendants

pytestmark = pytest.mark.ray

CANCEL_SECONDS = 10.0
"""The promise: cancelling ends the whole process tree within this time."""

LOSS_SECONDS = 15.0
"""The promise: work of a dead worker goes on within this time, on an idle machine."""

SLOW_MACHINE = 3.0
"""A machine that runs all tests of several people at once may take this much longer."""

SMALL = """
version: 1
name: small
inputs:
  start: {type: int, default: 1}
steps:
  a: {uses: test.add@1, with: {value: "${{ inputs.start }}"}}
  b: {uses: test.add@1, with: {value: "${{ steps.a.value }}"}}
  w: {uses: test.write@1, with: {text: "run ${{ inputs.start }}"}}
  r: {uses: test.read@1, with: {file: "${{ steps.w.file }}", tree: "${{ steps.w.tree }}"}}
outputs:
  number: ${{ steps.b.value }}
  text: ${{ steps.r.text }}
  pages: ${{ steps.r.pages }}
"""

FAN = """
version: 1
name: fan
inputs:
  numbers: {type: "list[int]"}
steps:
  add:
    uses: test.add@1
    each: {number: "${{ inputs.numbers }}"}
    with: {value: "${{ each.number }}"}
outputs:
  numbers: ${{ steps.add.each.value }}
"""


def one_step(uses: str, values: dict[str, object], more: str = "") -> str:
    """A workflow of one step called ``s``; the salt keeps it out of the cache of other tests."""
    given = {**values}
    return f"version: 1\nname: one\nsteps:\n  s: {{uses: {uses}, with: {json.dumps(given)}{more}}}\n"


def test_a_run_goes_through_workers_and_the_store(live_platform: LivePlatform) -> None:
    run = live_platform.succeed(SMALL, start=41)
    assert run.outputs == {"number": 43, "text": "run 41", "pages": ["run 41 0", "run 41 1"]}
    attempt = live_platform.step(run.id, "a").attempts[0]
    assert attempt.state == "succeeded"
    assert attempt.worker
    assert attempt.pid
    assert attempt.peak_memory_bytes
    assert attempt.peak_memory_bytes > 10 << 20
    again = live_platform.succeed(SMALL, start=41)
    assert all(step.cached for step in again.steps)


def test_a_fan_out_runs_every_item_once(live_platform: LivePlatform) -> None:
    numbers = list(range(1000, 1400))
    run = live_platform.succeed(FAN, numbers=numbers)
    assert run.outputs == {"numbers": [number + 1 for number in numbers]}
    with live_platform.store.database.read() as connection:
        attempts = connection.exec_driver_sql(
            f"SELECT COUNT(*), COUNT(DISTINCT step) FROM attempt WHERE run = '{run.id}'"
        ).one()
    assert tuple(attempts) == (400, 400)


def test_all_output_is_caught_in_the_log(live_platform: LivePlatform) -> None:
    run = live_platform.succeed(one_step("test.print@1", {"value": 5}))
    lines = live_platform.log(run.id, "s")
    for expected in ("from python", "a warning", "from c code", "from a child", "bar 2", "from the log"):
        assert expected in lines
    assert not any("bar 1" in line for line in lines)


def test_operators_see_no_secrets_and_their_own_cores(live_platform: LivePlatform) -> None:
    run = live_platform.succeed(one_step("test.environment@1", {"value": 2}, ", resources: {cpu: 2}"))
    seen = live_platform.step(run.id, "s").outputs
    assert seen is not None
    names = seen["names"]
    assert not any("TOKEN" in name or "AUTH" in name for name in names)
    assert "FOLDASE_WORKER" in names
    assert seen["threads"] == "2"
    assert seen["devices"] == ""
    assert Path(seen["folder"]).is_relative_to(live_platform.home.resolve() / "scratch")


def test_a_step_killed_for_memory_succeeds_on_its_next_plan(live_platform: LivePlatform) -> None:
    """Its first prediction has no correction and is far too low; the second knows better and saves, too."""
    wanted = 1200 << 20
    text = one_step(
        "test.thrifty@1", {"bytes_wanted": wanted, "seconds": 60.0}, ", resources: {memory: 300MiB}"
    )
    run = live_platform.succeed(text)
    detail = live_platform.step(run.id, "s")
    killed, succeeded = detail.attempts
    assert killed.cause == "oom_host"
    assert killed.peak_memory_bytes is not None
    assert killed.peak_memory_bytes > 1 << 30
    assert killed.plan is not None
    assert killed.plan["predicted_peak_bytes"] == wanted // 2
    assert succeeded.plan is not None
    # The guard looks now and then, and kills somewhere between the limit and all that was wanted.
    assert 1.4 < succeeded.plan["correction"] < 2.2
    assert succeeded.plan["predicted_peak_bytes"] == pytest.approx(
        wanted / 4 * succeeded.plan["correction"], abs=1
    )
    assert succeeded.changes == {"frugality": [0, 1], "memory_bytes": [300 << 20, 450 << 20]}
    assert detail.outputs is not None
    assert detail.outputs["frugality"] == 1
    assert detail.outputs["correction"] == succeeded.plan["correction"]


def test_a_killed_worker_costs_only_what_came_after_the_checkpoint(live_platform: LivePlatform) -> None:
    # Steps of other tests that were cancelled keep theirs, for a run that resumes them.
    kept = set((live_platform.home / "checkpoints").glob("*"))
    run = live_platform.submit(one_step("test.count@1", {"to": 20, "seconds": 0.15, "label": "killed"}))
    attempt = live_platform.running(run, "s")
    assert attempt.pid is not None
    live_platform.wait(lambda: _counted(live_platform, run) >= 3, 60, what="three numbers")
    os.kill(attempt.pid, signal.SIGKILL)
    killed = time.monotonic()
    live_platform.running(run, "s", attempt=2)
    assert time.monotonic() - killed < LOSS_SECONDS * SLOW_MACHINE
    finished = live_platform.finish(run)
    assert finished.summary.state == "succeeded"
    step = live_platform.step(run, "s")
    assert [(one.state, one.cause) for one in step.attempts] == [
        ("failed", "worker_lost"),
        ("succeeded", None),
    ]
    assert step.outputs is not None
    assert step.outputs["counted"] == 20
    assert step.outputs["began_at"] >= 3
    assert step.outputs["attempts"] == [1, 2]
    checkpoints = live_platform.home / "checkpoints"
    live_platform.wait(lambda: set(checkpoints.iterdir()) <= kept, 30, what="the checkpoints to be removed")


def test_a_worker_that_crashes_says_its_last_words(live_platform: LivePlatform) -> None:
    run = live_platform.submit(one_step("test.fail@1", {"how": "crash"}))
    live_platform.running(run, "s", attempt=2)
    live_platform.store.requests.request_cancel(run)
    live_platform.finish(run)
    assert live_platform.step(run, "s").attempts[0].cause == "worker_lost"
    assert any("Aborted" in line or "SIGABRT" in line for line in live_platform.log(run, "s", attempt=1))


@pytest.mark.parametrize("operator", ["test.work@1", "test.grind@1"])
def test_cancelling_ends_a_computing_worker_and_all_it_started(
    live_platform: LivePlatform, operator: str
) -> None:
    values = {"seconds": 300, "heed": False, "children": True, "label": operator}
    run = live_platform.submit(one_step(operator, values))
    attempt = live_platform.running(run, "s")
    assert attempt.pid is not None
    live_platform.wait_log(run, "s", str(attempt.pid))
    children = descendants(attempt.pid)
    assert len(children) == 2
    live_platform.store.requests.request_cancel(run)
    began = time.monotonic()
    finished = live_platform.finish(run)
    took = time.monotonic() - began
    assert finished.summary.state == "cancelled"
    assert took < CANCEL_SECONDS * SLOW_MACHINE
    left = {attempt.pid, *(child.pid for child in children)} & set(processes_called(""))
    assert left == set()


def test_a_step_that_heeds_its_flag_keeps_its_worker(live_platform: LivePlatform) -> None:
    run = live_platform.submit(one_step("test.work@1", {"seconds": 300, "label": "heeds"}))
    attempt = live_platform.running(run, "s")
    assert attempt.pid is not None
    live_platform.store.requests.request_cancel(run)
    assert live_platform.finish(run).summary.state == "cancelled"
    step = live_platform.step(run, "s").attempts[0]
    assert (step.state, step.exit) == ("cancelled", None)
    assert attempt.pid in processes_called("ray::")


def test_a_step_out_of_time_is_ended(live_platform: LivePlatform) -> None:
    values = {"seconds": 300, "heed": False, "label": "timeout"}
    run = live_platform.submit(one_step("test.work@1", values, ", timeout: 1s"))
    finished = live_platform.finish(run)
    assert finished.summary.state == "failed"
    step = live_platform.step(run, "s")
    assert [one.cause for one in step.attempts] == ["timeout"]
    assert step.summary.error is not None
    assert step.summary.error["code"] == "timeout"


def test_a_frozen_worker_is_noticed_and_its_work_goes_on_elsewhere(live_platform: LivePlatform) -> None:
    run = live_platform.submit(one_step("test.count@1", {"to": 15, "seconds": 0.15, "label": "frozen"}))
    attempt = live_platform.running(run, "s")
    assert attempt.pid is not None
    live_platform.wait(lambda: _counted(live_platform, run) >= 2, 60, what="two numbers")
    os.kill(attempt.pid, signal.SIGSTOP)
    finished = live_platform.finish(run, seconds=120)
    assert finished.summary.state == "succeeded"
    step = live_platform.step(run, "s")
    assert [(one.state, one.cause) for one in step.attempts] == [
        ("failed", "worker_lost"),
        ("succeeded", None),
    ]
    assert step.attempts[0].exit is not None
    assert "sign of life" in step.attempts[0].exit
    assert attempt.pid not in processes_called("")


def test_the_scheduler_dies_and_nobody_notices(live_platform: LivePlatform) -> None:
    run = live_platform.submit(one_step("test.count@1", {"to": 20, "seconds": 0.2, "label": "scheduler"}))
    live_platform.running(run, "s")
    before = live_platform.scheduler()
    os.kill(before, signal.SIGKILL)
    finished = live_platform.finish(run)
    assert finished.summary.state == "succeeded"
    attempts = live_platform.step(run, "s").attempts
    assert [(one.number, one.state) for one in attempts] == [(1, "succeeded")]
    assert live_platform.scheduler() != before
    assert live_platform.succeed(SMALL, start=77).outputs is not None


def test_a_result_that_nobody_took_is_told_again(live_platform: LivePlatform) -> None:
    """The scheduler is dead at the moment when the step ends; the worker repeats its report."""
    run = live_platform.submit(one_step("test.work@1", {"seconds": 1.0, "label": "untold"}))
    live_platform.running(run, "s")
    time.sleep(0.6)
    os.kill(live_platform.scheduler(), signal.SIGKILL)
    assert live_platform.finish(run).summary.state == "succeeded"
    assert len(live_platform.step(run, "s").attempts) == 1


def test_the_dashboard_is_private_and_names_the_work(live_platform: LivePlatform) -> None:
    path = live_platform.home / "ray.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(path.read_text())
    assert found["dashboard"].startswith("http://127.0.0.1:")
    address = f"{found['dashboard']}/api/v0/actors"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address, timeout=20)
    assert refused.value.code == 401
    run = live_platform.submit(one_step("test.work@1", {"seconds": 300, "label": "shown"}))
    live_platform.running(run, "s")
    tasks = f"{found['dashboard']}/api/v0/tasks?detail=1&limit=10000"
    shown = ""
    deadline = time.monotonic() + 40
    while f"{run}/s #1" not in shown and time.monotonic() < deadline:
        request = urllib.request.Request(tasks, headers={"Authorization": f"Bearer {found['token']}"})
        shown = urllib.request.urlopen(request, timeout=20).read().decode()
        time.sleep(0.5)
    live_platform.store.requests.request_cancel(run)
    live_platform.finish(run)
    assert f"{run}/s #1" in shown


def test_everything_listens_on_this_machine_only(live_platform: LivePlatform) -> None:
    live_platform.succeed(SMALL, start=5)
    assert live_platform.process is not None
    listening = _listening()
    addresses = set()
    for process in descendants(live_platform.process.pid):
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in listening:
                addresses.add(listening[target[8:-1]])
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_rays_files_lie_in_a_short_private_folder(live_platform: LivePlatform) -> None:
    record = json.loads((live_platform.home / "runtime.json").read_text())
    folder = Path(record["temporary"])
    assert len(str(folder)) < 30
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((live_platform.home / "ray-token").stat().st_mode) == 0o600


def test_the_view_shows_nodes_and_workers(live_platform: LivePlatform) -> None:
    run = live_platform.submit(one_step("test.work@1", {"seconds": 300, "label": "view"}))
    live_platform.running(run, "s")

    def busy() -> bool:
        return any(worker.run == run for worker in live_platform.store.cluster.read().workers)

    live_platform.wait(busy, 30, what="the worker to be shown")
    shown = live_platform.store.cluster.read()
    live_platform.store.requests.request_cancel(run)
    live_platform.finish(run)
    worker = next(worker for worker in shown.workers if worker.run == run)
    assert (worker.state, worker.step) == ("busy", "s")
    assert shown.nodes[0]["alive"]
    assert shown.nodes[0]["cpus_used"] >= 1
    assert shown.hardware is not None
    assert shown.hardware["cpus"] >= 1


def _counted(platform: LivePlatform, run: str) -> int:
    _, page = platform.store.logs.read(run, "s", "metrics")
    return len(page.lines)


def _listening() -> dict[str, str]:
    """Inode of each listening TCP socket to its address, as the kernel writes it."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found[fields[9]] = fields[1].split(":")[0]
    return found
