"""The command answers at once: nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {
    "torch", "ray", "numpy", "zarr", "Bio", "sqlalchemy", "fastapi", "uvicorn", "httpx",
    "foldase_web", "foldase_models", "foldase_workflows.spec", "foldase.store", "foldase.client",
}  # fmt: skip
CPU_SECONDS = 1.0


def modules_after(program: str) -> tuple[set[str], float]:
    """The modules that are loaded after a program, and the processor time it took."""
    probe = f"{program}\nimport sys, time\nprint(time.process_time(), *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    seconds, *names = done.stdout.split()
    return set(names), float(seconds)


def test_importing_the_command_is_cheap() -> None:
    modules, seconds = modules_after("import foldase.cli.main")
    assert not modules & HEAVY
    assert seconds < CPU_SECONDS


def test_importing_the_package_loads_no_room_of_it() -> None:
    modules, _ = modules_after("import foldase")
    assert not {name for name in modules if name.startswith("foldase.")}
    modules, _ = modules_after("import foldase; foldase.Client")
    assert "foldase.client" in modules


def test_no_command_needs_what_computes_or_stores() -> None:
    modules, _ = modules_after(
        "import foldase.cli.up, foldase.cli.demo, foldase.cli.doctor, foldase.cli.runs, foldase.cli.documents"
    )
    forbidden = HEAVY - {"httpx", "foldase.client", "foldase_workflows.spec"}
    assert not modules & forbidden


def test_help_and_version() -> None:
    for arguments, words in ((["--help"], "Exit status"), (["--version"], "0."), (["run", "-h"], "--detach")):
        done = subprocess.run(
            [sys.executable, "-m", "foldase.cli.main", *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0
        assert words in done.stdout


def test_every_command_but_kernels_and_demo_has_json() -> None:
    from foldase.cli.main import app

    without = {
        command.name or (command.callback.__name__ if command.callback else "")
        for command in app.registered_commands
        if command.callback is not None and "as_json" not in command.callback.__annotations__
    }
    assert without == {"kernels", "demo"}


def test_kernels_are_handed_on() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "foldase.cli.main", "kernels", "--nonsense"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "foldase" in done.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "foldase.cli.main", "kernels", "list"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert listed.returncode == 0
    assert "evoformer_attention" in listed.stdout
