"""A mean over ranks of which one bit a number travels each way (Tang et al. 2021, arXiv:2102.02888).

With error feedback in two places: a rank keeps what its bits do not say of its own values, and of the means
that it computes for the others, and adds both to what it sends next. What was sent and what is kept is
together what was given. Numbers share scales in blocks, the mean of magnitudes in each (Karimireddy et al.
2019, arXiv:1901.09847, section 3).
"""

from __future__ import annotations

import torch

from foldase_kernels.sign_pack import block_count, decode_, encode_, pack_mask_
from foldase_models.training.collectives import Pending
from foldase_models.training.surroundings import Surroundings

ERRORS, MESSAGES = "compression errors", "messages"
"""Owners in the ledger."""
_SCALE_BYTES = 4


class CompressedMean:
    """The means of one vector after the other, all of one length and for the same coordinates.

    A mean goes: :meth:`begin`, :meth:`turn_round`, :meth:`end`. Other vectors' may go on meanwhile. All
    numbers must be finite on all ranks, which they have to agree on before.

    Attributes:
        worker_error: what this rank has not sent of its own values, [numel] float32.
        server_error: what it has not sent of the means of its own chunk, [numel / ranks] float32.
    """

    def __init__(self, name: str, numel: int, surroundings: Surroundings) -> None:
        """Begin without errors.

        Args:
            name: of the vector, for the names of operations.
            numel: its length, a multiple of 8 times the number of ranks.
            surroundings: collectives, ledger, and the block of the configuration.
        """
        self._name, self._collectives = name, surroundings.collectives
        self._block = surroundings.config.optimizer.compression.block
        self._ranks = surroundings.collectives.ranks
        self._chunk = numel // self._ranks.size
        ledger = surroundings.ledger
        self.worker_error = ledger.zeros("device", ERRORS, numel, torch.float32)
        self.server_error = ledger.zeros("device", ERRORS, self._chunk, torch.float32)
        self._mask = ledger.zeros("device", MESSAGES, numel // 8, torch.uint8)
        self._scales = block_count(self._chunk, self._block) * _SCALE_BYTES
        bits = -(-self._chunk // 8 // _SCALE_BYTES) * _SCALE_BYTES
        shape = (self._ranks.size, self._scales + bits)
        self._sent = ledger.zeros("device", MESSAGES, shape[0] * shape[1], torch.uint8).view(shape)
        self._received = ledger.zeros("device", MESSAGES, shape[0] * shape[1], torch.uint8).view(shape)
        self._travelling: Pending | None = None

    def send_where(self, known: torch.Tensor) -> None:
        """From now on only coordinates travel that are not 0 in ``known`` [numel], the same on all ranks."""
        pack_mask_(known, self._mask)

    @torch.no_grad()
    def begin(self, values: torch.Tensor) -> None:
        """Send each rank its chunk of values [numel] float32, which may be changed at once."""
        for rank in range(self._ranks.size):
            bits, scales = self._parts(self._sent[rank])
            own = self._chunk_of(rank)
            encode_(
                values[own],
                self.worker_error[own],
                bits,
                scales,
                mask=self._mask_of(rank),
                block=self._block,
            )
        self._travelling = self._collectives.all_to_all(
            f"signs of {self._name}", self._received.view(-1), self._sent.view(-1)
        )

    @torch.no_grad()
    def turn_round(self) -> None:
        """Send everyone the mean of this rank's chunk."""
        self._arrive()
        ranks, own = self._ranks.size, self._ranks.rank
        mean = torch.empty_like(self.server_error)
        for rank in range(ranks):
            bits, scales = self._parts(self._received[rank])
            decode_(
                bits,
                scales,
                mean,
                mask=self._mask_of(own),
                weight=1.0 / ranks,
                add=rank > 0,
                block=self._block,
            )
        bits, scales = self._parts(self._received[own])
        encode_(mean, self.server_error, bits, scales, mask=self._mask_of(own), block=self._block)
        self._travelling = self._collectives.all_gather(
            f"signs of the mean of {self._name}", self._received.view(-1), self._received[own]
        )

    @torch.no_grad()
    def end(self, into: torch.Tensor) -> None:
        """Write the mean into a vector [numel] float32, bit for bit the same on all ranks.

        0 where nothing travels.
        """
        self._arrive()
        for rank in range(self._ranks.size):
            bits, scales = self._parts(self._received[rank])
            decode_(
                bits,
                scales,
                into[self._chunk_of(rank)],
                mask=self._mask_of(rank),
                block=self._block,
            )

    def _arrive(self) -> None:
        assert self._travelling is not None
        self._travelling.wait()
        self._travelling = None

    def _parts(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bits and scales of one chunk in a message."""
        bits = row[self._scales : self._scales + self._chunk // 8]
        return bits, row[: self._scales].view(torch.float32)

    def _chunk_of(self, rank: int) -> slice:
        return slice(rank * self._chunk, (rank + 1) * self._chunk)

    def _mask_of(self, rank: int) -> torch.Tensor:
        return self._mask[rank * self._chunk // 8 : (rank + 1) * self._chunk // 8]
