"""What a process may use. Operators translate what the platform offers."""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.errors import ModelError

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Memory by tier and what computes; a tier of 0 bytes is not there.

    Attributes:
        ram_bytes: main memory that this process may take, all that it holds already included.
        cores: of the CPU.
        gpu_bytes: memory of the one GPU that computes; 0 means that the CPU does.
        gpu_name: for people.
        disk_bytes: room on the disk that a training may use; 0 means that there is none.
        pinned_bytes: of main memory, how much may be pinned for a GPU to copy from; 0 means all of it.
        link_bandwidth: between main memory and what computes, bytes a second in one direction.
        disk_bandwidth: of reading and writing together, bytes a second.
        network_bandwidth: between two ranks, bytes a second in one direction.
    """

    ram_bytes: int
    cores: float = 1.0
    gpu_bytes: int = 0
    gpu_name: str = ""
    disk_bytes: int = 0
    pinned_bytes: int = 0
    link_bandwidth: float = 0.0
    disk_bandwidth: float = 0.0
    network_bandwidth: float = 0.0

    def __post_init__(self) -> None:
        least = min(self.gpu_bytes, self.disk_bytes, self.pinned_bytes, *self.bandwidths())
        if self.ram_bytes <= 0 or self.cores <= 0 or least < 0:
            raise ModelError(
                f"expected main memory and cores above 0 and no tier below; found {self}", code="bad_hardware"
            )

    @property
    def computes_on(self) -> str:
        """``"gpu"`` or ``"cpu"``."""
        return "gpu" if self.gpu_bytes else "cpu"

    def tiers(self) -> dict[str, int]:
        """Bytes by name."""
        pinned = self.pinned_bytes or self.ram_bytes
        return {"gpu": self.gpu_bytes, "pinned": pinned, "ram": self.ram_bytes, "disk": self.disk_bytes}

    def bandwidths(self) -> tuple[float, float, float]:
        """Of link, disk and network, bytes a second; 0 where nothing was said."""
        return self.link_bandwidth, self.disk_bandwidth, self.network_bandwidth


def gibibytes(size: float) -> str:
    """For people: ``"1.83 GiB"``, below a tenth of one ``"29.0 MiB"``."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"
