"""One attempt, from its task to its report, without anybody around it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import operators_for_tests
import pytest

from foldase.runtime.attempt import Attempt
from foldase.runtime.capture import ThreadCapture
from foldase.runtime.context import MAX_LOG_BYTES, CancelFlag, RunningStep
from foldase.runtime.usage import ThreadMeter
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Failed, Succeeded, Task
from foldase.store.weights import WeightsLibrary
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import UserError
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Resources
from foldase_workflows.contracts.registry import Registry

REGISTRY = Registry(operators_for_tests.OPERATORS)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def task(operator: str, *, attempt: int = 1, identity: str = "sha256:1", **inputs: Any) -> Task:
    return Task(
        run="r1",
        step="fold[3]",
        attempt=attempt,
        fence=7,
        operator=operator,
        family="cpu",
        identity=identity,
        inputs=inputs,
        resources=Resources(cpu=2, memory_bytes=5),
    )


def run(place: Workplace, given: Task) -> Succeeded | Failed:
    capture = ThreadCapture()
    try:
        return Attempt(given, place, REGISTRY).run(capture, ThreadMeter())
    finally:
        capture.close()


def lines(place: Workplace, kind: str = "log", attempt: int = 1) -> list[dict[str, Any]]:
    path = place.logs.path("r1", "fold[3]", attempt, kind)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_values_in_values_out(place: Workplace) -> None:
    report = run(place, task("test.add@1", value=4))
    assert report == Succeeded("r1", "fold[3]", 7, {"value": 5}, cpu_seconds=report.cpu_seconds)


def test_a_step_that_touches_no_file_leaves_no_file(place: Workplace) -> None:
    run(place, task("test.add@1"))
    assert [path.name for path in place.home.rglob("*") if path.name not in ("blobs", "tmp")] == []


def test_files_and_trees_go_into_the_store_and_come_out_again(place: Workplace) -> None:
    written = run(place, task("test.write@1", text="hi", files=2))
    assert isinstance(written, Succeeded)
    file, again = (Artifact.from_json(written.outputs[name]) for name in ("file", "again"))
    tree = Artifact.from_json(written.outputs["tree"])
    assert (file.type, file.name, file.size) == ("file", "greeting.txt", 2)
    assert file == again
    assert (tree.type, tree.name) == ("tree", "pages")
    assert Artifact.from_json(written.outputs["table"]).media_type == "application/json"
    assert written.outputs["summary"] == {"files": 2}
    place.blobs.verify_artifact(tree)
    read = run(place, task("test.read@1", file=file.to_json(), tree=tree.to_json()))
    assert isinstance(read, Succeeded)
    assert read.outputs == {"text": "hi", "pages": ["hi 0", "hi 1"], "name": "greeting.txt"}


def test_scratch_is_gone_afterwards(place: Workplace) -> None:
    run(place, task("test.write@1"))
    assert list(place.scratch.iterdir()) == []


def test_an_input_that_vanished_names_its_port(place: Workplace) -> None:
    gone = Artifact("sha256:" + "0" * 64, "file", 3, "gone.fasta").to_json()
    report = run(place, task("test.read@1", file=gone))
    assert isinstance(report, Failed)
    assert report.cause is Cause.BAD_INPUT
    assert report.error["code"] == "missing_file"
    assert report.error["location"] == {"path": "steps.fold.with.file"}
    assert "'file'" in report.error["message"]


def test_an_input_that_is_damaged_is_no_fault_of_the_user(place: Workplace) -> None:
    written = run(place, task("test.write@1"))
    assert isinstance(written, Succeeded)
    file = written.outputs["file"]
    path = place.blobs.path(Artifact.from_json(file).digest)
    path.chmod(0o644)
    path.write_text("HELLO")
    report = run(place, task("test.read@1", file=file))
    assert isinstance(report, Failed)
    assert (report.cause, report.error["code"]) == (Cause.INFRASTRUCTURE, "damaged")


@pytest.mark.parametrize(
    ("inputs", "code", "port"),
    [
        ({"seconds": -1}, "number_range", "seconds"),
        ({"seconds": "long"}, "type", "seconds"),
        ({"second": 1}, "unknown_input", "second"),
    ],
)
def test_inputs_are_checked_by_the_operators_model(
    place: Workplace, inputs: dict[str, Any], code: str, port: str
) -> None:
    report = run(place, task("test.work@1", **inputs))
    assert isinstance(report, Failed)
    assert (report.cause, report.error["code"]) == (Cause.BAD_INPUT, code)
    assert report.error["location"] == {"path": f"steps.fold.with.{port}"}


def test_a_missing_input_is_named(place: Workplace) -> None:
    report = run(place, task("test.fail@1"))
    assert isinstance(report, Failed)
    assert report.error["code"] == "missing_input"
    assert report.error["location"] == {"path": "steps.fold.with.how"}


def test_an_unknown_operator_is_the_documents_fault(place: Workplace) -> None:
    report = run(place, task("test.ad@1"))
    assert isinstance(report, Failed)
    assert (report.cause, report.error["code"]) == (Cause.BAD_INPUT, "unknown_operator")


@pytest.mark.parametrize(
    ("how", "cause", "code", "says"),
    [
        ("bad input", Cause.BAD_INPUT, "empty_row", "row 7 is empty"),
        ("styled", Cause.BAD_INPUT, "odd_width", "width 7 is odd"),
        ("value error", Cause.USER_ERROR, "exception", "ValueError: first line"),
        ("memory", Cause.OOM_HOST, "oom_host", "MemoryError"),
        ("torch memory", Cause.OOM_HOST, "oom_host", "can't allocate memory"),
        ("cuda memory", Cause.OOM_GPU, "oom_gpu", "CUDA out of memory"),
        ("disk", Cause.INFRASTRUCTURE, "storage_full", "disk is full"),
        ("missing file", Cause.USER_ERROR, "exception", "/nowhere/x"),
        ("cancelled", Cause.USER_ERROR, "user_error", "without being asked"),
        ("exit", Cause.USER_ERROR, "exception", "SystemExit: 3"),
        ("no file", Cause.USER_ERROR, "missing_output", "'file'"),
        ("wrong type", Cause.USER_ERROR, "bad_output", "dict"),
    ],
)
def test_what_an_operator_raises_gets_its_cause(
    place: Workplace, how: str, cause: Cause, code: str, says: str
) -> None:
    report = run(place, task("test.fail@1", how=how))
    assert isinstance(report, Failed)
    assert (report.cause, report.error["code"]) == (cause, code)
    assert says in report.error["message"]
    assert "second line" not in report.error["message"]
    assert lines(place)[-1]["level"] == "error"
    assert report.log_offset == place.logs.path("r1", "fold[3]", 1, "log").stat().st_size


def test_errors_keep_the_place_of_the_fault(place: Workplace) -> None:
    told = run(place, task("test.fail@1", how="bad input"))
    styled = run(place, task("test.fail@1", how="styled"))
    assert isinstance(told, Failed)
    assert isinstance(styled, Failed)
    assert told.error["location"] == {"record": "seq7"}
    assert styled.error["hint"] == "use 8"


def test_the_traceback_is_in_the_log_only(place: Workplace) -> None:
    report = run(place, task("test.fail@1", how="value error"))
    assert isinstance(report, Failed)
    assert "Traceback" not in json.dumps(report.error)
    assert "Traceback" in lines(place)[-1]["message"]
    assert "second line" in lines(place)[-1]["message"]


@pytest.mark.parametrize(("size", "fits"), [(16 * 1024 - 2, True), (16 * 1024 - 1, False)])
def test_a_value_has_16_kib_at_most(place: Workplace, size: int, fits: bool) -> None:
    report = run(place, task("test.fail@1", how="value", size=size))
    if fits:
        assert isinstance(report, Succeeded)
        return
    assert isinstance(report, Failed)
    assert (report.cause, report.error["code"]) == (Cause.USER_ERROR, "value_too_large")
    assert report.error["location"] == {"path": "outputs.value"}


def test_a_flag_set_before_the_start_ends_the_attempt(place: Workplace) -> None:
    attempt = Attempt(task("test.work@1"), place, REGISTRY)
    attempt.cancel.set(Cause.CANCELLED)
    attempt.cancel.set(Cause.TIMEOUT)
    capture = ThreadCapture()
    report = attempt.run(capture, ThreadMeter())
    capture.close()
    assert isinstance(report, Failed)
    assert report.cause is Cause.CANCELLED


def test_python_output_goes_to_the_log_of_its_thread(
    place: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    run(place, task("test.print@1"))
    told = [(line["level"], line["message"]) for line in lines(place)]
    assert told == [("info", "from python"), ("warning", "a warning"), ("debug", "from the log")]
    print("not of the step")
    assert "not of the step" in capfd.readouterr().out


def test_checkpoints_are_found_by_identity(place: Workplace) -> None:
    first = RunningStep(task("test.add@1"), place, CancelFlag())
    (first.checkpoints / "state").write_text("1")
    first.close()
    later = RunningStep(task("test.add@1", attempt=2), place, CancelFlag())
    other = RunningStep(task("test.add@1", identity="sha256:2"), place, CancelFlag())
    assert (later.checkpoints / "state").read_text() == "1"
    assert list(other.checkpoints.iterdir()) == []


def test_two_attempts_never_share_a_checkpoint_folder(place: Workplace) -> None:
    first = RunningStep(task("test.add@1"), place, CancelFlag())
    second = RunningStep(task("test.add@1"), place, CancelFlag())
    assert first.checkpoints != second.checkpoints
    (first.checkpoints / "state").write_text("1")
    first.close()
    third = RunningStep(task("test.add@1"), place, CancelFlag())
    assert (third.checkpoints / "state").exists()


def test_checkpoints_go_when_the_result_is_committed(place: Workplace) -> None:
    given = task("test.count@1", to=2, seconds=0)
    attempt = Attempt(given, place, REGISTRY)
    capture = ThreadCapture()
    report = attempt.run(capture, ThreadMeter())
    capture.close()
    assert isinstance(report, Succeeded)
    assert attempt.step.checkpoints.exists()
    attempt.forget()
    assert list(place.checkpoints.iterdir()) == []


def test_metrics_are_points_and_survive_what_is_not_finite(place: Workplace) -> None:
    step = RunningStep(task("test.add@1"), place, CancelFlag())
    step.metrics({"loss": 0.5}, at=10)
    step.metrics({"loss": float("nan")})
    step.close()
    points = lines(place, "metrics")
    assert [(point["at"], point["values"]) for point in points] == [(10, {"loss": 0.5}), (2, {"loss": None})]
    assert step.metrics_offset == place.logs.path("r1", "fold[3]", 1, "metrics").stat().st_size


def test_progress_tells_only_what_is_new(place: Workplace) -> None:
    step = RunningStep(task("test.add@1"), place, CancelFlag())
    assert step.take_progress() is None
    for share in range(100):
        step.progress(share / 100, f"step {share}")
    step.progress(7.0)
    progress = step.take_progress()
    assert progress is not None
    assert (progress.fraction, progress.message) == (1.0, "step 99")
    assert step.take_progress() is None
    step.log("a line")
    after = step.take_progress()
    assert after is not None
    assert after.log_offset == step.log_offset > 0


def test_a_plan_is_told_once_and_stays_with_the_end(place: Workplace) -> None:
    step = RunningStep(task("test.add@1"), place, CancelFlag())
    step.held_bytes = lambda: 70
    noted: list[dict[str, Any]] = []
    step.note_plan = noted.append
    step.plan({"predicted_peak_bytes": 100, "options": {"chunk": 4}})
    told = step.take_progress()
    assert told is not None
    assert told.plan == {"process_bytes": 70, "predicted_peak_bytes": 100, "options": {"chunk": 4}}
    step.progress(0.5)
    later = step.take_progress()
    assert later is not None
    assert later.plan is None
    step.plan({"measured_peak_bytes": 120})
    assert step.planned == {**told.plan, "measured_peak_bytes": 120} == noted[-1]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"predicted_peak_bytes": 1.5}, "number of bytes, not 1.5"),
        ({"predicted_peak_bytes": -1}, "not -1"),
        ({"correction": 0}, "factor above 0"),
        ({"key": 3}, "key is a text"),
        ({"model": float("nan")}, "no JSON"),
        ({"model": "x" * (16 << 10)}, "16,384 are allowed"),
    ],
)
def test_a_plan_that_is_of_no_use_is_refused(place: Workplace, wrong: dict[str, Any], says: str) -> None:
    step = RunningStep(task("test.add@1"), place, CancelFlag())
    with pytest.raises(UserError, match=says):
        step.plan(wrong)
    assert step.planned is None


def test_corrections_come_with_the_task(place: Workplace) -> None:
    given = replace(task("test.add@1"), corrections={"": 1.2, "esmfold": 1.5})
    step = RunningStep(given, place, CancelFlag())
    assert (step.correction, step.corrections) == (1.2, {"esmfold": 1.5})
    plain = RunningStep(task("test.add@1"), place, CancelFlag())
    assert (plain.correction, plain.corrections) == (1.0, {})


def test_an_operator_gets_the_folder_of_weights_itself(place: Workplace, tmp_path: Path) -> None:
    folder = tmp_path / "public" / "esm"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"tensors")
    artifact = WeightsLibrary(folder.parent, place.home).read("esm")
    assert artifact is not None
    report = run(place, task("test.thrifty@1", weights=artifact.to_json()))
    assert isinstance(report, Succeeded)
    assert report.outputs["weights"] == str(folder)
    assert report.plan == {"predicted_peak_bytes": 0, "correction": 1.0}
    (folder / "model.safetensors").write_bytes(b"others")
    changed = run(place, task("test.thrifty@1", weights=artifact.to_json()))
    assert isinstance(changed, Failed)
    assert (changed.cause, changed.error["code"]) == (Cause.BAD_INPUT, "weights_changed")


def test_weights_that_a_step_made_come_from_the_store(place: Workplace, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"tensors")
    artifact = place.blobs.put_tree(folder, "weights", "made")
    report = run(place, task("test.thrifty@1", weights=artifact.to_json()))
    assert isinstance(report, Succeeded)
    assert "inputs/weights/made" in report.outputs["weights"]


def test_a_text_never_becomes_a_path(place: Workplace) -> None:
    report = run(place, task("test.thrifty@1", weights="/etc"))
    assert isinstance(report, Failed)
    assert (report.cause, report.error["code"]) == (Cause.BAD_INPUT, "type")


def test_a_log_without_end_is_cut(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_LOG_BYTES > 1 << 20
    monkeypatch.setattr("foldase.runtime.context.MAX_LOG_BYTES", 1000)
    step = RunningStep(task("test.add@1"), place, CancelFlag())
    for _ in range(100):
        step.log("x" * 100)
    written = lines(place)
    assert len(written) < 12
    assert "cut" in written[-1]["message"]


def test_two_outputs_may_bear_one_name_and_none_leaves_the_folder(place: Workplace) -> None:
    step = RunningStep(task("test.add@1"), place, CancelFlag())
    one, two = step.new_file("../../etc/passwd"), step.new_file("../../etc/passwd")
    assert one != two
    assert one.is_relative_to(step.scratch)
    assert os.sep not in one.name
    assert list(step.new_tree("tree").iterdir()) == []


def test_the_context_knows_its_resources_and_artifacts(place: Workplace) -> None:
    artifact = Artifact("sha256:" + "a" * 64, "file", 3, "a.txt")
    step = RunningStep(task("test.read@1", file=artifact.to_json()), place, CancelFlag())
    assert (step.cpus, step.memory_bytes, step.run, step.step, step.attempt) == (2, 5, "r1", "fold[3]", 1)
    assert step.artifact("file") == artifact
    with pytest.raises(KeyError):
        step.artifact("tree")
