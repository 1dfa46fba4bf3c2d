"""What a process may use. Operators translate what the platform offers."""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.errors import ModelError

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Memory by tier and what computes; a tier of 0 bytes is not there.

    Attributes:
        ram_bytes: main memory that this process may take, all that it holds already included.
        cores: of the CPU.
        gpu_bytes: memory of the one GPU that computes; 0 means that the CPU does.
        gpu_name: for people.
    """

    ram_bytes: int
    cores: float = 1.0
    gpu_bytes: int = 0
    gpu_name: str = ""

    def __post_init__(self) -> None:
        if self.ram_bytes <= 0 or self.cores <= 0 or self.gpu_bytes < 0:
            raise ModelError(
                f"expected main memory and cores above 0 and no tier below; found {self}", code="bad_hardware"
            )

    @property
    def computes_on(self) -> str:
        """``"gpu"`` or ``"cpu"``."""
        return "gpu" if self.gpu_bytes else "cpu"

    def tiers(self) -> dict[str, int]:
        """Bytes by name."""
        return {"gpu": self.gpu_bytes, "ram": self.ram_bytes}


def gibibytes(size: float) -> str:
    """For people: ``"1.83 GiB"``."""
    return f"{size / GIB:.2f} GiB"
