"""Steps over many records: what a record that failed means for the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foldase_workflows.contracts import BadInput, StepContext

_NAMED = 10
"""Records that an error names; of the others it tells the number."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a GPU."""
    text = str(error).lower()
    said = any(words in text for words in ("out of memory", "not enough memory", "can't allocate memory"))
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or said


def without_frames(error: BaseException) -> BaseException:
    """The error without the frames it came through, which would keep what they hold in memory."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def let_go() -> None:
    """Give back what a record that ran out of memory left behind; call it when its error was handled."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def may_fail(failed: int, total: int, allowed: float) -> bool:
    """Whether no more failed than the share that may; 29 of 100 do where 0.29 may, however that rounds."""
    return failed <= math.floor(allowed * total + 1e-9)


def check_failures(
    failed: Sequence[tuple[str, BaseException]],
    total: int,
    context: StepContext,
    *,
    allowed: float,
    may_try_again: bool,
) -> None:
    """Tell what failed, and end the step where records are missing that may not be.

    Args:
        failed: names and errors of records; names may repeat.
        total: records in all.
        context: for the log.
        allowed: share of records that may fail; a step without any finished record always fails.
        may_try_again: whether a more frugal plan is left for those that ran out of memory.

    Raises:
        BadInput: more failed than may.
        MemoryError, RuntimeError: one ran out of memory, and may be tried again.
    """
    for name, error in failed:
        context.log(f"record {name}: {error}", level="error")
    for _, error in failed:
        if not isinstance(error, BadInput) and may_try_again:
            raise error
    enough = len(failed) < total and may_fail(len(failed), total, allowed)
    if not failed or enough:
        return
    first = failed[0][1]
    if total == 1 or not isinstance(first, BadInput):
        raise first
    codes = [getattr(error, "code", "out_of_memory") for _, error in failed]
    named = ", ".join(f"{name} ({code})" for (name, _), code in zip(failed[:_NAMED], codes, strict=False))
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    rest = total - len(failed)
    kept = f"; with allow_failures the {rest} others are handed on without these" if rest else ""
    raise BadInput(
        f"{len(failed)} of {total} records failed: {named}{more}; the first: {first.message}",
        code=first.code if len(set(codes)) == 1 else "records_failed",
        location=first.location,
        hint=f"{first.hint or 'see the log'}{kept}",
    )
