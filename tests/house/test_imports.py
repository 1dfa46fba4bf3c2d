"""The house stays a house: imports go down the floors, never in circles, and answers never wait for torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {
    "foldase_web": ROOT / "web",
    "foldase": ROOT / "platform",
    "foldase_workflows": ROOT / "workflows",
    "foldase_models": ROOT / "science_models",
    "foldase_kernels": ROOT / "kernels",
}
FLOORS = ["foldase_kernels", "foldase_models", "foldase_workflows", "foldase", "foldase_web"]

MODELS = "foldase_models"
MAY_IMPORT = {
    "foldase_kernels": set(),
    "foldase_models.errors": set(),
    "foldase_models.layers": {"foldase_kernels"},
    "foldase_models.folding": {"foldase_models.layers", "foldase_kernels"},
    "foldase_models.language": {"foldase_models.layers", "foldase_kernels"},
    "foldase_models.multimodal": {"foldase_models.layers", "foldase_kernels"},
    "foldase_models.training": {"foldase_kernels"},
    "foldase_models.inference": {"foldase_models.training", "foldase_models.layers", "foldase_kernels"},
    "foldase_models.compression": {"foldase_models.training", "foldase_models.layers", "foldase_kernels"},
    "foldase_models.preference": {"foldase_models.training", "foldase_models.layers", "foldase_kernels"},
    "foldase_models.planning": {
        "foldase_models.folding.options",
        "foldase_models.layers.dims",
        "foldase_models.layers.structure_dims",
        "foldase_models.training.optim.policies",
    },
    "foldase_models.metrics": {"foldase_models.layers.residues", "foldase_models.layers.residue_bonds"},
    "foldase_models.coevolution": set(),
    "foldase_models.injection": {
        "foldase_models.folding",
        "foldase_models.language",
        "foldase_models.multimodal",
        "foldase_models.layers",
        "foldase_kernels",
    },
    "foldase_models.recipes": {MODELS, "foldase_kernels"},
    "foldase_workflows.contracts": set(),
    "foldase_workflows.spec": {"foldase_workflows.contracts"},
    "foldase_workflows.formats": {"foldase_workflows.contracts"},
    "foldase_workflows.launch": {"foldase_workflows.contracts"},
    "foldase_workflows.operators": {
        "foldase_workflows.contracts",
        "foldase_workflows.formats",
        "foldase_models.planning",
    },
    "foldase.store": {"foldase_workflows.contracts", "foldase_workflows.spec"},
    "foldase.scheduler": {"foldase.store", "foldase_workflows.spec", "foldase_workflows.contracts"},
    "foldase.runtime": {
        "foldase.store",
        "foldase.scheduler",
        "foldase_workflows.spec",
        "foldase_workflows.contracts",
        "foldase_workflows.formats",
    },
    "foldase.cli": {
        "foldase.client",
        "foldase_workflows.spec",
        "foldase_workflows.contracts",
        "foldase_workflows.formats",
    },
    "foldase.client": {
        "foldase_workflows.spec",
        "foldase_workflows.contracts",
        "foldase_workflows.formats",
    },
    "foldase_web": {
        "foldase.store",
        "foldase.scheduler",
        "foldase_workflows.spec",
        "foldase_workflows.contracts",
        "foldase_workflows.formats",
    },
}
"""Room -> rooms it may import, after the table of the design; a room may always import itself and errors."""

TAKE_CONFIGS = {"foldase_models.planning", "foldase_workflows.operators"}
"""Rooms that may import any model's ``config.py``, which is free of torch: a plan is made from one."""

THIRD_PARTY = {
    "foldase_kernels": {"torch", "triton", "numpy"},
    "foldase_models": {"torch", "numpy", "safetensors"},
    "foldase_workflows.contracts": {"pydantic", "pydantic_core", "annotated_types"},
}
"""Rooms that must run on a bare machine, and what they may find there."""

ANSWERING = [
    "foldase_web.app",
    "foldase_web.main",
    "foldase.cli.main",
    "foldase.client",
    "foldase.store",
    "foldase.scheduler",
    "foldase_workflows.spec",
    "foldase_workflows.formats",
    "foldase_workflows.operators",
    "foldase_models.planning",
]
"""Modules that answer a person, directly or by being imported."""


@dataclass(frozen=True)
class Import:
    """One import statement of one file, reduced to the module it loads."""

    importer: str
    target: str
    line: int
    top_level: bool


@cache
def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, root in SOURCE_ROOTS.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, bool]]:
    pending: list[tuple[ast.AST, bool]] = [(node, True) for node in tree.body]
    while pending:
        node, top_level = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, top_level
        inside = top_level and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = inside and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        pending += [(child, inside) for child in ast.iter_child_nodes(node)]


@cache
def imports() -> tuple[Import, ...]:
    found: list[Import] = []
    for name, path in modules().items():
        for statement, top_level in _statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(statement, ast.Import):
                targets = [alias.name for alias in statement.names]
            else:
                assert isinstance(statement, ast.ImportFrom)
                assert statement.level == 0, f"{path}:{statement.lineno}: relative import"
                base = statement.module or ""
                targets = [
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base
                    for alias in statement.names
                ]
            found += [Import(name, target, statement.lineno, top_level) for target in sorted(set(targets))]
    return tuple(found)


def room_of(module: str) -> str | None:
    """The longest room that holds the module."""
    holding = [room for room in MAY_IMPORT if module == room or module.startswith(room + ".")]
    return max(holding, key=len, default=None)


def _ours(module: str) -> bool:
    return module.split(".")[0] in SOURCE_ROOTS


def _where(edge: Import) -> str:
    place = modules()[edge.importer].relative_to(ROOT) if edge.importer in modules() else "planted"
    return f"{place}:{edge.line}: {edge.importer} imports {edge.target}"


def upward(edges: Iterable[Import]) -> list[str]:
    """Imports of a floor above the importer's own."""
    return [
        _where(edge)
        for edge in edges
        if _ours(edge.target)
        and FLOORS.index(edge.target.split(".")[0]) > FLOORS.index(edge.importer.split(".")[0])
    ]


def outside_the_table(edges: Iterable[Import]) -> list[str]:
    """Imports between rooms that the table of the design does not list."""
    wrong = []
    for edge in edges:
        room = room_of(edge.importer)
        if room is not None and _ours(edge.target) and not _allowed(edge, room):
            wrong.append(_where(edge))
    return wrong


def _allowed(edge: Import, room: str) -> bool:
    allowed = MAY_IMPORT[room] | {room, "foldase_models.errors"}
    if edge.target in {"foldase_workflows", "foldase", MODELS} or edge.target == room:
        return True
    if room in TAKE_CONFIGS and edge.target.endswith(".config"):
        return True
    if room == "foldase_workflows.operators" and not edge.top_level and edge.target.startswith(MODELS):
        return True
    return any(edge.target == name or edge.target.startswith(name + ".") for name in allowed)


def circle(edges: Iterable[Import]) -> list[str]:
    """The modules of one import circle, or nothing."""
    graph: dict[str, set[str]] = {}
    for edge in edges:
        if _ours(edge.target) and edge.target != edge.importer:
            graph.setdefault(edge.importer, set()).add(edge.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def ray_outside_the_runtime(edges: Iterable[Import]) -> list[str]:
    """Imports of Ray anywhere but in the one room that may."""
    return [
        _where(edge)
        for edge in edges
        if edge.target.split(".")[0] == "ray" and not edge.importer.startswith("foldase.runtime.")
    ]


def foreign(edges: Iterable[Import]) -> list[str]:
    """Imports of third-party packages by rooms that must do without them."""
    wrong = []
    for edge in edges:
        first = edge.target.split(".")[0]
        if _ours(edge.target) or first in sys.stdlib_module_names:
            continue
        for room, allowed in THIRD_PARTY.items():
            inside = edge.importer == room or edge.importer.startswith(room + ".")
            if inside and first not in allowed:
                wrong.append(_where(edge))
    return wrong


def test_imports_go_down_the_floors_only() -> None:
    assert not upward(imports())


def test_rooms_import_only_what_the_design_allows() -> None:
    assert not outside_the_table(imports())


def test_every_module_lies_in_a_room_of_the_design() -> None:
    homeless = [name for name in modules() if room_of(name) is None and name not in SOURCE_ROOTS]
    assert not homeless, f"no room of the design holds {homeless}"


def test_no_import_circles_lazy_and_type_only_imports_included() -> None:
    assert not circle(imports())


def test_only_the_runtime_imports_ray() -> None:
    assert not ray_outside_the_runtime(imports())


def test_bare_rooms_need_no_more_than_they_may() -> None:
    assert not foreign(imports())


def test_every_guard_catches_what_it_guards_against() -> None:
    def planted(importer: str, target: str) -> list[Import]:
        return [Import(importer, target, 1, top_level=True)]

    assert upward(planted("foldase_workflows.spec.loader", "foldase.store"))
    assert outside_the_table(planted("foldase.scheduler.decide", "foldase.runtime.cluster"))
    assert outside_the_table(planted("foldase_workflows.operators.report", "foldase_models.folding.contacts"))
    assert circle(planted("foldase.a", "foldase.b") + planted("foldase.b", "foldase.a"))
    assert ray_outside_the_runtime(planted("foldase.scheduler.decide", "ray.util"))
    assert foreign(planted("foldase_models.layers.attention", "scipy"))


def test_what_answers_a_person_loads_neither_torch_nor_ray() -> None:
    """One process for all: what a module loads stays loaded, so the first that loads too much is named."""
    probe = (
        "import importlib, sys\n"
        "from foldase_workflows.contracts import default_registry\n"
        f"for module in {ANSWERING!r}:\n"
        "    importlib.import_module(module)\n"
        "    default_registry()\n"
        "    heavy = {name.split('.')[0] for name in sys.modules} & {'torch', 'ray', 'triton'}\n"
        "    assert not heavy, f'{module} loads {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
