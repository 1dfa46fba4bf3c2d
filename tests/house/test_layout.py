"""Files that would break the house if they came to exist, and sizes that would blur its rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 500
FUNCTION_LINES = 60


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_hides_the_standard_library_platform() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_standard_library_platform_wins_at_the_root_of_the_checkout() -> None:
    probe = "import platform; assert platform.system(), platform.__file__"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, timeout=60)


def test_files_hold_one_idea_each() -> None:
    long = {}
    for path in _tracked("*.py", "*.ts", "*.tsx", "*.cu", "*.cuh"):
        generated = path.name.endswith(".gen.ts")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES and not generated:
            long[str(path.relative_to(ROOT))] = lines
    assert not long, f"split by meaning: {long}"


def _is_triton_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "triton.jit" for decorator in node.decorator_list)


def test_functions_fit_on_a_screen() -> None:
    long = {}
    for path in _tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                last = node.end_lineno or node.lineno
                lines = last - node.lineno + 1
                if lines > FUNCTION_LINES and _is_triton_kernel(node):
                    # It takes no structures, so its arguments alone fill a third of a screen.
                    lines = last - node.body[0].lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    assert not long, f"split: {long}"
