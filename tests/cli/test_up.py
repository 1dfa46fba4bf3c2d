"""``foldase up`` and ``down`` as people use them, as processes, with the real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cli_support import GREET, environment

from foldase.cli.processes import alive
from foldase.cli.supervisor import is_locked, read_state
from foldase.client import Client

FOLDASE = [sys.executable, "-m", "foldase.cli.main"]


class Up:
    """A running ``foldase up``, its output read as it comes."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [*FOLDASE, "up", "--no-ray", "--no-open", "--home", str(home), *options],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, words: str, seconds: float = 60.0) -> str:
        until = time.monotonic() + seconds
        while True:
            for line in list(self.lines):
                if words in line:
                    return line
            assert time.monotonic() < until, f"{words!r} was not said: {self.lines}"
            assert self.process.poll() is None or words in "\n".join(self.lines), self.lines
            time.sleep(0.02)

    def marks(self) -> list[str]:
        return list(read_state(self.home)["services"].values())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(90)
        self._reader.join(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    running: list[Up] = []

    def make(*options: str, home: Path = tmp_path / "home") -> Up:
        running.append(Up(home, *options))
        return running[-1]

    yield make
    for up in running:
        up.end()


def foldase(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FOLDASE, *arguments], env=environment(), capture_output=True, text=True, timeout=120
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_up_prints_a_link_that_signs_in_once_and_ctrl_c_ends_everything(start) -> None:
    up = start()
    link = up.wait_for("sign in: ").split()[2]
    url, code = link.split("/#code=")
    api = f"{url}/api/v1"
    for expected in (200, 401):
        answer = httpx.post(f"{api}/session", json={"code": code}, trust_env=False)
        assert answer.status_code == expected
    up.wait_for("cluster ready")
    with Client(home=up.home) as client:
        run = client.run(GREET, {"name": "up"})
        assert client.wait(run.id, timeout_seconds=60).state == "succeeded"
    marks = up.marks()
    assert len(marks) == 2
    assert all(alive(mark) for mark in marks)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(90) == 0
    assert not any(alive(mark) for mark in marks)
    assert not is_locked(up.home)
    assert "Traceback" not in "\n".join(up.lines)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


@pytest.mark.parametrize(
    "options",
    [pytest.param((), marks=pytest.mark.verify), ("--port", "0")],
    ids=["first-free-port", "any-port"],
)
def test_a_killed_server_comes_back_under_its_address(start, options: tuple[str, ...]) -> None:
    up = start(*options)
    url = up.wait_for("foldase is at").split()[-1]
    with Client(home=up.home) as client:
        run = client.run(GREET, {"name": "before"}).id
        port = int(url.rpartition(":")[2])
        for name in ("web", "runtime"):
            wait_until(lambda name=name: name in read_state(up.home)["services"])
            mark = read_state(up.home)["services"][name]
            os.kill(int(mark.split("-")[0]), signal.SIGKILL)
            up.wait_for(f"{name} ended (signal SIGKILL)")
            with pytest.raises(OSError, match="in use"):  # nobody can take it, and be sent the token
                socket.create_server(("127.0.0.1", port))
            wait_until(lambda name=name, mark=mark: read_state(up.home)["services"][name] != mark)
        wait_until(client.is_reachable)
        assert client.url == url
        assert client.wait(run, timeout_seconds=60).state == "succeeded"
        assert client.wait(client.run(GREET, {"name": "after"}).id, timeout_seconds=60).state == "succeeded"


def test_after_kill_9_of_everything_up_works_again(start, tmp_path: Path) -> None:
    first = start()
    first.wait_for("cluster ready")
    with Client(home=first.home) as client:
        run = client.run(GREET, {"name": "kept"}).id
        client.wait(run, timeout_seconds=60)
    web, runtime = first.marks()
    first.process.kill()
    os.kill(int(runtime.split("-")[0]), signal.SIGKILL)
    first.process.wait(20)
    assert alive(web), "the server outlives its supervisor"
    second = start()
    second.wait_for("1 processes that an earlier start left behind")
    second.wait_for("cluster ready")
    assert not alive(web)
    with Client(home=second.home) as client:
        assert client.get_run(run).state == "succeeded"
        again = client.run(GREET, {"name": "kept"})
        assert all(step.cached for step in client.wait(again.id, timeout_seconds=60).steps)


def test_a_second_up_is_refused_with_a_link_to_the_first(platform_home: Path) -> None:
    second = foldase("up", "--no-ray", "--home", str(platform_home))
    assert second.returncode == 2
    assert "already runs" in second.stderr
    assert "/#code=" in second.stderr
    as_json = foldase("up", "--home", str(platform_home), "--json")
    assert json.loads(as_json.stderr)["code"] == "already_running"


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = foldase("up", "--no-ray", "--port", str(taken.getsockname()[1]), "--home", str(tmp_path / "h"))
    assert done.returncode == 2
    assert "is taken by another program" in done.stderr
    assert not (tmp_path / "h").exists()


def test_two_folders_get_two_ports(start, platform_home: Path) -> None:
    url = start().wait_for("foldase is at").split()[-1]
    with Client(home=platform_home) as client:
        assert client.url != url


def test_background_json_and_down_in_a_deep_folder(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["a folder with a long name"] * 8, "home")
    assert len(str(home)) > 200
    done = foldase("up", "-d", "--no-ray", "--json", "--home", str(home))
    try:
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["home"] == str(home)
        assert told["sign_in"].startswith(told["url"])
        assert "#code=" not in (home / "services" / "up.log").read_text()
        assert json.loads(foldase("runs", "--json", "--home", str(home)).stdout) == {"items": []}
        marks = [*read_state(home)["services"].values(), read_state(home)["supervisor"]]
    finally:
        down = foldase("down", "--home", str(home), "--json")
    assert json.loads(down.stdout)["stopped"] is True
    wait_until(lambda: not any(alive(mark) for mark in marks))
    assert foldase("down", "--home", str(home)).stdout.startswith("nothing runs")
