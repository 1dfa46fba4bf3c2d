"""Weights by name and plans of memory, from the command line to the operator and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import Command

from foldase_workflows.spec.quantities import show_bytes


def test_weights_are_listed_with_what_they_are(platform: Path, command: Command) -> None:
    done = command("weights")
    assert done.status == 0
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert "toy" in lines["small"]
    assert "safetensors.torch.save_file" in lines["broken"]
    found = {item["name"]: item for item in command("weights", "--json").json["items"]}
    assert found["broken"]["state"] == "refused"
    assert found["broken"]["error"]["code"] == "pickle_refused"


def test_a_run_out_of_memory_goes_on_with_a_more_frugal_plan(
    platform: Path, documents: Path, command: Command
) -> None:
    done = command("run", "fold.yaml", "-i", "weights=small")
    assert done.status == 0, done.err
    assert "kind    toy" in done.out
    # The operator got the administrator's own folder, and nothing was copied.
    assert str(platform.parent / "weights" / "small") in done.out
    said = [line.split(" ", 1)[1] for line in done.err.splitlines()[1:]]
    assert [line for line in said if line.startswith("fold plan")] == [
        "fold plan: 300.0 MiB of memory",
        "fold plan: 150.0 MiB of memory",
    ]
    again = next(line for line in said if "(attempt 2)" in line and "running" in line)
    assert again.endswith("attempt 1 ended with oom_host; the next saves memory with frugality 1")
    run = done.err.split()[1].rstrip(":")
    attempts = command("show", run, "fold", "--json").json["attempts"]
    assert [attempt["cause"] for attempt in attempts] == ["oom_host", None]
    assert attempts[1]["changes"] == {"frugality": [0, 1]}
    assert attempts[1]["plan"]["options"] == {"rows": 4, "inplace": True}
    table = command("show", run, "fold").out.splitlines()
    second = next(line for line in table if line.startswith("2 "))
    assert "150.0 MiB" in second
    assert "160.0 MiB" in second
    assert "frugality 0 to 1" in second


def test_a_second_run_finds_the_result_whatever_its_frugality(
    platform: Path, documents: Path, command: Command
) -> None:
    text = Path("fold.yaml").read_text().replace('"}', '", frugality: 2}')
    Path("frugal.yaml").write_text(text)
    assert command("run", "fold.yaml", "-i", "weights=small", "--json").json["state"] == "succeeded"
    planned = command("plan", "frugal.yaml", "-i", "weights=small", "--json").json
    assert planned["steps"][0]["cached"] is True
    second = command("run", "frugal.yaml", "-i", "weights=small", "--json").json
    assert second["steps"][0]["cached"] is True


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("smal", "unknown_weights", "did you mean small?"),
        ("broken", "pickle_refused", "safetensors.torch.save_file"),
        ("../weights/small", "bad_weights_name", "foldase weights"),
        ("/etc", "bad_weights_name", "foldase weights"),
    ],
)
def test_weights_that_cannot_be_used_name_the_input(
    platform: Path, documents: Path, command: Command, name: str, code: str, hint: str
) -> None:
    done = command("run", "fold.yaml", "-i", f"weights={name}", "--json")
    assert done.status == 2
    assert done.problem["code"] == code
    assert done.problem["location"]["path"] == "inputs.weights"
    assert hint in done.problem["hint"]


def test_lint_and_plan_take_a_name_without_a_platform(
    documents: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDASE_HOME", str(documents / "nobody"))
    Path("experiment.yaml").write_text("workflow: ./fold.yaml\ninputs: {weights: any_name}\n")
    assert command("lint", "fold.yaml", "experiment.yaml").status == 0
    planned = command("plan", "experiment.yaml", "--json").json
    assert planned["steps"][0]["with"]["weights"] == "any_name"
    Path("experiment.yaml").write_text("workflow: ./fold.yaml\ninputs: {weights: ../up}\n")
    wrong = command("lint", "experiment.yaml")
    assert wrong.status == 2
    assert "experiment.yaml:2" in wrong.err
    assert "bad_weights_name" in wrong.err


def test_up_refuses_a_folder_that_is_not_there(documents: Path, command: Command) -> None:
    done = command("up", "--home", documents / "new", "--weights", "nowhere", "--json")
    assert done.status == 2
    assert done.problem["code"] == "file_missing"


def test_a_plan_of_files_that_only_this_machine_has_knows_the_size_of_weights(
    platform: Path, documents: Path, command: Command
) -> None:
    text = Path("fold.yaml").read_text()
    text = text.replace("inputs:\n", "inputs:\n  sequences: {type: fasta}\n")
    Path("mine.yaml").write_text(text.replace("with: {", 'with: {sequences: "${{ inputs.sequences }}", '))
    Path("mine.fasta").write_text(">never given to the server\nACDEFGHIKL\n")
    arguments = ("plan", "mine.yaml", "-i", "sequences=mine.fasta", "-i", "weights=small")
    planned = command(*arguments, "--json").json
    assert "has not seen these files" in planned["note"]
    fold = planned["steps"][0]
    assert fold["with"]["weights"]["$artifact"]["name"] == "small"
    size = fold["with"]["weights"]["$artifact"]["size"]
    assert fold["estimate"]["memory_bytes"] == planned["memory_bytes"] == 2 * size > 0
    assert f"peak memory {show_bytes(2 * size)}" in command(*arguments).out
    assert "no memory known" in command("plan", "greet.yaml", "-i", "name=somebody never greeted").out
