"""Documents that lie in files."""

from __future__ import annotations

from pathlib import Path

from foldase_workflows.contracts.errors import DocumentError, DocumentErrors, Location, NotFound, TooLarge
from foldase_workflows.spec.limits import MAX_BYTES
from foldase_workflows.spec.quantities import show_bytes


def read_document(path: Path) -> str:
    """The text of a document file, never reading more than the limit.

    Raises:
        NotFound: ``file_missing``.
        TooLarge: ``body_too_large``.
        DocumentErrors: ``bad_characters`` where the file is no UTF-8 text, with line and column.
    """
    location = Location(file=str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        size = path.stat().st_size
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise NotFound(message, code="file_missing", location=location, hint="check the path") from None
    if len(data) > MAX_BYTES:
        message = f"the document is too large: limit {show_bytes(MAX_BYTES)}, got {show_bytes(size)}"
        hint = "give data as files, not inside the document"
        raise TooLarge(message, code="body_too_large", location=location, hint=hint)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        place = Location(file=str(path), line=line, column=column)
        message = f"the file is no UTF-8 text: byte 0x{data[error.start]:02x}"
        hint = "save it as UTF-8"
        fault = DocumentError(message, code="bad_characters", location=place, hint=hint)
        raise DocumentErrors([fault]) from None
