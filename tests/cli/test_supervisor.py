"""Supervision with small services: restarts, what a killed supervisor leaves behind, the end of all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foldase.cli.processes import alive, end_groups, mark_of
from foldase.cli.supervisor import Supervisor, is_locked, left_over, read_state, stop_other
from foldase_workflows.contracts import Conflict

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
CRASH = [sys.executable, "-c", "import sys; print('last words'); sys.exit(7)"]
STUBBORN_PROGRAM = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = [sys.executable, "-c", STUBBORN_PROGRAM]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def supervisors() -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(home: Path, **options: object) -> Supervisor:
        commands = options.pop("commands", {"web": SLEEP, "runtime": SLEEP})
        options.setdefault("say", lambda text: None)
        made.append(Supervisor(home, commands, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop(grace_seconds=0.0)


def test_a_service_that_ends_is_started_again_later_and_later(tmp_path: Path, supervisors) -> None:
    now, said = [0.0], []
    supervisor = supervisors(
        tmp_path, commands={"web": CRASH, "runtime": SLEEP}, clock=lambda: now[0], say=said.append
    )
    supervisor.start()
    supervisor.start_others()
    web = supervisor.services["web"]
    waits = []
    for _ in range(9):
        assert web.process is not None
        web.process.wait(20)
        supervisor.tick()
        assert web.process is None
        waits.append(web.due - now[0])
        now[0] = web.due - 0.001
        supervisor.tick()
        assert web.process is None, "not before its time"
        now[0] = web.due
        supervisor.tick()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert web.restarts == 9
    assert "status 7" in said[0]
    assert supervisor.services["runtime"].restarts == 0
    assert supervisor.log_tail("web").splitlines()[-1] == "last words"


def test_a_service_that_ran_well_is_started_again_at_once(tmp_path: Path, supervisors) -> None:
    now = [0.0]
    supervisor = supervisors(tmp_path, clock=lambda: now[0])
    supervisor.start()
    web = supervisor.services["web"]
    web.wait = 30.0
    now[0] = 61.0
    supervisor.tick()
    os.kill(web.process.pid, signal.SIGKILL)
    web.process.wait(20)
    supervisor.tick()
    assert web.due == pytest.approx(61.5)


def test_two_supervisors_do_not_share_a_folder(tmp_path: Path, supervisors) -> None:
    first = supervisors(tmp_path)
    first.start()
    with pytest.raises(Conflict) as caught:
        supervisors(tmp_path).start()
    assert caught.value.code == "already_running"
    assert is_locked(tmp_path)
    first.stop()
    assert not is_locked(tmp_path)
    assert not (tmp_path / "up.json").exists()


def test_stop_ends_groups_even_those_that_do_not_listen(tmp_path: Path, supervisors) -> None:
    supervisor = supervisors(tmp_path, commands={"web": STUBBORN})
    supervisor.start()
    wait_until(lambda: supervisor.log_tail("web") != "")
    grandchild = mark_of(int(supervisor.log_tail("web")))
    assert alive(grandchild)
    service = supervisor.services["web"].mark
    supervisor.stop(grace_seconds=0.3)
    wait_until(lambda: not alive(service) and not alive(grandchild))


def test_what_a_crashed_service_started_does_not_live_on(tmp_path: Path, supervisors) -> None:
    supervisor = supervisors(tmp_path, commands={"web": STUBBORN})
    supervisor.start()
    wait_until(lambda: supervisor.log_tail("web") != "")
    grandchild = mark_of(int(supervisor.log_tail("web")))
    os.kill(supervisor.pid("web"), signal.SIGKILL)
    wait_until(lambda: supervisor.ended("web"))
    supervisor.tick()
    wait_until(lambda: not alive(grandchild))


def test_no_service_comes_back_after_the_end(tmp_path: Path, supervisors) -> None:
    supervisor = supervisors(tmp_path)
    supervisor.start()
    supervisor.stop()
    supervisor.tick()
    assert supervisor.services["web"].process is None


PROGRAM = f"""
import sys, time
from pathlib import Path
from foldase.cli.supervisor import Supervisor
supervisor = Supervisor(Path(sys.argv[1]), {{"web": {SLEEP!r}, "runtime": {SLEEP!r}}}, say=print)
supervisor.start()
supervisor.start_others()
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed_home(tmp_path: Path) -> Path:
    """The folder of a supervisor that was killed with -9; its services still run."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.kill()
    process.wait(20)
    process.stdout.close()
    assert len([mark for mark in left_over(tmp_path) if alive(mark)]) == 2
    return tmp_path


def test_the_next_start_ends_what_a_killed_one_left(killed_home: Path, supervisors) -> None:
    left, said = left_over(killed_home), []
    supervisor = supervisors(killed_home, say=said.append)
    supervisor.start()
    assert not any(alive(mark) for mark in left)
    assert "2 processes" in said[0]
    assert alive(read_state(killed_home)["services"]["web"])


def test_down_ends_what_a_killed_one_left(killed_home: Path) -> None:
    left = left_over(killed_home)
    assert stop_other(killed_home) is True
    assert not any(alive(mark) for mark in left)
    assert stop_other(killed_home) is False


def test_a_pid_that_was_given_to_somebody_else_is_left_alone(tmp_path: Path, supervisors) -> None:
    bystander = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        (tmp_path / "up.json").write_text(
            f'{{"supervisor": "{bystander.pid}-1", "services": {{"web": "{bystander.pid}-1"}}}}'
        )
        supervisors(tmp_path).start()
        assert stop_other(tmp_path / "other") is False
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(20)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"supervisor": 1}', '{"supervisor": "", "services": []}']
)
def test_a_damaged_note_counts_as_none(tmp_path: Path, supervisors, content: str) -> None:
    (tmp_path / "up.json").write_text(content)
    assert left_over(tmp_path) == []
    supervisors(tmp_path).start()


def test_marks_tell_processes_apart() -> None:
    own = mark_of(os.getpid())
    assert alive(own)
    assert not alive(own + "0")
    assert not alive("")
    assert not alive("nonsense")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(20)
    assert mark_of(child.pid) == ""
    end_groups(["1-1", ""], grace_seconds=0.0)


def test_a_long_log_is_put_aside(tmp_path: Path, supervisors) -> None:
    (tmp_path / "services").mkdir()
    with (tmp_path / "services" / "web.log").open("wb") as log:
        log.truncate(11 << 20)
    supervisors(tmp_path).start()
    assert (tmp_path / "services" / "web.log").stat().st_size < 1 << 20
    assert (tmp_path / "services" / "web.log.1").stat().st_size == 11 << 20
