"""What an exception of an operator means: its typed cause, and an error that a person can read.

torch is never imported here; its out-of-memory errors are told by class name and text.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from foldase_workflows.contracts.errors import (
    BadInput,
    Cancelled,
    Damaged,
    DocumentErrors,
    FoldaseError,
    Location,
    NotFound,
    StorageFull,
    Unavailable,
    Unsatisfiable,
)
from foldase_workflows.contracts.failures import Cause

Json = dict[str, Any]

MAX_MESSAGE = 500
"""Characters of an error's message; the log has the rest."""

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_GPU_MEMORY = re.compile(r"(CUDA|HIP|XPU|MPS)[^\n]*out of memory|cublas.*ALLOC_FAILED", re.IGNORECASE)
_HOST_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Cannot allocate memory|Unable to allocate"
)
_CAUSES: tuple[tuple[type[FoldaseError], Cause], ...] = (
    (BadInput, Cause.BAD_INPUT),
    (DocumentErrors, Cause.BAD_INPUT),
    (Unsatisfiable, Cause.BAD_INPUT),
    (Cancelled, Cause.CANCELLED),
    (StorageFull, Cause.INFRASTRUCTURE),
    (Damaged, Cause.INFRASTRUCTURE),
    (Unavailable, Cause.INFRASTRUCTURE),
)


class GangLost(FoldaseError):
    """The processes of a gang were lost too often; ``cause`` says how the last one ended."""

    def __init__(self, cause: Cause, how: str, *, lives: int) -> None:
        if cause is Cause.OOM_HOST:
            hint = "ask for more memory for each rank, or make the step smaller"
        else:
            hint = "the log of the step has the last words of the ranks"
        times = f"{lives} times" if lives > 1 else "once"
        super().__init__(f"the gang was lost {times}: {how}", code=str(cause), hint=hint)
        self.cause = cause


def explain(error: BaseException, *, inputs: Path | None = None) -> tuple[Cause, Json]:
    """The cause of a failed attempt and its error as ``{code, message, location?, hint?}``.

    Args:
        error: what the operator raised.
        inputs: the folder of the materialised inputs; a file missing there is the input's fault.
    """
    memory = _out_of_memory(error)
    if memory is not None:
        return memory
    if isinstance(error, GangLost):
        return error.cause, error.to_json()
    if isinstance(error, FoldaseError):
        cause = next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.USER_ERROR)
        return cause, error.to_json()
    if isinstance(error, OSError):
        return _system(error, inputs)
    if isinstance(error, ValueError) and isinstance(getattr(error, "code", None), str):
        return Cause.BAD_INPUT, _with_fields(error)
    if isinstance(error, ImportError):
        return Cause.USER_ERROR, _plain(error, "import_failed", hint="the workers lack a package")
    return Cause.USER_ERROR, _plain(error, "exception", hint="the log of the step has the traceback")


def missing_input(error: NotFound | FileNotFoundError, port: str, step: str) -> BadInput:
    """The fault of an input whose bytes are not in the store any more."""
    detail = error.message if isinstance(error, NotFound) else first_line(error)
    return BadInput(
        f"the file given at {port!r} has vanished: {detail}",
        code="missing_file",
        location=Location(path=port_path(step, port)),
        hint="upload it again, or run the step that made it with `cache: refresh`",
    )


def port_path(step: str, port: str) -> str:
    """Where a document gives a port its value: ``steps.NAME.with.PORT``."""
    return f"steps.{step.partition('[')[0]}.with.{port}"


def first_line(error: BaseException) -> str:
    """The first line of an exception that says something, with its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    return _shortened(f"{kind}: {lines[0]}" if lines else kind)


def _out_of_memory(error: BaseException) -> tuple[Cause, Json] | None:
    kind, text = type(error).__name__, str(error)
    # torch names its device error OutOfMemoryError; its allocator for the host raises a RuntimeError.
    runtime = isinstance(error, RuntimeError)
    if runtime and (kind in ("OutOfMemoryError", "AcceleratorError") or _GPU_MEMORY.search(text)):
        if kind != "AcceleratorError" or _GPU_MEMORY.search(text):
            return Cause.OOM_GPU, _plain(
                error, "oom_gpu", hint="lower the batch or the crop, or retry with less"
            )
        return None
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or full or (runtime and _HOST_MEMORY.search(text)):
        return Cause.OOM_HOST, _plain(error, "oom_host", hint="the step needs more memory than is free")
    return None


def _system(error: OSError, inputs: Path | None) -> tuple[Cause, Json]:
    if error.errno in _DISK_FULL:
        return Cause.INFRASTRUCTURE, StorageFull(
            f"the disk is full: {first_line(error)}", hint="free some space and try again"
        ).to_json()
    if isinstance(error, FileNotFoundError) and inputs is not None and _below(error.filename, inputs):
        name = Path(error.filename).name
        return Cause.BAD_INPUT, BadInput(f"the input file {name} has vanished", code="missing_file").to_json()
    return Cause.USER_ERROR, _plain(error, "exception", hint="the log of the step has the traceback")


def _below(filename: object, folder: Path) -> bool:
    return isinstance(filename, str) and Path(filename).is_relative_to(folder)


def _with_fields(error: ValueError) -> Json:
    """An error of the models' floor, which carries our four fields without being of our tree."""
    described: Json = {
        "code": getattr(error, "code", "bad_input"),
        "message": _shortened(str(getattr(error, "message", None) or error)),
    }
    location, hint = getattr(error, "location", None), getattr(error, "hint", None)
    if location:
        described["location"] = location if isinstance(location, dict) else {"record": str(location)}
    if hint:
        described["hint"] = str(hint)
    return described


def _plain(error: BaseException, code: str, *, hint: str) -> Json:
    return {"code": code, "message": first_line(error), "hint": hint}


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 4] + " ..."
