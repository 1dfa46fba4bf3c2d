"""Files of structures in a folder."""

from __future__ import annotations

from pathlib import Path

from foldase_workflows.contracts import BadInput, Location

ENDINGS = (".cif", ".mmcif", ".pdb", ".ent")
"""Of structure files; where a structure is there twice, the one that comes first here is taken."""


def structure_files(folder: Path, port: str) -> dict[str, Path]:
    """Files by the name of their structure, in the order of names, folders inside included.

    A structure in a folder of its own is called after the path: ``a/b.cif`` is ``a/b``.

    Raises:
        BadInput: ``no_structures``.
    """
    found: dict[str, Path] = {}
    for ending in ENDINGS:
        for path in sorted(folder.rglob(f"*{ending}")):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    if not found:
        raise BadInput(
            "the folder has no structures",
            code="no_structures",
            location=Location(path=f"with.{port}"),
            hint=f"files end in {', '.join(ENDINGS)}",
        )
    return dict(sorted(found.items()))
