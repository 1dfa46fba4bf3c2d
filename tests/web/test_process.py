"""The server as a process: starts soon, listens on loopback, stops when told, imports nothing heavy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from web_support import API, address, process

from foldase_web.main import listen, main, only_server, url_of
from foldase_web.settings import Settings, is_loopback


def listening(pid: int) -> list[str]:
    """The sockets on which a process listens, as the kernel writes them."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1])
    return found


def test_its_life(home: Path) -> None:
    """Killed, started again, asked to stop with a stream open."""
    with process(home, "--port", "0") as server:
        url = address(home)
        assert json.loads((home / "server.json").read_text())["pid"] == server.pid
        port = int(url.rpartition(":")[2])
        assert listening(server.pid) == [f"0100007F:{port:04X}"], "one socket, on loopback"
        server.kill()
        server.wait()
    (home / "server.json").unlink()
    with process(home, "--port", "0") as server:
        url = address(home)
        health = httpx.get(f"{url}{API}/health", trust_env=False).json()
        assert (health["status"], health["database"]) == ("ok", "ok")
        assert health["cluster"]["state"] == "starting"
        assert httpx.get(f"{url}/", trust_env=False).status_code == 200
        headers = {"Authorization": f"Bearer {(home / 'token').read_text().strip()}"}
        with httpx.stream("GET", f"{url}{API}/events", headers=headers, trust_env=False) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("retry:")
            before = time.monotonic()
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
            assert time.monotonic() - before < 5, "an open stream does not hold it up"
        assert not (home / "server.json").exists()
        output, errors = server.communicate(timeout=5)
        assert output == "", "without a terminal no code is printed"
        assert "Traceback" not in errors


def test_starting_costs_little_and_imports_nothing_heavy() -> None:
    """Processor time, which other work on the machine does not change; 3 s of wall time must be enough."""
    program = (
        "import sys, time, tempfile, pathlib; import foldase_web.main as main;"
        "from foldase_web.context import Services; from foldase_web.settings import Settings;"
        "s = Settings(home=pathlib.Path(tempfile.mkdtemp())); app = main.create_app(s, Services.open(s));"
        "print(time.process_time()); app.openapi();"
        "print([m for m in ('torch', 'ray', 'zarr', 'Bio', 'scipy') if m in sys.modules]);"
        "import foldase_web.services.arrays; print('torch' in sys.modules or 'ray' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    seconds, heavy, arrays = found.stdout.split("\n")[:3]
    assert float(seconds) < 3.0
    assert heavy == "[]"
    assert arrays == "False"


def fails(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    status = main(options)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.err


def test_a_second_server_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_server(home):
        status, errors = fails(capsys, "--home", str(home), "--port", "0")
    assert status == 1
    assert "already_running" in errors
    assert "server.json" in errors


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_public_address_is_refused(home: Path, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, errors = fails(capsys, "--home", str(home), "--host", host, "--port", "0")
    assert status == 2
    assert "--allow-remote" in errors
    assert not home.exists(), "nothing was made"


def test_a_public_address_needs_names_too() -> None:
    with pytest.raises(ValidationError, match="--allowed-host"):
        Settings.load({"host": "0.0.0.0", "allow_remote": True}, {})
    settings = Settings.load(
        {},
        {
            "FOLDASE_HOST": "0.0.0.0",
            "FOLDASE_ALLOW_REMOTE": "1",
            "FOLDASE_ALLOWED_HOSTS": "Fold.example.org, other.example",
        },
    )
    assert {"fold.example.org", "other.example", "localhost"} <= settings.host_names
    assert "0.0.0.0" not in settings.host_names


def test_a_taken_port(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, errors = fails(capsys, "--home", str(home), "--port", str(other.getsockname()[1]))
    assert status == 1
    assert "cannot listen" in errors


def test_without_a_wish_the_next_free_port_is_taken(home: Path) -> None:
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(contextlib.closing(listen(Settings(home=home)))).getsockname()
            for _ in range(2)
        )
        assert first[1] < second[1]
        assert first[0] == second[0] == "127.0.0.1"


def test_a_successor_gets_the_listening_socket(home: Path) -> None:
    here, there = socket.socketpair()
    with here, there:
        command = [sys.executable, "-m", "foldase_web.main", "--home", str(home)]
        first = subprocess.Popen([*command, "--keeper-fd", str(there.fileno())], pass_fds=[there.fileno()])
        _, (kept,), _, _ = socket.recv_fds(here, 1, 1)
        first.kill()
        first.wait()
        with socket.socket(fileno=kept) as listener:
            port = listener.getsockname()[1]
            with httpx.Client(trust_env=False, timeout=30.0) as early:
                second = subprocess.Popen([*command, "--listener-fd", str(kept)], pass_fds=[kept])
                try:  # asked at once, long before the successor is there: answered, not refused
                    assert early.get(f"http://127.0.0.1:{port}{API}/health").status_code == 200
                finally:
                    second.terminate()
                    assert second.wait(20.0) == 0


def test_an_inherited_socket_must_fit_the_settings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as open_to_all, socket.socket() as elsewhere:
        open_to_all.bind(("0.0.0.0", 0))
        elsewhere.bind(("127.0.0.1", 0))
        for listener, *more in ((open_to_all,), (elsewhere, "--port", "1")):
            descriptor = str(os.dup(listener.fileno()))
            status, errors = fails(capsys, "--home", str(home), "--listener-fd", descriptor, *more)
            assert status == 1
            assert "inherited socket" in errors


@pytest.mark.parametrize("values", [{"port": "x"}, {"port": 70000}, {"host": ""}, {"upload_limit_bytes": 0}])
def test_wrong_settings(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.load(values, {})


def test_what_is_given_wins_over_the_environment() -> None:
    settings = Settings.load({"port": 1, "home": None}, {"FOLDASE_PORT": "2", "FOLDASE_HOME": "/tmp/x"})
    assert settings.port == 1
    assert settings.home == Path("/tmp/x")


def test_a_damaged_database_is_said_plainly(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "foldase.db").write_bytes(b"this is no database" * 1000)
    status, errors = fails(capsys, "--home", str(home), "--port", "0")
    assert status == 1
    assert "damaged" in errors


def test_loopback_names() -> None:
    assert all(is_loopback(host) for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example"))
    assert url_of("::1", 80) == "http://[::1]:80"
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
