"""lint, plan, schema: without a server, and with one."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from cli_support import FOLDERS, GREET, Command

from foldase.client import Client


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server runs."""
    monkeypatch.setenv("FOLDASE_HOME", str(tmp_path / "nothing"))


def test_lint_shows_every_fault_with_its_line(documents: Path, command: Command) -> None:
    text = GREET.replace("cli.greet@1", "cli.greeet@1").replace("default: 1}", "default: one}")
    Path("typos.yaml").write_text(text.replace("default: one}", "default: 1}"))
    done = command("lint", "greet.yaml", "typos.yaml")
    assert done.status == 2
    assert done.out == "greet.yaml: ok\n"
    lines = done.err.splitlines()
    assert lines[0].startswith("typos.yaml:8:11, steps.one.uses: error: unknown operator 'cli.greeet@1'")
    assert lines[1:3] == ["  8 |     uses: cli.greeet@1", "    |           ^"]
    assert lines[3].startswith("  hint: did you mean 'cli.greet")
    assert lines[4].startswith("typos.yaml:11:11, steps.two.uses: error: ")
    assert lines[-1] == "2 errors"


def test_lint_shows_where_in_a_long_line(documents: Path, command: Command) -> None:
    Path("long.yaml").write_text(
        f"version: 1\nname: x\ndescription: {'y' * 200}\nsteps: {{a: {'z' * 300}}}\n"
    )
    lines = command("lint", "long.yaml").err.splitlines()
    shown = next(line for line in lines if line.startswith("  4 | "))
    caret = lines[lines.index(shown) + 1]
    assert len(shown) <= 106
    assert shown[caret.index("^")] == "z"


def test_lint_as_json(documents: Path, command: Command) -> None:
    done = command("lint", "wrong.yaml", "greet.yaml", "--json")
    assert (done.status, done.err) == (2, "")
    first, second = done.json["files"]
    assert done.json["ok"] is False
    assert {error["code"] for error in first["errors"]} >= {"unknown_field"}
    assert first["errors"][0]["location"]["line"] > 0
    assert second == {"file": "greet.yaml", "ok": True, "errors": []}


def test_lint_of_a_file_that_is_no_yaml_or_not_there(documents: Path, command: Command) -> None:
    Path("tab.yaml").write_text("version: 1\n\tname: x\n")
    done = command("lint", "tab.yaml")
    assert done.status == 2
    assert "tab.yaml:2:1" in done.err
    assert "yaml_syntax" in done.err
    assert command("lint", "nothing.yaml").status == 2
    assert command("lint").status == 2


def test_lint_of_an_experiment_checks_its_workflow_and_inputs(documents: Path, command: Command) -> None:
    Path("exp.yaml").write_text("workflow: greet.yaml\ninputs:\n  times: many\n  nmae: x\n")
    done = command("lint", "exp.yaml", "--json")
    assert done.status == 2
    faults = {error["code"]: error["location"] for error in done.json["files"][0]["errors"]}
    assert (faults["type"]["file"], faults["type"]["line"]) == ("exp.yaml", 3)
    assert faults["unknown_input"]["line"] == 4
    Path("exp.yaml").write_text("workflow: folders.yaml\ninputs:\n  sequences: nope.fasta\n")
    (fault,) = command("lint", "exp.yaml", "--json").json["files"][0]["errors"]
    assert (fault["code"], fault["location"]["line"]) == ("file_missing", 3)
    Path("exp.yaml").write_text("workflow: nope.yaml\n")
    (fault,) = command("lint", "exp.yaml", "--json").json["files"][0]["errors"]
    assert (fault["code"], fault["location"]["line"], fault["location"]["column"]) == ("file_missing", 1, 11)
    Path("exp.yaml").write_text("workflow: folders.yaml\n")
    assert command("lint", "exp.yaml").status == 0, "what is left out may be given later"


def test_plan_without_a_server_knows_all_but_the_cache(
    documents: Path, command: Command, alone: None
) -> None:
    done = command("plan", "greet.yaml", "-i", "times=3")
    assert (done.status, done.err) == (0, "")
    assert "unknown" in done.out
    assert "times=3" in done.out
    assert "no server runs" in done.out
    answer = command("plan", "folders.yaml", "-i", "sequences=@two.fasta", "--json").json
    (step,) = answer["steps"]
    assert step["cached"] is None
    assert step["with"]["sequences"]["$artifact"]["name"] == "two.fasta"
    assert "no server runs" in answer["note"]


def test_plan_with_a_server_knows_the_cache(
    platform: Path, documents: Path, command: Command, client: Client
) -> None:
    Path("two.fasta").write_text(">only for this test\nAC\n")
    new = command("plan", "folders.yaml", "-i", "sequences=two.fasta", "--json").json
    assert new["steps"][0]["cached"] is None
    assert "has not seen these files" in new["note"]
    run = client.run("folders.yaml", {"sequences": "two.fasta"})
    client.wait(run.id, timeout_seconds=60)
    known = command("plan", "folders.yaml", "-i", "sequences=two.fasta", "--json").json
    assert (known["steps"][0]["cached"], known["cached"], known["note"]) == (True, 1, "")
    assert "nothing to compute" in command("plan", "folders.yaml", "-i", "sequences=two.fasta").out


def test_plan_of_what_an_operator_would_refuse(documents: Path, command: Command, alone: None) -> None:
    done = command("plan", "greet.yaml", "-i", "name=nobody")
    assert done.status == 2
    assert "0 of 2 steps in the cache; 1 step without an estimate; 1 step would be refused" in done.out
    assert done.err.splitlines() == [
        "greet.yaml:9:18, steps.one.with.name: error: nobody cannot be greeted [no_name]",
        '  9 |     with: {name: "${{ inputs.name }}"}',
        "    |                  ^",
        "  hint: name somebody",
    ]
    refused, unknown = command("plan", "greet.yaml", "-i", "name=nobody", "--json").json["steps"]
    assert (refused["refusal"]["code"], unknown["refusal"]) == ("no_name", None)


def test_what_a_plan_says_would_be_refused_fails_of_the_same(
    platform: Path, documents: Path, command: Command, client: Client
) -> None:
    planned = command("plan", "greet.yaml", "-i", "name=nobody")
    assert (planned.status, "error: nobody cannot be greeted [no_name]" in planned.err) == (2, True)
    ran = command("run", "greet.yaml", "-i", "name=nobody")
    assert ran.status == 1
    assert "step one: nobody cannot be greeted [no_name] (bad_input)" in ran.out
    assert "with.name" in ran.out
    assert "hint: name somebody" in ran.out
    assert "Traceback" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["folders.yaml"], "missing_input"),
        (["folders.yaml", "-i", "sequences=nope"], "file_missing"),
        (["greet.yaml", "-i", "times=x"], "type"),
        (["wrong.yaml"], "unknown_field"),
        (["nope"], "unknown_workflow"),
    ],
)
def test_plan_of_something_wrong(
    documents: Path, command: Command, alone: None, arguments: list[str], code: str
) -> None:
    done = command("plan", *arguments, "--json")
    assert done.status == 2
    assert code in {done.problem["code"], *(error["code"] for error in done.problem.get("errors", ()))}


def test_schemas_accept_what_lint_accepts(command: Command) -> None:
    workflow = command("schema").json
    assert command("schema", "workflow", "--json").json == workflow
    for text in (GREET, FOLDERS):
        jsonschema.validate(yaml.safe_load(text), workflow)
    experiment = command("schema", "experiment").json
    jsonschema.validate({"workflow": "greet", "inputs": {"name": "x"}}, experiment)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"inputs": {}}, experiment)


def test_schema_lists_operators(command: Command) -> None:
    done = command("schema", "operators")
    assert "cli.greet@1: greets, and says so in the log" in done.out
    assert "= 1" in done.out
    references = [item["reference"] for item in command("schema", "operators", "--json").json["items"]]
    assert references == ["cli.fold@1", "cli.folder@1", "cli.greet@1", "cli.wait@1"]
    assert command("schema", "nonsense").status == 2
