"""What operations there are and where their sources lie. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of this package.

    Attributes:
        name: of the public function.
        folder: in this package and, for compiled sources, in ``csrc``.
        backends: implementations that exist, the definition first.
        summary: in a few words.
        runs_on: what its compiled backend is built for: GPUs, or the processor as the architecture ``host``.
    """

    name: str
    folder: str
    backends: tuple[str, ...]
    summary: str
    runs_on: Literal["gpu", "cpu"] = "gpu"


OPERATIONS = (
    Operation(
        name="evoformer_attention",
        folder="attention",
        backends=("reference", "cpu", "triton", "cuda"),
        summary="attention with trainable biases, mask, gate and log-sum-exp",
    ),
    Operation(
        name="outer_product_mean",
        folder="outer_product_mean",
        backends=("reference", "cpu", "triton"),
        summary="outer products to pair channels",
    ),
    Operation(
        name="transition",
        folder="transition",
        backends=("reference", "cpu", "triton"),
        summary="two-layer network, its hidden layer in tiles",
    ),
    Operation(
        name="triangle_multiplication",
        folder="triangle_multiplication",
        backends=("reference", "cpu", "triton"),
        summary="gated update of pairs along triangles, fused or in place",
    ),
    Operation(
        name="adamw_",
        folder="adam",
        backends=("reference", "torch", "cpp"),
        summary="AdamW step of flat vectors in main memory, also with bfloat16 gradients and weights",
        runs_on="cpu",
    ),
    Operation(
        name="encode_",
        folder="sign_pack",
        backends=("reference", "torch", "triton"),
        summary="flat vectors as sign bits and scales, with the error of it; and back",
    ),
)

SOURCE_SUFFIXES = (".cu", ".cuh", ".cpp", ".h")


def source_folder() -> Path | None:
    """The folder of the compiled sources: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "csrc", package.parent / "csrc"):
        if folder.is_dir():
            return folder
    return None


def sources(operation: Operation) -> list[Path]:
    """The compiled sources of an operation, sorted; none where it has no compiled backend."""
    folder = source_folder()
    if folder is None:
        return []
    found = (folder / operation.folder).glob("*")
    return sorted(path for path in found if path.suffix in SOURCE_SUFFIXES)
