"""Commands about runs, against the real server."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_support import WAIT, Command, environment

from foldase.client import Client


def test_run_waits_tells_and_prints_outputs(platform: Path, documents: Path, command: Command) -> None:
    done = command("run", "greet.yaml", "-i", "name=you", "--input", "times=2", "--name", "mine")
    assert done.status == 0
    assert "hello hello you hello hello you" in done.out
    assert "letter.txt (file," in done.out
    lines = done.err.splitlines()
    assert lines[0].startswith("run r")
    assert "/runs/r" in lines[0]
    assert any(line.endswith(" one succeeded") for line in lines)
    assert lines[-1].endswith(" run succeeded")


def test_json_is_the_final_run_and_nothing_else(platform: Path, documents: Path, command: Command) -> None:
    done = command("run", "greet.yaml", "-i", "name=json", "--json")
    assert (done.status, done.err) == (0, "")
    assert done.json["state"] == "succeeded"
    assert done.json["outputs"]["text"] == "hello hello json"


def test_detach_returns_at_once(platform: Path, documents: Path, command: Command, client: Client) -> None:
    done = command("run", "wait.yaml", "--detach", "-i", "seconds=0.5")
    assert done.status == 0
    assert not client.get_run(done.out.strip()).is_over
    assert client.wait(done.out.strip(), timeout_seconds=60).state == "succeeded"


def test_files_are_uploaded_and_trees_come_back_whole(
    platform: Path, documents: Path, command: Command
) -> None:
    done = command("run", "folders.yaml", "-i", "sequences=@two.fasta", "--json")
    assert done.status == 0, done.err
    run = done.json
    given = run["inputs"]["sequences"]["$artifact"]
    expected = hashlib.sha256(Path("two.fasta").read_bytes()).hexdigest()
    assert (given["digest"], given["name"], given["type"]) == (f"sha256:{expected}", "two.fasta", "fasta")
    assert command("get", run["id"], "folder", "-o", "out/tree").status == 0
    assert Path("out/tree/deep/er/é.txt").read_text() == Path("two.fasta").read_text()
    assert Path("out/tree/empty").read_bytes() == b""
    assert Path("out/tree/top.bin").read_bytes() == bytes(range(256)) * 100
    assert sorted(path.name for path in Path("out").iterdir()) == ["tree"]
    again = command("get", run["id"], "folder", "-o", "out/tree")
    assert again.status == 2
    assert "--force" in again.err
    Path("out/tree/extra").write_text("mine")
    assert command("get", run["id"], "folder", "-o", "out/tree", "--force").status == 0
    assert not Path("out/tree/extra").exists()


def test_get_one_value_one_file_a_step_and_everything(
    platform: Path, documents: Path, command: Command
) -> None:
    run = command("run", "greet.yaml", "--json").json["id"]
    assert command("get", run, "text").out == "hello hello world\n"
    assert command("get", run, "text", "--json").json == {"value": "hello hello world"}
    assert command("get", run, "one.text").out == "hello world\n"
    assert command("get", run, "letter").out == "letter.txt\n"
    assert Path("letter.txt").read_text() == "hello hello world\n"
    assert command("get", run, "text", "-o", "t.json").status == 0
    assert json.loads(Path("t.json").read_text()) == "hello hello world"
    files = command("get", run, "-o", "all", "--json").json["files"]
    assert sorted(files) == ["all/letter.txt", "all/text.json"]
    unknown = command("get", run, "nothing", "--json")
    assert unknown.status == 2
    assert unknown.problem["code"] == "unknown_output"
    assert "text, letter" in unknown.problem["hint"]


def test_a_failed_run_says_why_and_has_status_1(platform: Path, documents: Path, command: Command) -> None:
    done = command("run", "folders.yaml", "-i", "sequences=bad.fasta")
    assert done.status == 1
    assert "an X [fasta_letters]" in done.out
    assert "line 2" in done.out
    assert "hint: take it out" in done.out
    as_json = command("run", "folders.yaml", "-i", "sequences=bad.fasta", "--json")
    assert (as_json.status, as_json.json["state"]) == (1, "failed")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nope"], "unknown_workflow"),
        (["nope.yaml"], "file_missing"),
        (["wrong.yaml"], "unknown_field"),
        (["folders.yaml"], "missing_input"),
        (["folders.yaml", "-i", "sequences=nope.fasta"], "file_missing"),
        (["folders.yaml", "-i", "sequences=empty.fasta"], "empty_file"),
        (["greet.yaml", "-i", "nmae=x"], "unknown_input"),
        (["greet.yaml", "-i", "times=two"], "type"),
        (["greet.yaml", "-i", "times=1", "-i", "times=2"], "usage"),
        (["greet.yaml", "-i", "times"], "usage"),
        (["greet.yaml", "--nope"], "usage"),
        (["greet.yaml", "--priority", "1000"], "usage"),
    ],
)
def test_what_is_wrong_with_a_submission(
    platform: Path, documents: Path, command: Command, arguments: list[str], code: str
) -> None:
    done = command("run", *arguments, "--json")
    assert done.status == 2
    codes = [done.problem["code"], *(error["code"] for error in done.problem.get("errors", ()))]
    assert code in codes
    people = command("run", *arguments)
    assert (people.status, people.out) == (2, "")
    assert people.err
    assert "Traceback" not in people.err


def test_an_experiment_brings_its_inputs(platform: Path, documents: Path, command: Command) -> None:
    (documents / "deep").mkdir()
    (documents / "deep" / "own.fasta").write_text(">a\nAC\n>b\nAC\n>c\nAC\n")
    Path("deep/exp.yaml").write_text(
        "workflow: ../folders.yaml\nname: third\npriority: high\ninputs: {sequences: own.fasta}\n"
    )
    run = command("run", "deep/exp.yaml", "--json").json
    assert (run["name"], run["outputs"]["records"]) == ("third", 3)
    assert run["priority"] > 0
    other = command("run", "deep/exp.yaml", "-i", "sequences=two.fasta", "--json").json
    assert other["outputs"]["records"] == 2


def test_runs_and_show(platform: Path, documents: Path, command: Command) -> None:
    run = command("run", "greet.yaml", "--name", "findme-17", "--json").json["id"]
    listed = command("runs", "-q", "findme-17")
    assert (listed.status, len(listed.out.splitlines())) == (0, 2)
    assert run in listed.out
    assert [item["id"] for item in command("runs", "-q", "findme-17", "--json").json["items"]] == [run]
    assert "no runs like that" in command("runs", "-q", "findme-18").err
    assert len(command("runs", "-n", "1", "--json").json["items"]) == 1
    shown = command("show", run)
    assert "findme-17" in shown.out
    assert "two" in shown.out
    assert command("show", run, "--json").json["id"] == run
    step = command("show", run, "two")
    assert "cli.greet@1" in step.out
    assert command("show", run, "two", "--json").json["inputs"]["times"] == 1
    assert command("runs", "--state", "sleeping").status == 2


def test_logs_of_a_step_and_of_all(platform: Path, documents: Path, command: Command) -> None:
    run = command("run", "greet.yaml", "-i", "times=3", "-i", "name=logs", "--json").json["id"]
    assert command("logs", run, "two").out == "greeting 0\ngreeting 1\ngreeting 2\n"
    assert command("logs", run).out.splitlines() == [
        "one | greeting 0",
        *(f"two | greeting {number}" for number in range(3)),
    ]
    lines = command("logs", run, "two", "--json").json["lines"]
    assert [line["message"] for line in lines] == [f"greeting {number}" for number in range(3)]
    assert command("logs", run, "nope").status == 2


def test_logs_follow_to_the_end_of_the_run(
    platform: Path, documents: Path, command: Command, client: Client
) -> None:
    run = client.run("wait.yaml", {"seconds": 1.5, "who": "follow"})
    done = command("logs", "-f", run.id)
    lines = done.out.splitlines()
    assert lines[0] == "first | greeting 0"
    assert lines[1] == "wait | waited 0.0"
    assert float(lines[-1].split()[-1]) > 1.0
    assert client.get_run(run.id).is_over


def test_logs_of_steps_that_run_side_by_side_come_as_they_are_written(
    platform: Path, documents: Path, command: Command, client: Client
) -> None:
    text = WAIT.replace("    after: [first]\n", "")
    twin = text[text.index("  wait:") : text.index("outputs:")].replace("  wait:", "  twin:", 1)
    run = client.run(text.replace("outputs:", f"{twin}outputs:"), {"seconds": 2.0, "who": "twins"})
    lines = command("logs", "-f", run.id).out.splitlines()
    names = [line.split(" | ")[0] for line in lines]
    assert {"wait", "twin"} <= set(names)
    changes = sum(before != after for before, after in itertools.pairwise(names))
    assert changes > 3, "lines of both steps alternate"


def test_a_folder_that_cannot_be_written_is_told_without_a_traceback(
    platform: Path, documents: Path, command: Command
) -> None:
    run = command("run", "greet.yaml", "--json").json["id"]
    done = command("get", run, "letter", "-o", "/proc/nothing/letter.txt", "--json")
    assert done.status == 1
    assert done.problem["code"] in ("system", "cannot_write")


def test_cancel_and_resume(platform: Path, documents: Path, command: Command, client: Client) -> None:
    gate = documents / "gate"
    gate.touch()
    run = client.run("wait.yaml", {"seconds": 60.0, "gate": str(gate)})
    for event in client.watch(run.id):
        if event.kind == "step.progress" and event.step == "wait":
            break
    assert command("cancel", run.id).status == 0
    assert client.wait(run.id, timeout_seconds=60).state == "cancelled"
    twice = command("cancel", run.id, "--json")
    assert (twice.status, twice.problem["code"]) == (2, "run_finished")
    assert command("run", "wait.yaml", "-i", "seconds=0.1", "-i", "gate=/nope/gate").status == 1


def test_resume_goes_on_where_a_run_failed(
    platform: Path, documents: Path, command: Command, client: Client
) -> None:
    gate = documents / "gate"
    failed = command("run", "wait.yaml", "-i", "seconds=0.1", "-i", f"gate={gate}", "--json")
    assert (failed.status, failed.json["error"]["code"]) == (1, "gate_closed")
    gate.touch()
    resumed = command("resume", failed.json["id"], "--json")
    assert resumed.status == 0, resumed.err
    assert resumed.json["resumed_from"] == failed.json["id"]
    assert {step["id"]: step["cached"] for step in resumed.json["steps"]} == {"first": True, "wait": False}
    assert command("resume", resumed.json["id"], "--json").problem["code"] == "not_resumable"


def test_why_names_the_component_that_changed(platform: Path, documents: Path, command: Command) -> None:
    command("run", "greet.yaml", "-i", "name=why", "-i", "times=2")
    again = command("run", "greet.yaml", "-i", "name=why", "-i", "times=2", "--json").json["id"]
    assert "did not run" in command("why", again, "two").out
    changed = command("run", "greet.yaml", "-i", "name=why", "-i", "times=4", "--json").json["id"]
    reason = command("why", changed, "two")
    assert reason.status == 0
    assert "two ran" in reason.out
    assert "times" in reason.out
    found = command("why", changed, "two", "--json").json
    assert [(item["before"], item["now"]) for item in found["differs"]] == [(2, 4)]
    assert "did not run" in command("why", changed, "one").out


def test_ctrl_c_leaves_the_run_alone(platform: Path, documents: Path, client: Client) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "foldase.cli.main", "run", "wait.yaml", "-i", "seconds=3"],
        env=environment(FOLDASE_HOME=str(platform)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores SIGINT and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    run = process.stderr.readline().split()[1].rstrip(":")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"foldase cancel {run}" in err
    assert "Traceback" not in err
    assert client.wait(run, timeout_seconds=60).state == "succeeded"


def test_a_reader_that_goes_away_is_no_error(platform: Path, documents: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m foldase.cli.main schema operators --json | head -c 10",
        shell=True,
        env=environment(FOLDASE_HOME=str(platform)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", [["runs"], ["show", "r1"], ["cancel", "r1"], ["run", "x"], ["get", "r1"]]
)
def test_without_a_server_the_status_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, arguments: list[str]
) -> None:
    monkeypatch.setenv("FOLDASE_HOME", str(tmp_path / "nothing"))
    done = command(*arguments, "--json")
    assert done.status == 3
    assert done.problem["code"] == "not_running"
    assert "foldase up" in done.problem["hint"]
