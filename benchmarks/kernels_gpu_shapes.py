"""Shapes of the attention benchmark on a GPU, and the least time that an H200 can need for each."""

from __future__ import annotations

from dataclasses import dataclass

EXPONENTIALS_PER_SECOND = 132 * 1.83e9 * 16
"""132 multiprocessors at 1.83 GHz, 16 results of the exponential unit a cycle each."""

FLOP_PER_SECOND = 800e12
"""bf16 matrix products; 788e12 was measured with a large one."""

BYTES_PER_SECOND = 4.3e12
"""Measured with a copy on the device, bytes read and written."""

BF16_BYTES = 2
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 7
FORWARD_EXPONENTIALS, BACKWARD_EXPONENTIALS = 1, 2
FORWARD_TENSORS, BACKWARD_TENSORS = 4, 8
"""Tensors like q that move at least once: q, k, v, out; backward also dout, dq, dk, dv."""


@dataclass(frozen=True)
class Shape:
    """One call: ``rows`` rows of ``length`` positions share a pair bias ``[heads, length, length]``."""

    name: str
    rows: int
    heads: int
    length: int
    width: int

    @property
    def scores(self) -> int:
        """How many scores the call has; none of the fused kernels stores them."""
        return self.rows * self.heads * self.length**2

    @property
    def square(self) -> bool:
        """Triangle attention: as many rows as positions, which some peers demand."""
        return self.rows == self.length


@dataclass(frozen=True)
class Floor:
    """The least milliseconds by each resource."""

    products: float
    exponentials: float
    memory: float

    @property
    def ms(self) -> float:
        """The least time: the resources work side by side at best."""
        return max(self.products, self.exponentials, self.memory)


def floor(shape: Shape, mode: str) -> Floor:
    """The floor of ``"forward"``, or of ``"backward"`` alone: seven products and two exponentials a score."""
    forward = mode == "forward"
    products = FORWARD_PRODUCTS if forward else BACKWARD_PRODUCTS
    exponentials = FORWARD_EXPONENTIALS if forward else BACKWARD_EXPONENTIALS
    tensors = FORWARD_TENSORS if forward else BACKWARD_TENSORS
    biases = 1 if forward else 2
    flop = shape.scores * products * 2 * shape.width
    tensor_bytes = shape.rows * shape.length * shape.heads * shape.width * BF16_BYTES
    bias_bytes = shape.heads * shape.length**2 * BF16_BYTES
    return Floor(
        1e3 * flop / FLOP_PER_SECOND,
        1e3 * shape.scores * exponentials / EXPONENTIALS_PER_SECOND,
        1e3 * (tensors * tensor_bytes + biases * bias_bytes) / BYTES_PER_SECOND,
    )


SHAPES = (
    *(Shape(f"MSA rows {length}", 512, 8, length, 32) for length in (256, 512, 1024, 2048, 4096)),
    *(Shape(f"triangle {length}", length, 4, length, 32) for length in (256, 512, 1024, 2048, 4096)),
    Shape("diffusion 2048", 5, 16, 2048, 48),
)

REHEARSAL = (Shape("MSA rows 33", 4, 2, 33, 16), Shape("triangle 24", 24, 2, 24, 16))
"""Tiny shapes that run on the CPU in no time, to try the steps."""
