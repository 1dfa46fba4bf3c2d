"""A rank function as a person starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from foldase_workflows import launch

PATIENCE = 120.0


def command(tmp_path: Path, function: str, **arguments: Any) -> list[str]:
    given = tmp_path / "arguments.json"
    given.write_text(json.dumps(arguments))
    checkpoints = str(tmp_path / "checkpoints")
    return [
        "foldase_workflows.launch",
        f"rank_functions:{function}",
        str(given),
        "--checkpoints",
        checkpoints,
    ]


def started(tmp_path: Path, function: str, **arguments: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", *command(tmp_path, function, **arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_progress_and_metrics_come_as_lines_and_the_result_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(command(tmp_path, "add", number=4.0)[1:]) == 0
    *lines, result = capsys.readouterr().out.splitlines()
    assert lines == ["printed by 0", "has 4", "at 0:  total 4", "100.0%  told by 0"]
    assert json.loads(result)["total"] == 4.0


def test_an_interrupted_function_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    process = started(tmp_path, "count", to=400)
    state = tmp_path / "checkpoints" / "state.json"
    deadline = time.monotonic() + PATIENCE
    while not state.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == launch.EXIT_STOPPED
    assert "stopped: the step was asked to stop" in out
    number = json.loads(state.read_text())["number"]
    assert 1 <= number < 400
    process = started(tmp_path, "count", to=number + 2)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["began_at"] == number


def test_an_error_of_ours_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(command(tmp_path, "fail", rank=0, how="bad input")[1:]) == 1
    assert capsys.readouterr().err == "record seq7: row 7 is empty [empty_row]\n"
    assert launch.main(command(tmp_path, "fail", rank=0, how="something")[1:]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = command(tmp_path, "add")[1:]
    assert launch.main(["rank_functions:none", *line[1:]]) == 2
    assert "no function none" in capsys.readouterr().err
    Path(line[1]).write_text("[1]")
    assert launch.main(line) == 2
    assert "arguments by name" in capsys.readouterr().err
    Path(line[1]).write_text("{")
    assert launch.main(line) == 2
    assert "no JSON" in capsys.readouterr().err


@pytest.mark.verify
def test_the_same_function_runs_under_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    line = [*torchrun, *command(tmp_path, "reduce_tensors", width=3)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.splitlines()[-1] == '{"values": [3.0, 3.0, 3.0]}'
