"""What a forward pass may do to save memory; chosen by the planner. Importable without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

DType = Literal["float32", "bfloat16", "float16"]
Backend = Literal["auto", "reference", "cpu", "triton", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOptions:
    """Results are the same for all of them but for rounding; ``dtype`` rounds most.

    Attributes:
        dtype: of weights and representations.
        backend: of the kernels.
        group_bytes: of a representation that layers taken in groups of rows hold at a time: the chunk, by
            which the scratch of kernels on the CPU is scaled too. A model puts
            ``layers.working_set(options.group_bytes)`` around its forward pass.
        inplace: overwrite representations instead of making new ones; inference only.
        checkpoint: keep only the arguments of each block for the backward pass; training only.
        offload_pair: keep the pair representation of the last recycle away from the device. Changes nothing
            in the models there are: a pass begins over the pairs of the last one, so none is left to keep.
        offload_weights: hold the weights of one block at a time; the others wait on disk (ESMFold) or in
            main memory (AlphaFold, with a GPU).
    """

    dtype: DType = "float32"
    backend: Backend = "auto"
    group_bytes: int = 2**20
    inplace: bool = True
    checkpoint: bool = False
    offload_pair: bool = False
    offload_weights: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
